"""LangGraph's dev server: its API with a store in memory, so nothing of it is durable."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.load import BODY, Loaded, Post, load
from bench.peers.base import INSIDE, Peer, free_port

INPUT = {"body": json.loads(BODY), "number": 0}


class Langgraph(Peer):
    name = "langgraph"
    version = "langgraph-cli 0.4.40, langgraph-api 0.16.7, langgraph 1.2.22"
    durable = "nobody: `langgraph dev` keeps runs in memory; accept makes a run that is due in an hour"
    pins = ("langgraph-cli[inmem]==0.4.40", "langgraph-api==0.16.7", "langgraph==1.2.22", "aiohttp==3.14.5")

    def start(self, place: Path, new_database: Callable[[str], str]) -> None:
        port, log = free_port(), place / "server.log"
        self.url = f"http://127.0.0.1:{port}"
        self.lay(place)
        command = [self.python.with_name("langgraph"), "dev", "--no-browser", "--no-reload", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--n-jobs-per-worker", "32", "--server-log-level", "ERROR"]
        self.run(command, log, {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"})
        self.await_answer(f"{self.url}/ok", log)
        self.drive("agent_protocol_driver.py", place / "driver.log", self.url)

    def lay(self, place: Path) -> None:
        """The project that it serves."""
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(INSIDE / "graph.py", place / "graph.py")
        (place / "langgraph.json").write_text(
            json.dumps({"dependencies": ["."], "graphs": {"mission": "./graph.py:mission"}})
        )

    def accept(self, run: str, seconds: float, connections: int) -> Loaded:
        body = {"assistant_id": "mission", "input": INPUT, "after_seconds": 3600}
        return load(Post(f"{self.url}/runs", body=json.dumps(body), keyed=False), run, connections, seconds)
