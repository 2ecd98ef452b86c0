"""What the routes of all that is declared share: the switch, and on which version a change is put."""

from typing import Any, Literal, Protocol
from uuid import UUID

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import policy
from app.db import WriteSession
from app.declared.actions import Declared, Switch, switch, switches
from app.errors import Problem
from app.http import Door, Reply, once, require_version
from app.http.replies import problem_reply

NAME = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"


class SwitchView(BaseModel):
    """Whether nothing goes through it. halted by *: nothing goes through any of the tenant's."""

    halted: bool
    halted_at: str | None
    reason: str | None
    changed_by: UUID | None
    changed_at: str | None


class WhySwitch(BaseModel):
    """Why something is halted, or goes on."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"reason": "The CRM is being migrated."}]}
    )
    reason: str = Field(min_length=1, max_length=2000)


class SwitchedView(BaseModel):
    name: str
    outcome: Literal["halted", "resumed", "unchanged"]
    switch: SwitchView


class Versioned(Protocol):
    @property
    def version(self) -> int: ...


def missing(of: Declared) -> Problem:
    return Problem("not_found", f"There is no such {of.noun}.")


def expect(request: Request, of: Declared, name: str, newest: Versioned | None) -> None:
    """Raises Problem unless the request's If-Match names the newest version; there is none to name when nothing is there yet."""
    if newest is not None:
        require_version(request, newest.version, {"name": name, "version": newest.version})
    elif "if-match" in request.headers:
        raise missing(of)


async def turned(
    door: Door[WriteSession], request: Request, of: Declared, name: str, halt: bool, reason: str
) -> Response:
    """Halts or resumes, once for each Idempotency-Key, when policy lets the caller."""
    verb = "halt" if halt else "resume"

    async def run() -> Reply:
        facts: dict[str, Any] = {"environment": request.app.state.settings.environment}
        if denied := await policy.admit(door.session, door.caller, f"operate.{of.table}.{verb}", name, facts, None):
            return problem_reply(request, policy.refusal(denied))
        outcome = await switch(door.session, door.caller, of, name, halt, reason)
        now = (await switches(door.session, of, [name])).get(name, Switch())
        return Reply({"name": name, "outcome": outcome, "switch": now.view()})

    return await once(door, f"{of.table}s.{verb}", run)
