"""A whole root inside the test process: real apps, real Postgres, and a colony that does what a test tells it.

Requests go through ASGI, work is done when a test says so (`run_work`), and time-outs are the only thing left out.
Tests of processes, kills and real HTTP live in tests/walks.
"""

import structlog

from app.telemetry import PROCESSORS
from tests.world.colony import ScriptedColony
from tests.world.world import KEYS, Person, World

__all__ = ["KEYS", "Person", "ScriptedColony", "World"]

# The service's own log lines, from warnings on, on the stderr that pytest keeps for failures.
structlog.configure(processors=PROCESSORS, wrapper_class=structlog.make_filtering_bound_logger(30))
