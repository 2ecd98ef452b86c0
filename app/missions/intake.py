"""Taking a mission in: the one path, whoever asks.

A request is judged here, from memory: who is asking, which type, which rules, which rungs. What comes of it is kept by `take_in`
(migrations/sql/0001/57_intake.sql) together with whatever else is pending, and confirmed there in the same transaction:
what was judged by something that is no longer so comes back, and is judged anew.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import NamedTuple
from uuid import UUID

import asyncpg
from pydantic import ValidationError
from pydantic_core import to_json

from app import ledger
from app.batch import Batches
from app.budgets.actions import Amounts, foresee, note_refused
from app.budgets.actions import refusal as too_little_left
from app.caller import Caller
from app.canonical import sha256
from app.clock import iso, new_id
from app.db import Database, ReadSession
from app.errors import Problem
from app.http.idempotency import in_flight, mismatch, stored_answer
from app.http.replies import JSON, PROBLEM, etag
from app.ladder import Refused, Standing, Standings, standing, why_not
from app.missions.ask import Replay, Wish, workspace
from app.missions.forms import Degraded, Forms, admission, submitting_role
from app.missions.normalize import Defaults, out_of_bounds, seal, understood
from app.missions.rows import MIDDLE, TAKE_IN, Asked, Judged, Kept, columns
from app.missions.tools import Tools, refuse_tools, unknown_tools
from app.missions.types import Known, MissionType, find_type, label
from app.policy import SHELF, PolicyDecision, Verdict, consult, count, refusal, renew
from app.settings import Settings
from app.telemetry import MISSIONS
from app.together import Together
from colony_client.artifacts import MissionEnvelope

PATH = "/v1/missions"
BEYOND = "admission.beyond_the_ladder"  # the rule that refuses what no enabled rung admits
TRIES = 8  # how often what a request was judged by may change while it is judged


class Answer(NamedTuple):
    """What the request is answered, as bytes."""

    status: int
    headers: dict[str, str]
    body: bytes


class Intake:
    """Takes requests for missions in. authenticate(secret) looks a credential up anew; nudge wakes whoever waits for work."""

    def __init__(
        self,
        defaults: Defaults,
        database: Database,
        authenticate: Callable[[str], Awaitable[Caller]],
        nudge: Callable[[Iterable[str]], None],
        tools: Tools,
        *,
        connections: int = 2,
        wait_ms: int = 1000,
    ) -> None:
        self.defaults, self.database, self.authenticate, self.nudge = defaults, database, authenticate, nudge
        self.tools = tools
        self.standings = Standings(database, defaults.environment)
        self.types = Known()
        self.forms = Forms()
        self.degraded: Callable[[UUID, str, Sequence[str]], Degraded | None] = nothing_degraded
        self.asking: Together[UUID, None] = Together()
        self.asking_type: Together[tuple[UUID, str], MissionType | None] = Together()
        self.in_flight: set[tuple[UUID, UUID, str]] = set()
        self.batches: Batches[Judged, Kept] = Batches(
            database.connect,
            self.keep,
            lambda one: one.size,
            name="intake",
            told=self.tell,
            connections=connections,
            wait_ms=wait_ms,
        )

    async def take(self, asked: Asked) -> Answer:
        """Normalizes, asks policy, and keeps mission, envelope, decision, fact and work in one transaction.

        A denial keeps decision and fact only. When policy asks, the mission waits for a human before it is dispatched.
        Raises Problem `validation`, `budget_exhausted`, `unauthenticated`, `forbidden`, `idempotency_*`, `database_*`.
        """
        if asked.key is None:
            return await self._take(asked)
        name = (asked.caller.tenant, asked.caller.principal, asked.key)
        if name in self.in_flight:
            raise in_flight()
        self.in_flight.add(name)
        try:
            return await self._take(asked)
        finally:
            self.in_flight.discard(name)

    async def _take(self, asked: Asked) -> Answer:
        tenant, name = asked.caller.tenant, asked.ask.mission_type
        for _ in range(TRIES):
            kind = await self.kind(tenant, name)
            stands = await self.standings.get(tenant)
            try:
                refused = await self.beyond(tenant, stands, kind, asked)
                public = await self.public(asked, kind)
                judged = self.judge(asked, kind, public=public, stands=stands, refused=refused)
            except Problem:
                await self.authenticate(asked.caller.secret)  # nothing is told to whom nothing is told any more
                if asked.key is not None and (given := await self.given(asked)) is not None:
                    return given  # what was answered once is answered again, whatever would be said of it now
                if await self.look_up(tenant, name) != kind:
                    continue
                raise
            kept = await self.batches.put(judged)
            match kept.outcome:
                case "accepted" | "refused":
                    return answer(judged, kept)
                case "replayed":
                    assert kept.status is not None and kept.headers is not None and kept.body is not None
                    return replay(kept.status, kept.headers, kept.body)
                case "in_flight":
                    raise in_flight()
                case "mismatch":
                    raise mismatch()
                case "exhausted":
                    raise await self.too_much(asked.caller, kept)
                case "policy_changed":
                    await self.asking.ask(tenant, partial(self.renew, tenant))
                case "type_changed":
                    await self.look_up(tenant, name)
                case "ladder_changed":
                    await self.standings.look_up(tenant)
                case _:  # unauthenticated, caller_changed
                    asked = asked._replace(caller=await self.authenticate(asked.caller.secret))
        raise Problem("database_busy", "What the request is judged by changed again and again.", retry_after=1)

    async def kind(self, tenant: UUID, name: str) -> MissionType:
        kind = self.types.get(tenant, name) or await self.look_up(tenant, name)
        if kind is None:
            raise no_such_type(name)
        return kind

    async def public(self, asked: Asked, kind: MissionType) -> bool:
        """Whether a tool of the mission reaches the public web. Nobody is asked about built-in tools: they all stay inside.

        What a layer says is looked up each time, and once more when a tool is called. Raises Problem validation.
        """
        if self.tools.built_in.issuperset(may_call(asked.ask, kind)):
            return False
        async with self.database.read() as session:
            await session.enter(asked.caller.tenant)
            return await reaching(session, self.tools, asked.ask, kind)

    async def beyond(self, tenant: UUID, stands: Standing, kind: MissionType, asked: Asked) -> Refused | None:
        """What stands between the mission and its admission; None when the ladder admits it, which no round trip tells."""
        mode = goes(asked.ask, kind, asked.replay)
        if stands.admits(kind.name, mode):
            return None
        async with self.database.read() as session:
            await session.enter(tenant)
            return await why_not(session, stands, kind.name, mode)

    async def renew(self, tenant: UUID) -> None:
        async with self.database.write() as session:
            await session.enter(tenant)
            await renew(session)

    async def look_up(self, tenant: UUID, name: str) -> MissionType | None:
        """The type in force, remembered."""
        return await self.asking_type.ask((tenant, name), partial(self._look_up, tenant, name))

    async def _look_up(self, tenant: UUID, name: str) -> MissionType | None:
        async with self.database.read() as session:
            await session.enter(tenant)
            kind = await find_type(session, name)
        if kind is not None and not kind.shipped:
            self.types.put(tenant, kind)
        return kind

    async def given(self, asked: Asked) -> Answer | None:
        """The answer that was given under this Idempotency-Key before. Raises Problem idempotency_mismatch."""
        async with self.database.read() as session:
            await session.enter(asked.caller.tenant)
            known = await stored_answer(session, asked.caller, "missions.create", asked.key or "")
        if known is None:
            return None
        if known.fingerprint != asked.fingerprint:
            raise mismatch()
        return replay(known.status, known.headers, known.body)

    def judge(
        self, asked: Asked, kind: MissionType, *, public: bool, stands: Standing, refused: Refused | None
    ) -> Judged:
        """The request as it will be kept. public: a tool of it reaches the public web. stands: what the ladder says now. refused:
        why it does not admit the mission. Raises Problem validation."""
        caller, ask = asked.caller, asked.ask
        said = understood(ask, kind)
        degraded = self.degraded(caller.tenant, goes(ask, kind, asked.replay), may_call(ask, kind))
        form = self.forms.get(
            caller, ask, kind, *SHELF.get(caller.tenant), self.defaults,
            public=public, replay=asked.replay, degraded=degraded, on_ladder=refused is None,
        )  # fmt: skip
        mission, decision, artifact = new_id(), new_id(), new_id()
        envelope, contract = form.envelopes.seal(mission, said)
        labels, tail = to_json(said.labels), None
        places = {"mission": str(mission).encode(), "decision": str(decision).encode()}
        if form.verdict.effect == "deny":
            resource, inputs = kind.name, sha256(form.inputs)
            made = PolicyDecision(decision, "mission.create", resource, inputs, form.verdict)
            problem = refusal(made) if refused is None else self.refusal(made, refused, goes(ask, kind, asked.replay))
            status, headers = problem.kind.status, problem.headers | {"content-type": PROBLEM}
            head = to_json(problem.document(asked.path, asked.request_id))
        else:
            status = 202
            headers = {"Location": f"{PATH}/{mission}", "ETag": etag(1), "content-type": JSON}
            places["goal"], places["labels"] = to_json(said.goal), labels
            places["workspace"] = to_json(workspace(said.inputs))
            head, tail = form.head.fill(places), form.tail.fill(places)
            places["contract"], places["envelope"] = contract.encode(), str(artifact).encode()
            places["sha256"] = hashlib.sha256(envelope).hexdigest().encode()
        return Judged(
            asked=asked,
            form=form,
            mission=mission,
            contract=bytes.fromhex(contract),
            envelope=envelope,
            decision=decision,
            artifact=artifact,
            fact=form.fact.fill(places),
            status=status,
            headers=headers,
            head=head,
            tail=tail,
            labels=labels.decode(),
            ladder=stands.change,
        )

    def refusal(self, made: PolicyDecision, refused: Refused, mode: str) -> Problem:
        """A denial of what is beyond the ladder: with the rung that it would take, and what that wants."""
        sentence = refused.sentence(self.defaults.environment, made.resource, mode)
        return refusal(made, sentence if made.verdict.rule == BEYOND else None, ladder=refused.view())

    async def keep(self, connection: asyncpg.Connection, together: Sequence[Judged]) -> list[Kept]:
        """Everything that is pending, in one statement and one commit."""
        rows = await connection.fetch(TAKE_IN, *columns(together))
        kept: list[Kept] = [None] * len(together)  # type: ignore[list-item]
        for n, outcome, at, status, headers, body in rows:
            kept[n - 1] = Kept(outcome, at, status, json.loads(headers) if headers else None, body)
        return kept

    def tell(self, together: Sequence[Judged], kept: Sequence[Kept]) -> None:
        """Counts what was kept, and wakes whoever waits for it."""
        wakes: set[str] = set()
        became = Counter((one.form, said.outcome) for one, said in zip(together, kept, strict=True))
        for (form, outcome), times in became.items():
            if outcome in ("accepted", "refused"):
                count("mission.create", form.verdict, times)
                wakes.add(ledger.FACTS)
            if outcome == "accepted":
                MISSIONS.labels(label(form.kind.name), "accepted").inc(times)
                wakes.add("work_worker")
        if wakes:
            self.nudge(wakes)

    async def too_much(self, caller: Caller, kept: Kept) -> Problem:
        """The refusal of a mission that does not fit into its tenant's budget, which is a fact."""
        refused = too_little_left(json.loads(kept.body or b"{}"))
        async with self.database.write() as session:
            await session.enter(caller.tenant)
            await note_refused(session, caller, refused)
        return refused


