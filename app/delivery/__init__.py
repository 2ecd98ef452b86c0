"""Facts outward: pages, long polls and streams of the ledger, webhooks, and the message bus."""

from app.delivery import bus
from app.delivery.api import router
from app.delivery.rights import Rights
from app.delivery.tail import Tail
from app.delivery.webhooks import Courier
from app.delivery.webhooks import router as webhooks

__all__ = ["Courier", "Rights", "Tail", "bus", "router", "webhooks"]
