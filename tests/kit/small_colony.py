"""The smallest colony that keeps the contract, and every way it can be told to break it."""

import asyncio
import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from colony_client.contract import CONTRACT_VERSION, MAX_BODY_BYTES, CancelRequest, Dispatch, DispatchBatch
from colony_client.errors import BadBody, FieldProblem, SignatureRefused
from colony_client.signing import Keys, MemoryNonces, Signed, check, sign, signed_path
from colony_client.wire import read_model

HEARTBEAT_S = 0.3
PAUSE_S = 0.05
PLACES = 12


class Gone(Exception):
    """The root does not want this attempt any more."""


class Refused(Exception):
    def __init__(self, status: int, code: str, detail: str, fields: tuple[FieldProblem, ...] = ()) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.fields = status, code, detail, fields


class SmallColony:
    """`faults` are names of what it does wrong; without any it is correct."""

    def __init__(self, keys: Keys, *faults: str) -> None:
        self.keys, self.faults = keys, frozenset(faults)
        self.nonces = MemoryNonces()
        self.works: dict[UUID, Work] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.tokens: list[str] = []
        self.http = httpx.AsyncClient(timeout=20, trust_env=False, follow_redirects=self.has("follows redirects"))
        self.dead = False
        self.looked = 0
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/ready", self.ready),
                Route("/v1/missions", self.dispatch, methods=["POST"]),
                Route("/v1/missions/{mission}", self.status),
                Route("/v1/missions/{mission}/cancel", self.cancel, methods=["POST"]),
                Route("/restart", self.restart, methods=["POST"]),
            ],
            exception_handlers={Refused: self.refuse},
        )

    def has(self, fault: str) -> bool:
        return fault in self.faults

    async def restart(self, _: Request) -> Response:
        """As if the process had been started anew: nothing is known any more."""
        for task in list(self.tasks):
            task.cancel()
        if not self.has("believes to run what it has lost"):
            self.works.clear()
        return JSONResponse({})

    async def close(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.http.aclose()

    # --- its door

    async def health(self, _: Request) -> Response:
        if self.dead:
            return Response(status_code=500)
        if self.has("wrong health"):
            return JSONResponse({"status": "fine"})
        version = "2.0" if self.has("health says another contract version") else "1.0"
        return JSONResponse({"status": "ok", "service": "small colony", "contract_version": version})

    async def ready(self, _: Request) -> Response:
        ready = not self.full
        status = 200 if ready or self.has("ready lies") else 503
        said = {"ready": ready, "providers": {"root": {"state": "ok"}}, "contract_version": "1.0"}
        return JSONResponse(said, 503 if self.has("ready answers 503 when ready") else status)

    @property
    def full(self) -> bool:
        return sum(not task.done() for task in self.tasks) >= PLACES

    async def body(self, request: Request) -> bytes:
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            if self.has("dies on a large body"):
                self.dead = True
            raise Refused(413, "too_large", "the body is too large")
        if not self.has("does not verify signatures"):
            try:
                await self.verify(request, body)
            except SignatureRefused:
                raise Refused(401, "unauthorized", "not signed as it has to be") from None
        return body

    async def verify(self, request: Request, body: bytes) -> None:
        path, headers = signed_path(request.scope), request.headers
        if self.has("ignores expiry") and (said := headers.get("x-colony-timestamp", "")).isdigit():
            found = check(
                self.keys, request.method, path, body, "colony", headers, now=datetime.fromtimestamp(int(said), UTC)
            )
        elif self.has("takes any audience"):
            try:
                found = check(self.keys, request.method, path, body, "colony", headers)
            except SignatureRefused:
                found = check(self.keys, request.method, path, body, "root", headers)
        elif self.has("takes unsigned requests") and "x-colony-signature" not in headers:
            return
        elif self.has("takes only the first key"):
            first = self.keys.signing_kid
            found = check(Keys({first: self.keys.by_kid[first]}), request.method, path, body, "colony", headers)
        elif self.has("signs without the body"):
            found = self.bodiless(request, path)
        else:
            found = check(self.keys, request.method, path, body, "colony", headers)
        if not self.has("accepts replays") and not await self.nonces.first_use(found.nonce, found.expires_at):
            raise SignatureRefused

    def bodiless(self, request: Request, path: str) -> Signed:
        """Believes whatever carries the name of a known key."""
        headers = request.headers
        if headers.get("x-colony-key") not in self.keys.by_kid or not headers.get("x-colony-signature"):
            raise SignatureRefused
        moment = datetime.fromtimestamp(int(headers["x-colony-timestamp"]), UTC)
        if abs(datetime.now(UTC) - moment) > timedelta(minutes=5):
            raise SignatureRefused
        right = sign(self.keys, request.method, path, b"", "root", now=moment, nonce=headers["x-colony-nonce"])
        if headers["x-colony-signature"] == right["X-Colony-Signature"]:  # signed for the other side
            raise SignatureRefused
        return Signed("any", headers["x-colony-nonce"], moment + timedelta(minutes=5))

    def read(self, model: Any, body: bytes) -> Any:
        try:
            return read_model(model, body, unknown="ignore" if self.has("ignores unknown fields") else "forbid")
        except BadBody as bad:
            if self.has("does not name fields"):
                raise Refused(422, "invalid", "something is wrong") from None
            if self.has("breaks on malformed JSON") and bad.problems[0].code == "not_json":
                raise Refused(500, "internal", "a mistake") from None
            raise Refused(422, "invalid", str(bad), bad.problems) from None

    async def refuse(self, _: Request, raised: Exception) -> Response:
        assert isinstance(raised, Refused)
        if self.has("answers HTML"):
            return Response(f"<h1>{raised.detail}</h1>", raised.status, media_type="text/html")
        errors = [{"pointer": one.pointer, "detail": one.detail} for one in raised.fields]
        said = {"status": raised.status, "code": raised.code, "detail": raised.detail, "errors": errors}
        return JSONResponse(said, raised.status, media_type="application/problem+json")

    # --- missions

    async def dispatch(self, request: Request) -> Response:
        body = await self.body(request)
        if self.has("takes any number"):
            whole = json.loads(body)
            body = json.dumps(whole | {"missions": whole["missions"][:64]}).encode()
        batch: DispatchBatch = self.read(DispatchBatch, body)
        if self.has("takes only an old version") and batch.contract_version == CONTRACT_VERSION:
            raise Refused(422, "invalid", "/contract_version: not 1.0")
        if self.has("takes only the newest version") and batch.contract_version != CONTRACT_VERSION:
            raise Refused(422, "invalid", f"/contract_version: not {CONTRACT_VERSION}")
        if self.has("takes no batch") and len(batch.missions) > 1:
            batch = batch.model_copy(update={"missions": batch.missions[:1]})
        answers = [await self.admit(one) for one in batch.missions]
        if self.has("refuses all when one is refused") and any(one["outcome"] == "refused" for one in answers):
            for one in answers:
                one.update(outcome="refused", reason="another one in the call was refused")
        return JSONResponse({"contract_version": "1.0", "missions": answers})

    async def admit(self, dispatch: Dispatch) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "mission_id": str(dispatch.mission_id),
            "attempt": dispatch.attempt,
            "outcome": "accepted",
        }
        known = self.works.get(dispatch.mission_id)
        if known and known.dispatch.attempt == dispatch.attempt and not self.has("works on duplicates again"):
            return answer
        if known and known.dispatch.attempt > dispatch.attempt and not self.has("takes lower attempts"):
            return answer | {"outcome": "refused", "reason": "a newer attempt is known"}
        host = urlsplit(dispatch.callback_base_url).hostname
        if host != "127.0.0.1" and not self.has("accepts any callback origin"):
            return answer | {"outcome": "refused", "reason": "not to be called back there"}
        if self.full:
            return answer | {"outcome": "busy", "retry_after_s": None if self.has("busy without a time") else 0.2}
        if self.has("answers before storing the duplicate"):
            self.looked += 1
            while (
                self.looked < 3 and not self.tasks
            ):  # the gap between looking and storing, held open for others to fall into
                await asyncio.sleep(0.01)
        if known and not self.has("lets superseded attempts run"):
            known.stop("failed")
        work = self.works[dispatch.mission_id] = Work(self, dispatch)
        self.tokens.append(dispatch.mission_token)
        if self.has("loses missions"):
            return answer
        task = asyncio.create_task(work.run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return answer

    async def status(self, request: Request) -> Response:
        await self.body(request)
        return JSONResponse(self.known(request).status())

    async def cancel(self, request: Request) -> Response:
        body = await self.body(request)
        work = self.known(request)
        self.read(CancelRequest, body)
        if self.has("cancels what has ended"):
            work.state = "cancelled"
        elif not self.has("ignores cancel"):
            work.stop("cancelled")
        return JSONResponse(work.status())

    def known(self, request: Request) -> "Work":
        try:
            return self.works[UUID(request.path_params["mission"])]
        except (KeyError, ValueError):
            if self.has("unknown missions are fine"):
                raise Refused(409, "unknown", "no such mission") from None
            raise Refused(404, "unknown", "no such mission") from None


class Work:
    """One attempt at one mission: a list of events, a sender, and the work itself."""

    def __init__(self, colony: SmallColony, dispatch: Dispatch) -> None:
        self.colony, self.dispatch = colony, dispatch
        self.token, self.first_token = dispatch.mission_token, dispatch.mission_token
        self.state = "running"
        self.events: list[dict[str, Any]] = []
        self.acknowledged = self.sent = 0
        self.stopped, self.news = asyncio.Event(), asyncio.Event()
        self.has = colony.has
        self.nonce = secrets.token_urlsafe(18)

    def status(self) -> dict[str, Any]:
        lies = self.has("status lies")
        return {
            "mission_id": str(self.dispatch.mission_id),
            "attempt": self.dispatch.attempt,
            "state": "completed" if lies and self.state == "running" else self.state,
            "last_seq_sent": 0 if self.has("last_seq_sent is never counted") else self.sent,
        }

    def stop(self, state: str) -> None:
        if self.state == "running":
            self.state = state
            self.stopped.set()

    async def run(self) -> None:
        sending = asyncio.create_task(self.send())
        working = asyncio.create_task(self.work())
        stopping = asyncio.create_task(self.stopped.wait())
        tasks: tuple[asyncio.Task[Any], ...] = (sending, working, stopping)
        try:
            await asyncio.wait([*tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and isinstance(task.exception(), Gone):
                    self.stop("cancelled")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- speaking

    def say(self, kind: str, **more: Any) -> None:
        seq = len(self.events) + 1
        if self.has("skips a seq") and seq >= 3:
            seq += 1
        self.events.append({"type": kind, "seq": seq, "at": datetime.now(UTC).isoformat(), **more})
        if self.has("invents fields") and seq == 2:
            self.events[-1]["mood"] = "cheerful"
        self.news.set()

    async def send(self) -> None:
        """One batch after the other, and a heartbeat where there is nothing to say."""
        while True:
            batch = self.events[self.acknowledged :]
            if not batch:
                self.news.clear()
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self.news.wait()
                    continue
                except TimeoutError:
                    if self.has("sends no heartbeat"):
                        continue
            self.sent = max(self.sent, len(self.events))
            await self.send_batch(batch)

    async def send_batch(self, batch: list[dict[str, Any]]) -> None:
        body = {"contract_version": "1.0", "attempt": self.dispatch.attempt, "events": batch}
        try:
            answer = await self.call(f"/internal/v1/missions/{self.dispatch.mission_id}/events", body)
        except httpx.TimeoutException:
            raise Gone from None
        except httpx.HTTPError:
            if self.has("loses events when the receiver is down"):
                self.acknowledged += len(batch)
            await asyncio.sleep(PAUSE_S)
            return
        if answer.status_code == 200:
            receipt = self.open(answer)
            self.token = receipt["next_token"]
            self.acknowledged = max(self.acknowledged, self.place(receipt["accepted_seq"]))
            if self.has("forgets the end of every batch") and len(batch) > 1:
                self.acknowledged += 1
            if receipt["stop"] and not self.has("ignores stop") and not self.over:
                raise Gone
        elif answer.status_code == 409 and "expected_seq" in answer.json():
            if self.has("ignores expected_seq"):
                self.acknowledged += len(batch)
            await asyncio.sleep(PAUSE_S)
        elif answer.status_code in (409, 410):
            if not self.has("ignores superseded"):
                raise Gone
            self.acknowledged += len(batch)
        else:
            wait = float(answer.headers.get("retry-after", 0))
            await asyncio.sleep(PAUSE_S if self.has("hammers on 429") else max(wait, PAUSE_S))

    def place(self, seq: int) -> int:
        """How many of our events the root has when it has everything up to seq."""
        return sum(event["seq"] <= seq for event in self.events)

    @property
    def over(self) -> bool:
        return any(event["type"] == "signal" for event in self.events)

    def open(self, answer: httpx.Response) -> dict[str, Any]:
        found: dict[str, Any] = answer.json()
        known = {"accepted_seq", "next_token", "lease_until", "stop", "stop_reason", "result"}
        if self.has("refuses unknown members in answers") and set(found) - known:
            raise Gone
        return found

    async def call(self, path: str, body: dict[str, Any]) -> httpx.Response:
        token = self.first_token if self.has("keeps using the first token") else self.token
        if self.has("uses the token of another mission") and self.colony.tokens[0] != self.first_token:
            token = self.colony.tokens[0]
        data = json.dumps(body).encode()
        keys = Keys({"small": b"x" * 20}) if self.has("signs callbacks with another key") else self.colony.keys
        signed = sign(keys, "POST", path, data, "root", nonce=self.nonce if self.has("reuses nonces") else None)
        headers = {**signed, "Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        if self.has("gives up on a slow receiver") and path.endswith("/events"):
            return await self.colony.http.post(
                self.dispatch.callback_base_url + path, content=data, headers=headers, timeout=0.2
            )
        return await self.colony.http.post(self.dispatch.callback_base_url + path, content=data, headers=headers)

    async def tool(self, name: str, **arguments: Any) -> Any:
        while True:
            try:
                answer = await self.call(
                    f"/internal/v1/missions/{self.dispatch.mission_id}/tools/{name}/calls", {"arguments": arguments}
                )
            except httpx.HTTPError:
                await asyncio.sleep(PAUSE_S)
                continue
            if answer.status_code == 200:
                return self.open(answer)["result"]
            if answer.status_code in (409, 410) and not (self.has("ignores superseded") or self.has("ignores stop")):
                raise Gone
            if answer.status_code in (409, 410) or self.has("hammers on denied tools"):
                await asyncio.sleep(PAUSE_S)
                continue
            return None

    # --- working

    async def work(self) -> None:
        seconds = self.dispatch.budgets.time_ms / 1000
        try:
            async with asyncio.timeout(None if self.has("ignores the time budget") else seconds):
                signal = await self.stages()
        except TimeoutError:
            signal = {"signal": "blocked", "reason": "the time is over"}
        self.say("signal", **signal)
        if self.has("sends after complete"):
            await asyncio.sleep(0.05)
            self.say("log", level="info", message="one more thing")
        while self.acknowledged < len(self.events):
            await asyncio.sleep(0.01)
        if self.state == "running":
            self.state = "completed" if signal["signal"] == "complete" else "blocked"

    async def stages(self) -> dict[str, Any]:
        self.say("stage.started", stage="planner")
        if self.has("ignores the token budget"):
            self.say("usage.reported", tokens_in=400, tokens_out=100, cost_usd=0.1)
        await asyncio.sleep(0.02)
        if self.dispatch.envelope.mission_type == "crm_lead_intelligence":
            claims = await self.leads()
        else:
            claims = await self.documents()
        if claims is None:
            return {"signal": "blocked", "reason": "a tool was refused"}
        await asyncio.sleep(0.02)
        self.make("worker_result", task_id="t1", claims=claims)
        if not self.has("completes without a result"):
            status = "answered" if claims else "not_found"
            self.make(
                "aggregation_packet",
                answer_status=status,
                answer=" ".join(one["text"] for one in claims),
                claims=claims,
            )
        self.say("stage.completed", stage="planner", latency_ms=3)
        return {"signal": "complete"}

    async def documents(self) -> list[dict[str, Any]] | None:
        found = await self.tool("workspace.search", query=self.dispatch.envelope.normalized_goal)
        outline = await self.tool("workspace.outline")
        if found is None or outline is None:
            return None
        cited = [cite(one, one["text"], one["start"]) for one in found["passages"][:2]]
        if self.has("cites what it was never shown"):
            secret = "Nobody has ever written this."
            cited = [cite({"source": hashlib.sha256(secret.encode()).hexdigest(), "document": "x.md"}, secret, 0)]
        if self.has("quotes wrongly"):
            cited = [cite(one, one["text"], one["start"] + 1) for one in found["passages"][:2]]
        return [{"id": f"c{place}", "text": one["quote"], "citations": [one]} for place, one in enumerate(cited)]

    async def leads(self) -> list[dict[str, Any]] | None:
        page = await self.tool("crm.list", kind="lead")
        if page is None:
            return None
        row = page["records"][0]
        evidence = cite(row, row["text"], 0)
        self.propose(row, evidence)
        return [{"id": "c1", "text": f"{row['fields']['name']} is a lead.", "citations": [evidence]}]

    def propose(self, row: dict[str, Any], evidence: dict[str, Any]) -> None:
        said = self.base("writeback_proposal") | {
            "proposal_id": str(UUID(int=7)),
            "connector": "sample_crm",
            "target": f"{row['kind']}/{row['record_id']}",
            "operation": "update",
            "changes": {"priority": "high"},
            "expected_version": "0" if self.has("proposes on an old version") else row["version"],
            "summary": "more urgent",
            "rationale": "it answers",
            "evidence": [evidence],
            "risk_level": "low",
        }
        self.say("writeback.proposed", proposal=said)

    def make(self, kind: str, **more: Any) -> None:
        self.say("artifact.produced", artifact=self.base(kind) | more)

    def base(self, kind: str) -> dict[str, Any]:
        envelope = self.dispatch.envelope
        mission = UUID(int=1) if self.has("artifacts name another mission") else envelope.mission_id
        return {
            "schema_name": kind,
            "schema_version": "1",
            "mission_id": str(mission),
            "tenant_id": str(envelope.tenant_id),
            "actor_id": str(envelope.actor_id),
            "created_at": datetime.now(UTC).isoformat(),
            "producer": {"name": "small colony", "version": "1"},
        }


def cite(row: dict[str, Any], quote: str, start: int) -> dict[str, Any]:
    held = quote.encode()
    return {
        "source": row["source"],
        "document": row["document"],
        "start": start,
        "end": start + len(held),
        "quote": quote,
        "quote_sha256": hashlib.sha256(held).hexdigest(),
    }
