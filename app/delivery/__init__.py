"""Facts outward: pages, long polls and streams of the ledger, and webhooks. (A message bus joins here.)"""

from app.delivery.api import router
from app.delivery.tail import Tail
from app.delivery.webhooks import Courier
from app.delivery.webhooks import router as webhooks

__all__ = ["Courier", "Tail", "router", "webhooks"]
