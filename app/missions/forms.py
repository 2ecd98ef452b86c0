"""What requests that ask alike have in common: judged and rendered once, and filled in for each of them.

Most of what becomes of a request depends on nothing that it says in its own words: who asks, for which type, with which budget
and tools, and by which rules. A Form holds all of that; the words, the ids and the time are put into its places.
"""

from collections import OrderedDict
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID, uuid4

from pydantic_core import to_json

from app.caller import Caller
from app.canonical import canonical
from app.clock import iso
from app.missions.ask import Replay, Wish, workspace
from app.missions.normalize import SAMPLE, Defaults, Envelopes
from app.missions.queries import Mission, view
from app.missions.types import MissionType
from app.policy import PolicySet, judge
from app.stencil import Stencil
from colony_client.artifacts import MissionEnvelope

CENTS = Decimal("0.0001")  # as finely as the column keeps it
ROLE_ORDER = ("submitter", "operator", "product_owner")  # as whom a caller with several roles submits
MOST = 4000  # forms that are remembered, some ten kilobytes each
Degraded = dict[str, Any]  # code, effect and since of what keeps missions from running
UNKNOWN_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # stands where only the commit knows the time
STAMP = iso(UNKNOWN_TIME).encode()


class Form:
    """One judgement, for everything that is asked alike. Raises Problem validation."""

    def __init__(
        self,
        caller: Caller,
        ask: Wish,
        kind: MissionType,
        change: int,
        policies: PolicySet,
        defaults: Defaults,
        *,
        public: bool,
        replay: Replay | None,
        degraded: Degraded | None,
        on_ladder: bool,
    ) -> None:
        """public: one of its tools reaches the public web. degraded: why it could not run now. on_ladder: the rollout ladder lets it
        go so far."""
        self.kind, self.change, self.defaults, self.replay = kind, change, defaults, replay
        self.rules = policies.version_bytes  # by name: a form keeps no set of rules alive
        self.envelopes = Envelopes(ask, kind, caller, submitting_role(caller), defaults)
        self.envelope = self.envelopes.sample
        judgement = judge(caller, "mission.create", kind.name, admission(self.envelope, public, on_ladder), policies)
        self.verdict, self.inputs = judgement.verdict, judgement.inputs
        self.roles = ",".join(sorted(caller.roles))
        self.columns = self._columns()
        self.fact = self._fact()
        mission = uuid4()
        waits = degraded if self.verdict.effect == "allow" and not (replay and replay.mode == "recorded") else None
        shown = to_json(view(accepted(mission, kind, caller, self.envelope, replay, waits), SAMPLE.goal))
        head, _, tail = shown.rsplit(STAMP, 2)  # after the times comes nothing that a caller wrote
        self.head = Stencil(
            head,
            {
                "mission": str(mission).encode(),
                "goal": to_json(SAMPLE.goal),
                "workspace": to_json(SAMPLE.inputs["workspace"]),
                "labels": to_json(SAMPLE.labels),
            },
        )
        self.tail = Stencil(tail, {"mission": str(mission).encode()})

    def made_of(self, kind: MissionType, change: int, policies: PolicySet, defaults: Defaults) -> bool:
        same = self.kind is kind and self.defaults is defaults
        return same and self.change == change and self.rules == policies.version_bytes

    def _columns(self) -> tuple[Any, ...]:
        """What take_in is told of all that is asked alike, in its order."""
        kind, envelope, verdict, replay = self.kind, self.envelope, self.verdict, self.replay
        return (
            kind.name,
            kind.version,
            not kind.shipped,
            envelope.mode,
            envelope.origin_surface,
            envelope.risk_level,
            envelope.sensitivity_class,
            envelope.budget.time_ms,
            envelope.budget.tokens,
            Decimal(str(envelope.budget.cost_usd)),
            replay.of if replay else None,
            replay.mode if replay else None,
            verdict.effect,
            verdict.rule,
            verdict.policy_version,
            verdict.reason,
            self.inputs,
            to_json(verdict.obligations).decode(),
        )

    def _fact(self) -> Stencil:
        """The body of `mission.accepted`, or of `mission.refused`."""
        decision, artifact, contract, sha = (str(uuid4()) for _ in range(4))
        verdict, envelope = self.verdict, self.envelope
        said: dict[str, Any] = {
            "mission_type": self.kind.name,
            "policy_decision": decision,
            "policy_version": verdict.policy_version,
            "rule": verdict.rule,
        }
        places = {"decision": decision.encode()}
        if verdict.effect != "deny":
            said |= {
                "type_version": self.kind.version,
                "mode": envelope.mode,
                "risk_level": envelope.risk_level,
                "sensitivity_class": envelope.sensitivity_class,
                "contract_hash": contract,
                "effect": verdict.effect,
                "envelope": artifact,
                "envelope_sha256": sha,
            }
            if self.replay is not None:
                said |= {"replay_of": str(self.replay.of), "replay_mode": self.replay.mode}
            places |= {"envelope": artifact.encode(), "contract": contract.encode(), "sha256": sha.encode()}
        return Stencil(canonical(said), places)


