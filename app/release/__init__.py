"""Release: four gates computed from evidence, the rollout ladder they open, and verdicts between environments.

`gates.py` is the table of what has to be so; `looks.py` reads the rows that tell; `judge.py` weighs their age. People who present
their secrets enable and lower rungs and attest what nothing computes; the service itself only lowers.
"""

from app.release.actions import review
from app.release.api import probe, router
from app.release.around import probe_from_outside
from app.release.papers_api import router as papers
from app.release.verdicts import Sides

__all__ = ["Sides", "papers", "probe", "probe_from_outside", "review", "router"]
