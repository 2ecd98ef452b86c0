"""What several of identity's routes say alike."""

from typing import Any

from app.errors import Problem
from app.http import Reply, etag


def tagged(view: dict[str, Any], status: int = 200, **headers: str) -> Reply:
    """A tenant or principal, with the ETag that suspending and resuming want as If-Match."""
    return Reply(view, status, {**headers, "ETag": etag(view["version"])})


def not_already(what: str, view: dict[str, Any], suspended: bool, told: str) -> None:
    """Raises Problem wrong_state when what is to be suspended or resumed is so already."""
    if (view["state"] == "suspended") is suspended:
        said = "suspended already" if suspended else "not suspended"
        current = {"id": str(view["id"]), told: view[told]}
        raise Problem("wrong_state", f"The {what} is {said}.", current=current)


def refusal(pointer: str, detail: str) -> Problem:
    return Problem("validation", f"{pointer}: {detail}.", errors=[{"pointer": pointer, "detail": detail}])