class Forms:
    """The forms that were used lately."""

    def __init__(self) -> None:
        self.known: OrderedDict[tuple[Any, ...], Form] = OrderedDict()

    def get(
        self,
        caller: Caller,
        ask: Wish,
        kind: MissionType,
        change: int,
        policies: PolicySet,
        defaults: Defaults,
        *,
        public: bool,
        replay: Replay | None,
        degraded: Degraded | None,
        on_ladder: bool,
    ) -> Form:
        """The form that a request is judged by. Raises Problem validation."""
        name = (
            caller.tenant, caller.principal, caller.kind, caller.roles, kind.name, ask.origin_surface, ask.mode, ask.risk_level,
            ask.sensitivity_class, ask.budget.time_ms, ask.budget.tokens, ask.budget.cost_usd,
            None if ask.tools is None else tuple(ask.tools), public, replay,
            None if degraded is None else (degraded["code"], degraded["since"]), on_ladder,
        )  # fmt: skip
        form = self.known.get(name)
        if form is not None and form.made_of(kind, change, policies, defaults):
            self.known.move_to_end(name)
            return form
        self.known.pop(name, None)
        form = Form(
            caller, ask, kind, change, policies, defaults,
            public=public, replay=replay, degraded=degraded, on_ladder=on_ladder,
        )  # fmt: skip
        self.known[name] = form
        while len(self.known) > MOST:
            self.known.popitem(last=False)
        return form


def accepted(
    mission: UUID,
    kind: MissionType,
    caller: Caller,
    envelope: MissionEnvelope,
    replay: Replay | None,
    degraded: Degraded | None,
) -> Mission:
    """The mission as it is answered when it is taken in, with a time that stands for the commit's."""
    return Mission(
        id=mission,
        mission_type=kind.name,
        type_version=kind.version,
        mode=envelope.mode,
        state="accepted",
        stage=None,
        version=1,
        origin_surface=envelope.origin_surface,
        risk_level=envelope.risk_level,
        sensitivity_class=envelope.sensitivity_class,
        requested_by=caller.principal,
        workspace=workspace(envelope.inputs),
        contract_hash=bytes.fromhex(envelope.contract_hash),
        labels=envelope.labels,
        traceparent=None,
        attempt=1,
        last_seq=0,
        lease_until=None,
        deadline_at=None,
        budget_time_ms=envelope.budget.time_ms,
        budget_tokens=envelope.budget.tokens,
        budget_cost_usd=Decimal(str(envelope.budget.cost_usd)).quantize(CENTS, ROUND_HALF_UP),
        used_tokens=0,
        used_cost_usd=Decimal(0),
        answer_status=None,
        pending_approvals=[],
        writebacks={},
        degraded=degraded,
        reason=None,
        reason_note=None,
        created_at=UNKNOWN_TIME,
        updated_at=UNKNOWN_TIME,
        closed_at=None,
        replay_of=replay.of if replay else None,
        replay_mode=replay.mode if replay else None,
    )


def submitting_role(caller: Caller) -> str:
    return next((role for role in ROLE_ORDER if role in caller.roles), "submitter")


def admission(envelope: MissionEnvelope, public: bool, on_ladder: bool) -> dict[str, Any]:
    """What the admission rules look at. public: one of its tools reaches the public web. on_ladder: see app.ladder."""
    return {
        "mode": envelope.mode,
        "risk_level": envelope.risk_level,
        "sensitivity_class": envelope.sensitivity_class,
        "environment": envelope.environment,
        "public_tools": public,
        "on_ladder": on_ladder,
    }
