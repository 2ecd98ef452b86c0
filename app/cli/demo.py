"""`mission-root demo`: the whole walk on a fresh instance, as a client of the same API that everybody uses."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from app.cli import approval_screen, show
from app.cli.client import ENDED, AsJson, Client, Failed, emit
from app.cli.missions import await_state
from app.cli.processes import Port
from app.cli.workspace import documents, ingest_documents
from app.embedded import ends_with_parent

CHECKOUT = Path(__file__).parents[2]
WORKSPACE = "repository"
PATIENCE_S = 180.0  # for one mission to get to its next stop
MISSIONS = {
    "oracle_advisory": "What must happen before a writeback is executed?",
    "crm_lead_intelligence": "Which leads deserve a call, and why?",
    "catalyst_strategy_brief": "How should a team introduce agents that may change business systems?",
}


@dataclass
class Walk:
    """One run of the demo. `doubts` collects what did not hold; empty means that everything did."""

    up: dict[str, Any]
    as_json: bool
    asks: bool
    packets: dict[str, dict[str, Any]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def client(self, who: str) -> Client:
        return Client(self.up["base_url"], self.up["keys"][who])

    def tell(self, words: str) -> None:
        if not self.as_json:
            show.heading(words)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.doubts.append(otherwise)


def demo(
    once: Annotated[bool, typer.Option("--once", help="End when done; exit code 0 only if everything held.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Add a Catalyst mission.")] = False,
    port: Port = None,
    as_json: AsJson = False,
) -> None:
    """See it work: a fresh instance, two missions, cited answers, writebacks approved, executed and read back."""
    began = time.monotonic()
    kinds = [kind for kind in MISSIONS if everything or kind != "catalyst_strategy_brief"]
    with temporary_folder() as folder, up_in(folder, port) as up:
        walk = Walk(up, as_json, asks=not as_json and sys.stdin.isatty() and sys.stdout.isatty())
        result = {**take(walk, kinds), "elapsed_s": round(time.monotonic() - began, 2)}
        if as_json:
            emit(result)
        else:
            conclude(walk, result)
        if not once:
            keep_serving(up, as_json)
    if walk.doubts:
        raise Failed(f"The demo did not hold: {'; '.join(walk.doubts)}.", 1)


def take(walk: Walk, kinds: list[str]) -> dict[str, Any]:
    """The walk itself; what it found, as `--json` prints it."""
    with walk.client("submitter") as submitter, walk.client("operator") as operator:
        read_documents(walk, submitter)
        asked = [ask(submitter, kind) for kind in kinds]
        stops = [reach_stop(walk, submitter, mission) for mission in asked]
        for mission in stops:
            present(walk, submitter, mission)
        for approval in waiting(operator, stops):
            decide(walk, operator, approval)
        ended = [finish(walk, submitter, mission) for mission in stops]
        writebacks = [check(walk, operator, writeback) for mission in ended for writeback in of(operator, mission)]
        walk.expect(len(writebacks) >= 2, f"the sample CRM led to {len(writebacks)} writebacks, not to two or more")
        verdict = verify(walk)
    return {
        "missions": [summary(walk, mission) for mission in ended],
        "writebacks": writebacks,
        "ledger": {"facts": verdict["facts"], "verified": verdict["verified"]},
    }


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Removed at the end, also when that comes as a signal; what failed leaves its logs."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, leave)
    with tempfile.TemporaryDirectory(prefix="mission-root-demo-", ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder)
        except Failed:
            kept = tempfile.mkdtemp(prefix="mission-root-logs-")
            shutil.copytree(Path(folder, "logs"), kept, dirs_exist_ok=True)
            show.aside(f"The logs are kept in {kept}.")
            raise


@contextmanager
def up_in(folder: Path, port: int | None) -> Iterator[dict[str, Any]]:
    """`mission-root up --json` as a child; what it says about itself. Ended, with all of its own, on the way out."""
    asked = ["--port", str(port)] if port else []
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", "up", "--json", "--data-dir", str(folder), *asked],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C ends the demo, and the demo ends this
        preexec_fn=ends_with_parent(signal.SIGTERM),
    )
    try:
        assert process.stdout
        said = process.stdout.readline()
        if not said:
            raise Failed("The instance did not start; the reason is above.", process.wait() or 1)
        yield json.loads(said)
    finally:
        process.terminate()
        process.wait()


def read_documents(walk: Walk, client: Client) -> None:
    """The repository's own pages, as a workspace."""
    found = {name: CHECKOUT / name for name in ("README.md", "ARCHITECTURE.md") if (CHECKOUT / name).exists()}
    for folder in ("runbooks", "docs"):
        found |= {f"{folder}/{name}": file for name, file in documents(CHECKOUT / folder)}
    walk.tell(f"Reading {len(found)} documents of this repository")
    done = ingest_documents(client, WORKSPACE, found)
    walk.expect(not done.refused, f"documents were refused: {', '.join(done.refused)}")
    if not walk.as_json:
        show.ingested(WORKSPACE, done.summary())


def ask(client: Client, kind: str) -> dict[str, Any]:
    body = {"mission_type": kind, "user_goal": MISSIONS[kind], "inputs": {"workspace": WORKSPACE}, "mode": "assisted"}
    made: dict[str, Any] = client.post("/v1/missions", body, idempotency_key=f"demo-{kind}").body
    return made