def nothing_degraded(_tenant: UUID, _mode: str, _tools: Sequence[str]) -> Degraded | None:
    """Until main says what a process sees of those it depends on, all is well."""
    return None


def answer(judged: Judged, kept: Kept) -> Answer:
    if judged.tail is None:
        return Answer(judged.status, judged.headers, judged.head)
    at = iso(kept.at).encode()
    return Answer(judged.status, judged.headers, b"".join((judged.head, at, MIDDLE, at, judged.tail)))


def replay(status: int, headers: dict[str, str], body: bytes) -> Answer:
    return Answer(status, headers | {"Idempotent-Replayed": "true"}, body)


def enabled(settings: Settings) -> None:
    if not settings.colony_enabled:
        raise Problem("colony_disabled", "COLONY_ENABLED is false; no mission is accepted.", retry_after=60)


async def reaching(session: ReadSession, tools: Tools, ask: Wish, kind: MissionType) -> bool:
    """Whether a tool of the mission reaches the public web. Raises Problem validation for one that there is not.

    A type may outlive one of its tools: its missions begin, and go on or block when they call it.
    """
    known = await tools.reaches(session, may_call(ask, kind))
    refuse_tools(unknown_tools(ask.tools or [], known))
    return "public" in known.values()


def may_call(ask: Wish, kind: MissionType) -> Sequence[str]:
    """The tools that a mission would have."""
    return kind.tools if ask.tools is None else ask.tools


