"""Approval rules: who must approve what, for how long, and what happens meanwhile. Versioned; the wall chooses among them."""

import json
from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text

from app import ledger
from app.caller import Caller
from app.clock import iso
from app.db import ReadSession, WriteSession
from app.errors import Problem

SELECT = """
  SELECT r.id, r.version, r.subject, r.connector, r.operation, r.risk, r.required, r.deny_threshold, r.approver_role, r.life,
    r.undo_window, r.comment_required, r.signature_required, r.may_escalate_to, r.hops, r.break_glass, r.created_by, r.created_at
  FROM """
OF_TENANT = f"{SELECT} approval_rule r WHERE r.tenant = :tenant"
IN_FORCE = (
    "NOT EXISTS (SELECT 1 FROM approval_rule n WHERE n.tenant = r.tenant AND n.id = r.id AND n.version > r.version)"
)
IN_ORDER = "ORDER BY r.subject DESC, r.break_glass, r.connector, r.operation, r.risk, r.id LIMIT 1000"
LIST = text(f"{OF_TENANT} AND {IN_FORCE} {IN_ORDER}")
HISTORY = text(f"{OF_TENANT} AND r.id = :id ORDER BY r.version DESC LIMIT 1000")
FITTING = text(f"{SELECT} fitting_rules(:tenant, :subject, :connector, :operation, :risk) r")
PUT = text("SELECT * FROM put_rule(:tenant, :secret, :rule, :version, CAST(:body AS jsonb))")

# What the wall's constraints say, in the words of the API.
BROKEN = {
    "approval_rule_ladder": ("/hops", "steps in order, each before the life ends; escalations only to may_escalate_to"),
    "approval_rule_glass": (
        "/break_glass",
        "a break-glass rule takes two or more, one veto, at most 15 minutes, no undo window, a reason, no ladder",
    ),
    "approval_rule_glass_role": ("/approver_role", "is break_glass exactly for break-glass rules"),
    "approval_rule_signature_kept": ("/signature_required", "is waived over the registrar's login only"),
}


async def newest(session: ReadSession) -> Sequence[Any]:
    return await session.rows(LIST, {"tenant": session.tenant})


async def history(session: ReadSession, rule: UUID) -> Sequence[Any]:
    """All versions of a rule, the one in force first; empty when there is no such rule."""
    return await session.rows(HISTORY, {"tenant": session.tenant, "id": rule})


async def fitting(session: ReadSession, subject: str, connector: str, operation: str, risk: str) -> Sequence[Any]:
    """The rules that fit, the one the wall would choose first."""
    asked = {"subject": subject, "connector": connector, "operation": operation, "risk": risk}
    return await session.rows(FITTING, {"tenant": session.tenant} | asked)


async def put(
    session: WriteSession, caller: Caller, rule: UUID, seen_version: int | None, body: dict[str, Any]
) -> tuple[Literal["created", "changed"], int]:
    """Writes a rule, or its next version. Raises Problem for what the wall refuses."""
    said = await session.first(
        PUT,
        {
            "tenant": session.tenant,
            "secret": caller.secret,
            "rule": rule,
            "version": seen_version,
            "body": json.dumps(body),
        },
    )
    assert said is not None
    match said.outcome:
        case "created" | "changed":
            session.nudge(ledger.FACTS)
            return said.outcome, said.version
        case "unauthenticated":
            raise Problem("unauthenticated", "The key that writes the rule is no longer live.")
        case "not_entitled":
            raise Problem("forbidden", "Rules are written by a person who holds the role policy_owner.")
        case "not_found":
            raise Problem("not_found", "There is no such rule.")
        case "stale":
            raise Problem("stale", f"The rule is at version {said.version}.", current={"version": said.version})
        case _:
            pointer, detail = BROKEN.get(said.why or "", ("", said.why or "is not a rule"))
            raise Problem(
                "validation", f"The wall refuses this rule: {detail}.", errors=[{"pointer": pointer, "detail": detail}]
            )


def view(rule: Any) -> dict[str, Any]:
    return {
        "id": rule.id,
        "version": rule.version,
        "subject": rule.subject,
        "connector": rule.connector,
        "operation": rule.operation,
        "risk": rule.risk,
        "required": rule.required,
        "deny_threshold": rule.deny_threshold,
        "approver_role": rule.approver_role,
        "life_s": rule.life.total_seconds(),
        "undo_window_s": rule.undo_window.total_seconds(),
        "comment_required": rule.comment_required,
        "signature_required": rule.signature_required,
        "may_escalate_to": list(rule.may_escalate_to),
        "hops": steps(rule.hops),
        "break_glass": rule.break_glass,
        "created_by": rule.created_by,
        "created_at": iso(rule.created_at),
    }


def steps(hops: Any) -> list[dict[str, Any]]:
    """The steps of a ladder; a reminder names no role."""
    return [{"after_s": hop["after_s"], "kind": hop["kind"], "role": hop.get("role")} for hop in hops]


def why(rule: Any) -> str:
    """Why this one fits, in a sentence."""
    named = [
        f"{name} {value}"
        for name, value in (("connector", rule.connector), ("operation", rule.operation), ("risk", rule.risk))
        if value != "*"
    ]
    fits = "It names " + " and ".join(named) if named else "It fits everything"
    return f"{fits}; {rule.required} of role {rule.approver_role} must approve within {rule.life}."
