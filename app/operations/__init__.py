"""What an operator does to a mission, and how one sees that the service is well."""

from app.operations.actions import cancel, extend, fail, redispatch
from app.operations.api import router
from app.operations.health import Watch, registry
from app.operations.reconcile import reconcile

__all__ = ["Watch", "cancel", "extend", "fail", "reconcile", "redispatch", "registry", "router"]
