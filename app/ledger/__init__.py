"""The one record: append-only facts, one hash chain per subject.

Every verb records what it did in the transaction that did it, so audit, events, streams and metrics read one table.
A fact carries ids, states, hashes and small typed fields; never a user's text, a payload or evidence.
"""

from app.ledger.actions import FACTS, Told, fact, record, tell
from app.ledger.anchors import Anchorer, Broken, overdue
from app.ledger.api import inside_of, router
from app.ledger.keys import Keyring, Signer, keyring, public_text, signer
from app.ledger.proof import Proof, prove
from app.ledger.queries import Fact, Position, at_positions, ends_of, fact_view, facts, known
from app.ledger.store import Store, open_store
from app.ledger.verify import Verdict, audit, verify
from app.ledger.wiring import component, look, reading_side, signing_side

__all__ = [
    "FACTS",
    "Anchorer",
    "Broken",
    "Fact",
    "Keyring",
    "Position",
    "Proof",
    "Signer",
    "Store",
    "Told",
    "Verdict",
    "at_positions",
    "audit",
    "component",
    "ends_of",
    "fact",
    "fact_view",
    "facts",
    "inside_of",
    "keyring",
    "known",
    "look",
    "open_store",
    "overdue",
    "prove",
    "public_text",
    "reading_side",
    "record",
    "router",
    "signer",
    "signing_side",
    "tell",
    "verify",
]
