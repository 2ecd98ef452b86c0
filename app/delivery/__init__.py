"""Facts outward: pages, long polls and streams of the ledger. (Webhooks and a message bus join here.)"""

from app.delivery.api import router
from app.delivery.tail import Tail

__all__ = ["Tail", "router"]
