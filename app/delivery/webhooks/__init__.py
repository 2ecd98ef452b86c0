"""Webhooks: facts delivered to addresses of a tenant's choice, signed as Standard Webhooks says, from the reading cursor."""

from app.delivery.webhooks.api import router
from app.delivery.webhooks.courier import Courier

__all__ = ["Courier", "router"]
