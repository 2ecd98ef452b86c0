"""One command that runs everything on one machine: PostgreSQL, the root, the colony and the sample CRM.

`folder` is what is remembered between two runs (lock, ports, secrets), `plan` says as data which processes there are
and what each may know, `watch` keeps them alive and stops them, `instance` puts the three together.
"""

from app.embedded import CannotStart
from app.supervisor.instance import Instance, running, until_signalled

__all__ = ["CannotStart", "Instance", "running", "until_signalled"]
