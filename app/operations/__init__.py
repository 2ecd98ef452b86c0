"""What an operator does to a mission, and how one sees that the service is well."""

from app.operations.actions import cancel, fail
from app.operations.api import router

__all__ = ["cancel", "fail", "router"]
