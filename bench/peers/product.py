"""The product itself, through its own doors: one instance that only accepts, one that does everything."""

import asyncio
import time
from dataclasses import replace

import asyncpg

from bench.instance import Instance
from bench.load import BODY, Loaded, Post, by_sockets, load
from bench.peers.base import Completed, Counted
from bench.streams import Stream, end_of_ledger, listening
from bench.wire import Client

# What one accepted mission leaves in the product's own tables.
TRACES = {
    "mission": "SELECT count(*) FROM mission",
    "envelope": "SELECT count(*) FROM artifact WHERE schema_name = 'mission_envelope'",
    "policy_decision": "SELECT count(*) FROM policy_decision WHERE mission IS NOT NULL AND action = 'mission.create'",
    "fact": "SELECT count(*) FROM ledger WHERE type = 'mission.accepted'",
}
ACCEPTED_TRACES = {**TRACES, "work": "SELECT count(*) FROM work WHERE kind = 'dispatch'"}
# And one that the colony which does nothing has worked on.
COMPLETED_TRACES = {
    "mission": "SELECT count(*) FROM mission WHERE state = 'completed'",
    "result": "SELECT count(*) FROM artifact WHERE schema_name = 'worker_result'",
    "review": "SELECT count(*) FROM artifact WHERE schema_name = 'review_packet'",
    "fact": "SELECT count(*) FROM ledger WHERE type = 'mission.completed'",
}
# Through the index by state, tenant after tenant: asking must not cost more with each round.
OPEN = """FROM tenant t, unnest(ARRAY['accepted', 'dispatched', 'running', 'in_review', 'awaiting_approval', 'executing']) s,
  LATERAL (SELECT FROM mission m WHERE m.tenant = t.id AND m.state = s OFFSET 0) open"""
UNDER_WAY = f"SELECT EXISTS (SELECT {OPEN} OFFSET $1)"  # more than so many
LOOK_S = 0.02
PATIENCE_S = 200.0


class Product:
    """Asked like a peer. Completed missions are counted in the database while they run, and at the end."""

    name = "ours"

    def __init__(self, accepting: Instance, working: Instance) -> None:
        self.accepting, self.working = accepting, working
        self.answered = self.unanswered = self.refused = 0
        self.wanted = 0  # completed missions
        self.met = 0  # tenants that the accepting instance knows

    def post(self, instance: Instance, *, keyed: bool) -> Post:
        headers = {"Authorization": f"Bearer {instance.key_of('submitter')}"}
        return Post(f"{instance.base_url}/v1/missions", headers, keyed=keyed)

    def accept(self, run: str, seconds: float, connections: int) -> Loaded:
        """`POST /v1/missions`, the whole path; no worker takes up what was accepted."""
        return self.counting(load(self.post(self.accepting, keyed=True), run, connections, seconds))

    def counting(self, found: Loaded) -> Loaded:
        self.answered, self.unanswered = self.answered + found.accepted, self.unanswered + found.unanswered
        self.refused += found.refused
        return found

    def accept_of_tenants(self, run: str, seconds: float, connections: int, tenants: int) -> Loaded:
        """The same when so many tenants send in turns. Each has been met before: a process meets it for the first time once."""
        senders = tuple(f"Bearer {key}" for key in self.accepting.keys_of_tenants(tenants))
        post = replace(self.post(self.accepting, keyed=True), authorizations=senders)
        if tenants > self.met:
            self.met = tenants
            self.counting(
                asyncio.run(by_sockets(post, f"{run}-first", connections, most=2 * tenants))
            )  # each sends two in turn
        return self.counting(load(post, run, connections, seconds))

    def accept_watched(self, run: str, seconds: float, connections: int, streams: int) -> Loaded:
        """The same while as many tenant-wide streams are told of every fact."""
        with listening(self.accepting, streams):
            return self.accept(run, seconds, connections)

    def completed(self, run: str, count: int, connections: int) -> Completed:
        """The same until each is completed: dispatched, worked on, reviewed."""
        return asyncio.run(self._completed(run, count, connections))

    async def _completed(self, run: str, count: int, connections: int) -> Completed:
        database = await asyncpg.connect(self.working.superuser())
        try:
            before = await database.fetchval(COMPLETED_TRACES["mission"])
            lasting = await database.fetchval(f"SELECT count(*) {OPEN}")  # those that talk to streams, for instance
            began = time.perf_counter()
            posting = asyncio.create_task(
                by_sockets(self.post(self.working, keyed=False), run, connections, most=count, seconds=PATIENCE_S)
            )
            # who is counted over and over is those under way: counting all that are done would cost more with each round
            while not posting.done() or await database.fetchval(UNDER_WAY, lasting):
                if time.perf_counter() - began > PATIENCE_S:
                    break
                await asyncio.sleep(LOOK_S)
            took = time.perf_counter() - began
            accepted, done = (await posting).accepted, await database.fetchval(COMPLETED_TRACES["mission"]) - before
            self.wanted += accepted
            self.refused += count - accepted
            if done != accepted:
                raise RuntimeError(f"{accepted} missions were accepted and {done} completed")
            return Completed(done, took)
        finally:
            await database.close()

    def lone(self, times: int) -> list[float]:
        """From posting one mission to seeing `mission.completed` on the tenant's stream, in milliseconds."""
        return asyncio.run(self._lone(times))

    async def _lone(self, times: int) -> list[float]:
        key, client = self.working.key_of("submitter"), Client(self.working.base_url, 1)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        found = []
        async with Stream(self.working.base_url, "/v1/events", key, await end_of_ledger(self.working)) as stream:
            for _ in range(times):
                began = time.perf_counter()
                answer = await client.ask("POST", "/v1/missions", headers, BODY.encode())
                if answer.status != 202:
                    raise RuntimeError(f"a mission was answered {answer.status}")
                self.wanted += 1
                seen = await stream.until("mission.completed", 20)
                found.append((seen - began) * 1000)
        client.close()
        return found

    def noting(self, decided: list[float]) -> list[float]:
        """Missions whose change was approved are completed ones too."""
        self.wanted += len(decided)
        return decided

    def stop(self) -> None:
        """Both sets of processes drain: whatever they were still doing is in the tables then. The databases stay."""
        self.accepting.stop_processes()
        self.working.stop_processes()

    def counted(self) -> dict[str, Counted]:
        """The tables beside the answers, once the processes have drained."""
        return {
            "accepted": Counted(self.answered, same(self.accepting.counts(ACCEPTED_TRACES)), self.unanswered),
            "completed": Counted(self.wanted, same(self.working.counts(COMPLETED_TRACES))),
        }


def same(rows: dict[str, int]) -> int:
    """The number that all of them agree on, or -1."""
    return next(iter(rows.values())) if len(set(rows.values())) == 1 else -1
