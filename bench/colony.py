"""A colony that does nothing, as fast as a Python process can: the root's own speed is measured, not a colony's.

It speaks the real boundary (signed both ways, mission tokens, event numbers) and knows three kinds of mission by the
label `bench`: none takes the dispatch and calls back once, with a worker_result and the signal complete; `talk` stays
under way and says `stage.started` when it is told to; `propose` reads a CRM record and proposes one change of it.
"""

import asyncio
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

from bench.wire import Client, Message, serve
from colony_client.contract import MAX_MISSIONS_PER_CALL, STAGES
from colony_client.errors import SignatureRefused
from colony_client.signing import (
    KEY_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    MemoryNonces,
    parse_keys,
    sign,
    verify,
)
from colony_client.together import AT_ONCE

CALLBACKS = 50  # connections back to the root: as many as the client has that colonies are given
EVENTS = "/internal/v1/events"
ROOM = 4_000  # missions in hand; who offers more is told to come again
Said = tuple[int, dict[str, Any]]  # what the root answers for a mission: the status, and a receipt or a problem


@dataclass
class Talker:
    """A mission that is kept under way."""

    mission: str
    attempt: int
    token: str
    seq: int = 0
    busy: bool = False  # an event is on its way: the next one waits its turn


class Colony:
    def __init__(self, base_url: str, keys: str) -> None:
        self.keys, self.nonces = parse_keys(keys, "ROOT_API_KEY"), MemoryNonces(2_000_000)
        self.root = Client(base_url, CALLBACKS)
        self.talkers: dict[str, Talker] = {}
        self.in_hand: dict[
            str, int
        ] = {}  # missions that wait for the root to take what is said of them, and their attempts
        self.refused = 0  # callbacks that the root did not take, or of which nobody knows
        self.mixed = 0  # calls that were answered for other missions than they spoke of: whoever measures has to stop
        self.tasks: set[asyncio.Task[Any]] = set()
        self.words: list[tuple[dict[str, Any], asyncio.Future[Said]]] = []  # what waits for a call to the root
        self.speaking = 0  # calls that are on their way with what was said

    async def answer(self, asked: Message) -> tuple[int, bytes]:
        method, _, path = asked.start.partition(" ")
        if path in ("/health", "/ready", "/bench/state"):
            return 200, self.state()
        if path == "/bench/talk":
            return 200, json.dumps(await self.talk(**json.loads(asked.body))).encode()
        if path == "/bench/rest":
            return 200, json.dumps(await self.rest(**json.loads(asked.body))).encode()
        headers = {name: asked.headers.get(name.lower(), "") for name in SIGNED}
        try:
            await verify(self.keys, method, path, asked.body, "colony", headers, self.nonces.first_use)
        except SignatureRefused:
            return 401, b'{"code": "unauthorized"}'
        if method == "GET":
            return self.status(path.rpartition("/")[2])
        if path.endswith("/cancel"):  # of what has ended here: it is not known any more
            return self.status(path.split("/")[-2])
        return 200, self.dispatched(json.loads(asked.body))

    def state(self) -> bytes:
        said = {"status": "ok", "service": "colony that does nothing", "contract_version": "1.0", "ready": True}
        counts = {"talking": len(self.talkers), "refused": self.refused, "mixed": self.mixed}
        return json.dumps({**said, "providers": {}, **counts}).encode()

    def status(self, mission: str) -> tuple[int, bytes]:
        talker, attempt = self.talkers.get(mission), self.in_hand.get(mission)
        if talker is None and attempt is None:
            return 404, b'{"code": "mission_unknown"}'
        said = {"mission_id": mission, "attempt": attempt, "state": "running", "last_seq_sent": 0}
        if talker is not None:
            said |= {"attempt": talker.attempt, "last_seq_sent": talker.seq}
        return 200, json.dumps(said).encode()

    def dispatched(self, batch: dict[str, Any]) -> bytes:
        answers = []
        for one in batch["missions"]:
            kind = one["envelope"]["labels"].get("bench")
            answer = {"mission_id": one["mission_id"], "attempt": one["attempt"], "outcome": "accepted"}
            if kind == "talk":
                self.talkers[one["mission_id"]] = Talker(one["mission_id"], one["attempt"], one["mission_token"])
            elif len(self.in_hand) >= ROOM:
                answer |= {"outcome": "busy", "retry_after_s": 1.0}
            else:
                self.soon(one, self.proposes(one) if kind == "propose" else self.completes(one))
            answers.append(answer)
        return json.dumps({"contract_version": "1.0", "missions": answers}).encode()

    def soon(self, one: dict[str, Any], work: Any) -> None:
        mission = one["mission_id"]
        self.in_hand[mission] = one["attempt"]
        task = asyncio.create_task(work)
        self.tasks.add(task)

        def ended(task: Any) -> None:
            self.tasks.discard(task)
            self.in_hand.pop(mission, None)

        task.add_done_callback(ended)

    async def completes(self, one: dict[str, Any]) -> None:
        await self.say(one["mission_id"], one["attempt"], one["mission_token"], closing(one, 1))

    async def proposes(self, one: dict[str, Any]) -> None:
        """One change of the lead that the mission names, with the record it was shown as evidence."""
        mission, envelope = one["mission_id"], one["envelope"]
        asked = {"arguments": {"kind": "lead", "id": envelope["inputs"]["lead_ids"][0]}}
        path = f"/internal/v1/missions/{mission}/tools/crm.read/calls"
        with self.counting():
            answer = await self.call(path, one["mission_token"], json.dumps(asked).encode())
            found = json.loads(answer.body)
        if answer.status != 200:
            self.refused += 1
            return
        record = found["result"]
        quote = record["text"].encode()[:60].decode(errors="ignore")
        citation = {
            "source": record["source"],
            "document": record["document"],
            "start": 0,
            "end": len(quote.encode()),
            "quote": quote,
            "quote_sha256": sha256(quote.encode()).hexdigest(),
        }
        proposal = {
            **made(one),
            "schema_name": "writeback_proposal",
            "proposal_id": str(uuid4()),
            "connector": "sample_crm",
            "target": f"lead/{record['record_id']}",
            "operation": "update",
            "changes": {"next_action": f"Call about {mission}"},
            "expected_version": record["version"],
            "summary": "one change",
            "rationale": "because the benchmark measures its way",
            "evidence": [citation],
            "risk_level": "low",
        }
        proposed = {"type": "writeback.proposed", "seq": 1, "at": instant(), "proposal": proposal}
        await self.say(mission, one["attempt"], one["mission_token"], [proposed, *closing(one, 2)])

    async def talk(self, missions: list[str], per_s: float, seconds: float) -> dict[str, float]:
        """Says one event at a time for these missions in turn, at a steady pace; how many the root took."""
        loop, began, sent, taken = asyncio.get_running_loop(), asyncio.get_running_loop().time(), 0, 0
        waiting: set[asyncio.Task[bool]] = set()
        for talker in itertools.cycle([self.talkers[mission] for mission in missions]):
            due = began + sent / per_s
            if due >= began + seconds:
                break
            await asyncio.sleep(max(0.0, due - loop.time()))
            while len(waiting) >= CALLBACKS:  # the root is slower than the pace: what is said then is what it takes
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                taken += sum(one.result() for one in done)
            if loop.time() >= began + seconds:
                break
            if talker.busy:
                await asyncio.sleep(0)
                continue
            talker.busy = True
            waiting.add(asyncio.create_task(self.stage(talker)))
            sent += 1
        taken += sum(await asyncio.gather(*waiting))
        return {"sent": sent, "taken": taken, "seconds": loop.time() - began}

    async def rest(self, missions: list[str]) -> dict[str, int]:
        """These have said what they had to say: each ends blocked, and what is measured next does not carry them along."""

        async def end(talker: Talker) -> bool:
            talker.seq += 1
            event = {"type": "signal", "seq": talker.seq, "at": instant(), "signal": "blocked", "reason": "said enough"}
            status, _ = await self.say(talker.mission, talker.attempt, talker.token, [event])
            return status == 200

        ended = await asyncio.gather(*(end(self.talkers.pop(mission)) for mission in missions))
        return {"ended": sum(ended)}

    async def stage(self, talker: Talker) -> bool:
        talker.seq += 1
        stage = STAGES[talker.seq % len(STAGES)]
        event = {"type": "stage.started", "seq": talker.seq, "at": instant(), "stage": stage}
        status, said = await self.say(talker.mission, talker.attempt, talker.token, [event])
        if status == 200:
            talker.token = said["next_token"]
        talker.busy = False
        return status == 200

    async def say(self, mission: str, attempt: int, token: str, events: list[dict[str, Any]]) -> Said:
        """Goes at once while few calls are on their way, and else with all that is said until one of them is back."""
        told: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self.words.append(({"mission_id": mission, "token": token, "attempt": attempt, "events": events}, told))
        if self.speaking < AT_ONCE:
            self.speaking += 1
            task = asyncio.create_task(self.speak())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        with self.counting():
            status, said = await told
        if status != 200:
            self.refused += 1
        return status, said

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What breaks on its way, or comes back as no answer, was not taken either."""
        try:
            yield
        except Exception:
            self.refused += 1
            raise

    async def speak(self) -> None:
        """Says what there is to say, until there is nothing."""
        try:
            while self.words:
                together, self.words = self.words[:MAX_MISSIONS_PER_CALL], self.words[MAX_MISSIONS_PER_CALL:]
                try:
                    found = await self.tell([one for one, _ in together])
                except Exception as error:
                    found = [error] * len(together)
                for (_, told), one in zip(together, found, strict=True):
                    if isinstance(one, Exception):
                        told.set_exception(one)
                    else:
                        told.set_result(one)
        finally:
            self.speaking -= 1

    async def tell(self, missions: list[dict[str, Any]]) -> list[Said | Exception]:
        """What the root answers to each of them; the error of one that was busy and is lost when it comes again."""
        if len(missions) == 1:
            [one] = missions
            batch = {"contract_version": "1.0", "attempt": one["attempt"], "events": one["events"]}
            answer = await self.call(f"/internal/v1/missions/{one['mission_id']}/events", one["token"], dense(batch))
            return [(answer.status, json.loads(answer.body))]
        answer = await self.call(EVENTS, None, dense({"contract_version": "1.2", "missions": missions}))
        said = json.loads(answer.body)
        if answer.status != 200:
            return [(answer.status, said)] * len(missions)
        if [told.get("mission_id") for told in said["missions"]] != [one["mission_id"] for one in missions]:
            self.mixed += 1
            raise RuntimeError("the root answered for other missions than it was told of")
        found: list[Said | Exception] = []
        for one, told in zip(missions, said["missions"], strict=True):
            status = 200 if told["receipt"] else told["problem"]["status"]
            again = status in (429, 503)
            try:
                found += await self.tell([one]) if again else [(status, told["receipt"] or told["problem"])]
            except Exception as error:
                found.append(error)
        return found

    async def call(self, path: str, token: str | None, body: bytes) -> Message:
        """Tried again for a while when the root is busy, as any colony does."""
        for pause in (0.05, 0.2, 1.0, 2.0, 0):
            headers = sign(self.keys, "POST", path, body, "root")
            headers |= {"Content-Type": "application/json"}
            headers |= {"Authorization": f"Bearer {token}"} if token else {}
            answer = await self.root.ask("POST", path, headers, body)
            if answer.status not in (429, 503) or not pause:
                break
            await asyncio.sleep(pause)
        return answer


SIGNED = (KEY_HEADER, TIMESTAMP_HEADER, NONCE_HEADER, SIGNATURE_HEADER)


def dense(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def made(one: dict[str, Any]) -> dict[str, Any]:
    """What every artifact of a mission carries."""
    envelope = one["envelope"]
    return {
        "schema_version": "1",
        "mission_id": one["mission_id"],
        "tenant_id": envelope["tenant_id"],
        "actor_id": envelope["actor_id"],
        "created_at": instant(),
        "producer": {"name": "bench", "version": "1"},
    }


def closing(one: dict[str, Any], seq: int) -> list[dict[str, Any]]:
    """The events that end an attempt: a result without claims, which review lets pass as an honest `not_found`."""
    result = {**made(one), "schema_name": "worker_result", "task_id": "t1", "claims": [], "not_found": ["nothing"]}
    return [
        {"type": "artifact.produced", "seq": seq, "at": instant(), "artifact": result},
        {"type": "signal", "seq": seq + 1, "at": instant(), "signal": "complete"},
    ]


def instant() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def main() -> None:
    colony = Colony(os.environ["ROOT_API_BASE_URL"], os.environ["ROOT_API_KEY"])
    server = await serve(colony.answer, int(os.environ["PORT"]))
    await server.serve_forever()


def run() -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
