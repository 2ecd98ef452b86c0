"""The one record: append-only facts, one hash chain per subject.

Every verb records what it did in the transaction that did it, so audit, events, streams and metrics read one table.
A fact carries ids, states, hashes and small typed fields; never a user's text, a payload or evidence.
"""

from app.ledger.actions import FACTS, record
from app.ledger.queries import Fact, Position, fact_view, facts, horizon, known
from app.ledger.verify import Verdict, verify

__all__ = ["FACTS", "Fact", "Position", "Verdict", "fact_view", "facts", "horizon", "known", "record", "verify"]
