"""Changes to outside systems: the rows, the connectors that reach the targets, and what came of each.

The rows are walled (migrations/sql/0001/60_writebacks.sql): a writeback is immutable, and only an approved one can be
claimed. Proposing happens in approvals, which writes the writeback and opens its approval in one transaction.
"""

from app.writebacks.actions import Written, payload_of, write
from app.writebacks.api import router
from app.writebacks.book import StillReading, age_s, reading
from app.writebacks.connectors_api import router as connecting
from app.writebacks.queries import Writeback, of_mission, one, tally

__all__ = [
    "StillReading",
    "Writeback",
    "Written",
    "age_s",
    "connecting",
    "of_mission",
    "one",
    "payload_of",
    "reading",
    "router",
    "tally",
    "write",
]
