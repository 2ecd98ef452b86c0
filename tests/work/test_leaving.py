"""A process that was told to stop is gone in time, whatever does not end in it: real processes, in a hurry."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.http.serving import GRACE_S, LATE_S
from app.process import CANCELLED_S, CLOSE_S, DRAIN_S, LEAVE_S, LEFT_BEHIND
from app.supervisor.watch import STOP_WITHIN_S
from app.telemetry import LAST_SPANS_S
from app.worker import HANDED_OUT_S, LOOKING_S, SLACK_S
from tests.identity.test_settings import COMPLETE, REPOSITORY

PROGRAM = """
import asyncio, sys, time
from app import process
from app.http.serving import uvicorns_loop

async def swallows():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def serve(settings):
    stopping = asyncio.Event()
    process.set_when_told_to_stop(stopping)
    if "left" in sys.argv:
        kept = [asyncio.create_task(swallows(), name="who swallows"), asyncio.create_task(asyncio.to_thread(time.sleep, 60))]
        await asyncio.sleep(0)
    print("ready", flush=True)
    if "stuck" in sys.argv:
        time.sleep(60)
    await stopping.wait()

if "orderly" not in sys.argv:
    process.LEAVE_S = 0.5
process.run("worker", serve, uvicorns_loop() if "uvloop" in sys.argv else None)
"""


@pytest.mark.parametrize(
    ("how", "code", "tasks", "threads"),
    [
        ("orderly", 0, [], []),
        ("left uvloop", LEFT_BEHIND, ["who swallows (swallows)"], ["MainThread", "uvloop_0 ("]),
        ("stuck", LEFT_BEHIND, ["Task-1 (serve)"], ["MainThread (serve)"]),
        ("stuck uvloop", LEFT_BEHIND, ["Task-1 (serve)"], ["MainThread (serve)"]),
    ],
)
def test_a_process_leaves_and_names_what_it_leaves(
    how: str, code: int, tasks: list[str], threads: list[str], tmp_path: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *how.split()],
        cwd=tmp_path, env={**os.environ, **COMPLETE, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        _, error = child.communicate(timeout=STOP_WITHIN_S)
    finally:
        child.kill()
    assert child.returncode == code, error
    if code:
        said = json.loads(error.splitlines()[-1])
        assert (said["event"], said["process"]) == ("left before everything had ended", "worker")
        assert all(any(one.startswith(task) for one in said["tasks"]) for task in tasks), said
        assert all(any(one.startswith(thread) for one in said["threads"]) for thread in threads), said


def test_an_orderly_end_has_its_steps_before_that() -> None:
    """Each step may be late, and what was late then be cancelled in vain."""
    closing = 2 * (CLOSE_S + CANCELLED_S) + LAST_SPANS_S
    served, worked = 2 * LATE_S + GRACE_S + CANCELLED_S, DRAIN_S + SLACK_S + CANCELLED_S
    assert max(served, worked) + closing <= LEAVE_S < STOP_WITHIN_S
    assert HANDED_OUT_S + LOOKING_S + 2 * CANCELLED_S <= DRAIN_S + SLACK_S, (
        "within the time of the loop that waits for them"
    )