def goes(ask: Wish, kind: MissionType, replay: Replay | None = None) -> str:
    """How far a mission would go, as a mode. What is played from its tape writes nothing, whatever its mode was."""
    if replay is not None and replay.mode != "rerun":
        return "dry_run"
    return ask.mode or kind.defaults["mode"]


async def rehearse(
    session: ReadSession, caller: Caller, ask: Wish, defaults: Defaults, tools: Tools
) -> tuple[MissionEnvelope, Verdict]:
    """Every check of a request, and nothing kept: the envelope it would have and what policy would say.

    Raises Problem `validation`, and `budget_exhausted` when the request itself would.
    """
    kind = await find_type(session, ask.mission_type)
    if kind is None:
        raise no_such_type(ask.mission_type)
    said = understood(ask, kind)
    try:
        envelope, _ = seal(ask, said, kind, caller, submitting_role(caller), new_id(), defaults)
    except ValidationError as refused:
        raise out_of_bounds(refused) from None
    public = await reaching(session, tools, ask, kind)
    stands, mode = await standing(session, defaults.environment), goes(ask, kind)
    on_ladder = stands.admits(kind.name, mode)
    verdict = await consult(session, caller, "mission.create", kind.name, admission(envelope, public, on_ladder))
    if verdict.rule == BEYOND:
        why = await why_not(session, stands, kind.name, mode)
        verdict = replace(verdict, reason=why.sentence(defaults.environment, kind.name, mode))
    if verdict.effect != "deny":
        budget = envelope.budget
        await foresee(session, Amounts(budget.tokens, Decimal(str(budget.cost_usd)), budget.time_ms))
    return envelope, verdict


def no_such_type(name: str) -> Problem:
    return Problem(
        "validation",
        f"/mission_type: there is no mission type {name}",
        errors=[{"pointer": "/mission_type", "detail": "see GET /v1/mission-types"}],
    )