def reach_stop(walk: Walk, client: Client, mission: dict[str, Any]) -> dict[str, Any]:
    """Until it has ended or waits for a human, telling each stage."""
    walk.tell(f"{mission['mission_type']}: {MISSIONS[mission['mission_type']]}")
    with show.progressing(quiet=walk.as_json) as tell:
        return await_state(client, mission["id"], PATIENCE_S, {*ENDED, "awaiting_approval"}, tell)


def present(walk: Walk, client: Client, mission: dict[str, Any]) -> None:
    """The answer with its citations; every one has to be verified by the root."""
    packet = client.get(f"/v1/missions/{mission['id']}/packet").body
    walk.packets[mission["id"]] = packet
    if not walk.as_json:
        walk.tell(f"{mission['mission_type']}: the result")
        show.packet(packet)


def waiting(client: Client, missions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every approval that waits, of all the missions."""
    return [
        client.get(f"/v1/approvals/{approval['id']}").body
        for mission in missions
        for approval in client.pages("/v1/approvals", 1000, state="pending", mission=mission["id"])
    ]


def decide(walk: Walk, client: Client, approval: dict[str, Any]) -> None:
    """One decision on exactly the bytes that were shown."""
    if not walk.as_json:
        walk.tell("A change waits for a human")
        approval_screen.approval(client, approval)
    yes = not walk.asks or typer.confirm("Approve exactly this?", default=None)  # Enter alone decides nothing
    body = {"decision": "approve", "comment": "Approved in the demo."}
    if not yes:
        body = {"decision": "reject", "comment": "Rejected in the demo."}
    body["payload_sha256"] = approval["payload_sha256"]
    seen = client.get(f"/v1/approvals/{approval['id']}")
    decided = client.post(f"/v1/approvals/{approval['id']}/decisions", body, if_match=seen.etag).body
    if not walk.as_json:
        approval_screen.decided(decided)


def finish(walk: Walk, client: Client, mission: dict[str, Any]) -> dict[str, Any]:
    """Until it has ended; meanwhile the end of the undo window is counted down to."""
    if mission["state"] not in ENDED:
        ends = [
            approval["not_before"]
            for approval in client.pages("/v1/approvals", 1000, mission=mission["id"])
            if approval.get("not_before")
        ]
        window = max((datetime.fromisoformat(end) - datetime.now(UTC)).total_seconds() for end in ends) if ends else 0.0
        walk.tell("The undo window: until it ends, cancelling the mission still stops the change")
        with show.counting_down(window, quiet=walk.as_json):
            mission = await_state(client, mission["id"], PATIENCE_S + max(0.0, window), set(ENDED))
    walk.expect(mission["state"] == "completed", f"mission {mission['id']} ended {mission['state']}")
    return mission


def of(client: Client, mission: dict[str, Any]) -> list[dict[str, Any]]:
    return client.pages("/v1/writebacks", 1000, mission=mission["id"])


def check(walk: Walk, client: Client, listed: dict[str, Any]) -> dict[str, Any]:
    """Receipt and read-back of one writeback: what the target holds now must be what was approved."""
    found = client.get(f"/v1/writebacks/{listed['id']}").body
    if not walk.as_json:
        walk.tell("Receipt and read-back")
        show.writeback(found)
    if found["state"] != "rejected":
        walk.expect(found["state"] == "succeeded", f"writeback {found['id']} ended {found['state']}")
        same = found["read_back_sha256"] == found["payload_sha256"]
        walk.expect(same, f"what was read back from {found['target']} is not what was approved")
    return {
        "id": found["id"],
        "state": found["state"],
        "approvals": found["approvals"],
        "payload_sha256": found["payload_sha256"],
        "read_back_sha256": found["read_back_sha256"],
        "read_back": found["read_back"],
    }


def verify(walk: Walk) -> dict[str, Any]:
    with walk.client("auditor") as auditor:
        verdict: dict[str, Any] = auditor.post("/v1/ledger/verify").body
    walk.expect(verdict["verified"], f"the ledger does not verify: {verdict['first_bad']}")
    if not walk.as_json:
        walk.tell("The ledger")
        show.verdict(verdict)
    return verdict


def summary(walk: Walk, mission: dict[str, Any]) -> dict[str, Any]:
    packet = walk.packets[mission["id"]]
    citations = [citation for claim in packet["claims"] for citation in claim["citations"]]
    verified = sum(bool(citation["verified"]) for citation in citations)
    if mission["mission_type"] != "catalyst_strategy_brief":  # a brief may honestly find nothing in these documents
        answered = packet["answer_status"] == "answered" and bool(citations)
        walk.expect(answered, f"{mission['mission_type']} found no answer")
    walk.expect(verified == len(citations), f"{mission['mission_type']} has claims that are not verified")
    return {
        "id": mission["id"],
        "mission_type": mission["mission_type"],
        "state": mission["state"],
        "claims": len(packet["claims"]),
        "citations": len(citations),
        "citations_verified": verified,
    }


def conclude(walk: Walk, result: dict[str, Any]) -> None:
    held = "Everything held" if not walk.doubts else "Not everything held"
    walk.tell(f"{held}; {result['elapsed_s']} s from nothing to here")


def keep_serving(up: dict[str, Any], as_json: bool) -> None:
    if not as_json:
        show.instance(up, "Ctrl-C ends the demo and removes its data.")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
