"""Restate: one server (Rust, a log and RocksDB on disk) and a Python service that it calls over HTTP/2."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.load import Loaded, Post, by_sockets, load
from bench.peers.base import INSIDE, Completed, Counted, Peer, ask_json, free_port, npm_folder

SERVER = "@restatedev/restate-server@1.7.12"

AT_ONCE = 4  # calls under way for each connection that ours posts over


class Restate(Peer):
    name = "restate"
    parked_name = "restate, parked"
    version = f"{SERVER.rpartition('/')[2]}, restate-sdk 1.3.0"
    durable = "restate-server; its log's WAL is synced before the answer (rocksdb-disable-wal-fsync = false)"
    pins = ("restate-sdk[serde]==1.3.0", "hypercorn==0.18.0", "uvloop==0.23.0")

    def install(self) -> None:
        super().install()
        packages = npm_folder(self.name, SERVER) / "node_modules" / "@restatedev"
        self.binary = next(packages.glob("restate-server-*/bin/restate-server"))

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        ingress, admin, node, app = free_port(), free_port(), free_port(), free_port()
        self.ingress, self.admin = f"http://127.0.0.1:{ingress}", f"http://127.0.0.1:{admin}"
        self.parked = self.maybe_parked = 0
        environ = {
            "RESTATE_BASE_DIR": str(place / "data"),
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RUST_LOG": "warn",
        }
        self.run([self.binary], place / "server.log", environ)
        hypercorn = self.python.with_name("hypercorn")
        command = [hypercorn, "-b", f"127.0.0.1:{app}", "-k", "uvloop", "restate_app:app"]
        self.run(command, place / "service.log", {"PYTHONPATH": str(INSIDE)})
        self.await_answer(f"{self.admin}/health", place / "server.log")
        self.await_port(app, place / "service.log")
        self.until_done(
            lambda: ask_json("POST", f"{self.admin}/deployments", {"uri": f"http://127.0.0.1:{app}", "force": True})
        )
        self.until_done(lambda: ask_json("POST", f"{self.ingress}/Bench/run", {}))
        self.answered += 1

    def accept_parked(self, run: str, seconds: float, connections: int) -> Loaded:
        """/send that is due in an hour: accepted and durable, and like our missions here taken up by nobody."""
        found = load(Post(f"{self.ingress}/Bench/run/send?delay=1h"), f"parked-{run}", connections, seconds)
        self.parked += found.accepted
        self.maybe_parked += found.unanswered
        return found

    def accept(self, run: str, seconds: float, connections: int) -> Loaded:
        """/send while the service works on what was sent; what is left over afterwards is waited for."""
        found = load(Post(f"{self.ingress}/Bench/run/send"), f"working-{run}", connections, seconds)
        self.answered += found.accepted
        self.unanswered += found.unanswered
        self.until_idle()
        return found

    def completed(self, run: str, count: int, connections: int) -> Completed:
        """Calls, which are answered when their invocation has ended; more at a time than posts, which it likes better."""
        post = Post(f"{self.ingress}/Bench/run", keyed=False)
        found = asyncio.run(by_sockets(post, run, min(count, AT_ONCE * connections), most=count, seconds=200))
        if found.refused:
            raise RuntimeError(f"{found.refused} of {count} calls were refused")
        self.answered += found.accepted
        return Completed(found.accepted, found.seconds)

    def lone(self, times: int) -> list[float]:
        found = asyncio.run(by_sockets(Post(f"{self.ingress}/Bench/run", keyed=False), "lone", 1, most=times))
        self.answered += found.accepted
        return found.times_ms

    def resume(self, times: int) -> list[float]:
        """From the decision being posted to the step after it, in milliseconds."""
        found = []
        for _ in range(times):
            key = uuid.uuid4().hex
            ask_json("POST", f"{self.ingress}/Asking/{key}/main/send", {})
            time.sleep(0.03)  # it has come to where it waits
            posted = time.monotonic()
            ask_json("POST", f"{self.ingress}/Asking/{key}/decide", {})
            left = ask_json("GET", f"{self.ingress}/restate/workflow/Asking/{key}/attach")
            found.append((left - posted) * 1000)
        return found

    def counted(self) -> Counted:
        self.until_idle()
        rows = {row["status"]: row["n"] for row in self.invocations()}
        parked = Counted(self.parked, rows.get("scheduled", 0), self.maybe_parked)
        done = Counted(self.answered, rows.get("completed", 0), self.unanswered)
        return Counted(
            parked.answered + done.answered, parked.stored + done.stored, parked.unanswered + done.unanswered
        )

    def until_idle(self) -> None:
        deadline = time.monotonic() + 120
        while any(row["status"] not in ("completed", "scheduled") for row in self.invocations()):
            if time.monotonic() > deadline:
                raise RuntimeError("Restate was not through with what it had accepted after two minutes")
            time.sleep(0.2)

    def invocations(self) -> list[dict[str, Any]]:
        query = "SELECT status, count(*) AS n FROM sys_invocation WHERE target_service_name = 'Bench' GROUP BY status"
        found: list[dict[str, Any]] = ask_json("POST", f"{self.admin}/query", {"query": query})["rows"]
        return found

    def until_done(self, ask: Callable[[], Any]) -> None:
        """A server that has just started refuses for a moment."""
        for _ in range(60):
            try:
                ask()
                return
            except (OSError, json.JSONDecodeError) as error:
                last = error
                time.sleep(0.5)
        raise RuntimeError(f"Restate kept refusing: {last}")
