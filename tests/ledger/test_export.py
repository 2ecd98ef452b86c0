"""The export and its offline verifier: it needs nothing of ours, and no changed file passes."""

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app import ledger
from app.errors import Problem
from app.ledger import offline
from app.ledger.export import prepare
from tests.ledger.anchored import OLD, Anchored, anchored, owning
from tests.walls.ground import Ground

KEYS = OLD.public()
Lines = list[dict[str, Any]]

# Nothing but the standard library, `cryptography` and what that itself loads may be imported by the verifier.
ALONE = """
import sys, runpy
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("cryptography", "_cffi_backend", "cffi", "pycparser"):
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


async def export(one: Anchored, file: Path, subject: UUID | None = None) -> Lines:
    ready = await prepare(ledger.inside_of(one.api, one.tenant), one.tenant, one.store, one.keys, subject)
    file.write_bytes(b"".join([page async for page in ready.lines()]))
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, lines: Lines) -> Path:
    """The file with an end that fits, as a careful forger would write it."""
    body = b"".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for one in lines[:-1])
    end = lines[-1] | ({"sha256": hashlib.sha256(body).hexdigest()} if lines[-1].get("kind") == "end" else {})
    file.write_bytes(body + json.dumps(end, separators=(",", ":")).encode() + b"\n")
    return file


async def told(one: Anchored) -> UUID:
    mission, other = uuid4(), uuid4()
    for _ in range(3):
        await one.tell(mission, other, mission)
        await one.anchor()
    await one.tell(mission)
    await one.settled()
    return mission


async def test_a_whole_export_verifies_alone(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        lines = await export(one, tmp_path / "ledger.jsonl")
        facts = await one.rows()
    [source] = [line["source"] for line in lines if line["kind"] == "verifier"]
    (tmp_path / "verify_ledger.py").write_text(source)
    (tmp_path / "alone.py").write_text(ALONE)
    key = "old:" + base64.b64encode(KEYS["old"]).decode()
    ended = subprocess.run(
        [sys.executable, "-I", "alone.py", "verify_ledger.py", "ledger.jsonl", "--key", key],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    verdict = json.loads(ended.stdout)
    assert verdict["verified"] and verdict["keys_given"] and verdict["first_bad"] is None
    assert (verdict["facts"], verdict["tail"], verdict["anchors"]) == (len(facts), 2, 3)
    exported = [line for line in lines if line["kind"] == "fact"]
    assert [line["body"].encode() for line in exported] == [fact["body"] for fact in facts]
    assert [line["hash"] for line in exported] == [fact["hash"].hex() for fact in facts]


async def test_a_partial_export_proves_each_of_its_facts(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        mission = await told(one)
        lines = await export(one, tmp_path / "mission.jsonl", mission)
    facts = [line for line in lines if line["kind"] == "fact"]
    assert len(facts) == 7 and {fact["subject"] for fact in facts} == {str(mission)}
    assert [fact["proof"] is not None for fact in facts] == [True] * 6 + [False]
    verdict = offline.verify(tmp_path / "mission.jsonl", KEYS)
    assert verdict["verified"] and (verdict["covered"], verdict["tail"], verdict["anchors"]) == (6, 1, 1)


def changed(value: Any) -> Any:
    """Something else of the same kind."""
    if value is None:
        return 0
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        return value[:-1]
    if value and set(value) <= set("0123456789abcdef"):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return value + "x"


async def test_no_field_of_any_line_can_be_changed(ground: Ground, tmp_path: Path) -> None:
    """Each field of each kind, with a digest at the end that was made to fit; only the source may be another program."""
    async with anchored(ground, tmp_path / "store") as one:
        mission = await told(one)
        both = await export(one, tmp_path / "whole.jsonl"), await export(one, tmp_path / "part.jsonl", mission)
    assert offline.verify(tmp_path / "whole.jsonl", KEYS)["verified"]
    passed, tried = [], 0
    for lines in both:
        for at, line in enumerate(lines):
            for name in line:
                if line["kind"] == "verifier" and name == "source":
                    continue
                forged = [*lines[:at], line | {name: changed(line[name])}, *lines[at + 1 :]]
                if line["kind"] == "end" and name == "sha256":
                    continue  # write() makes it fit
                tried += 1
                verdict = offline.verify(write(tmp_path / "forged.jsonl", forged), KEYS)
                if verdict["verified"]:
                    # after the newest anchor only the chain speaks: a later place in reading order is nobody's word
                    if line["kind"] == "fact" and line["index"] is None and name == "position":
                        continue
                    passed.append((line["kind"], name))
                elif line["kind"] == "fact" and name in ("body", "hash", "actor", "at", "prev"):
                    assert verdict["first_bad"]["line"] == at + 1 and verdict["first_bad"]["seq"] == line["seq"]
    assert not passed
    assert tried > 200


async def test_inside_of_anchors_and_any_plain_change(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        lines = await export(one, tmp_path / "whole.jsonl")
    at = max(number for number, line in enumerate(lines) if line["kind"] == "anchor")
    sealed = json.loads(lines[at]["object"])
    for name, value in sealed["statement"].items():
        bent = {**sealed, "statement": {**sealed["statement"], name: changed(value)}}
        text = json.dumps(bent, sort_keys=True, separators=(",", ":"))
        forged = [*lines[:at], {"kind": "anchor", "object": text}, *lines[at + 1 :]]
        assert not offline.verify(write(tmp_path / "forged.jsonl", forged), KEYS)["verified"], name
    raw = (tmp_path / "whole.jsonl").read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 150)):  # a bit anywhere
        (tmp_path / "forged.jsonl").write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert not offline.verify(tmp_path / "forged.jsonl", KEYS)["verified"], at


async def test_lines_left_out_put_in_or_turned_round(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        mission = await told(one)
        both = await export(one, tmp_path / "whole.jsonl"), await export(one, tmp_path / "part.jsonl", mission)

    def fits(lines: Lines) -> dict[str, Any]:
        return lines[-1] | {"facts": sum(one["kind"] == "fact" for one in lines)}

    for lines in both:
        newest = max(
            number for number, line in enumerate(lines) if line["kind"] == "fact" and line["index"] is not None
        )
        for at, line in enumerate(lines):
            without = [*lines[:at], *lines[at + 1 :]]
            twice = [*lines[:at], line, *lines[at:]]
            turned = [*lines[:at], *lines[at : at + 2][::-1], *lines[at + 2 :]]
            for name, forged in (("without", without), ("twice", twice), ("turned", turned)):
                if not forged or forged[-1].get("kind") != "end" or forged == lines:
                    continue
                forged = [*forged[:-1], fits(forged)]
                verdict = offline.verify(write(tmp_path / "forged.jsonl", forged), KEYS)
                if name == "without" and line["kind"] == "key":
                    continue  # the key was given
                if (
                    name == "without"
                    and (at > newest or (lines is both[1] and at == newest))
                    and line["kind"] == "fact"
                ):
                    continue  # the newest facts can be left out: stated in docs/ledger.md
                if name == "without" and line["kind"] == "verifier":
                    continue
                if name == "twice" and line["kind"] == "verifier":
                    continue
                assert not verdict["verified"], (name, line["kind"], at)


async def test_another_key_no_anchor_and_revoked_keys(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        await told(one)
        lines = await export(one, tmp_path / "whole.jsonl")
    file = tmp_path / "whole.jsonl"
    assert offline.verify(file)["verified"] and not offline.verify(file)["keys_given"]
    assert not offline.verify(file, {"old": bytes(32)})["verified"]
    assert not offline.verify(file, {"other": KEYS["old"]})["verified"]
    assert not offline.verify(file, KEYS, ["old"])["verified"]
    bare = [line for line in lines if line["kind"] not in ("anchor", "key")]
    bare = [
        line | {"index": None, "proof": None}
        if line["kind"] == "fact"
        else line | ({"anchored": 0} if line["kind"] == "manifest" else {})
        for line in bare
    ]
    write(tmp_path / "bare.jsonl", bare)
    assert not offline.verify(tmp_path / "bare.jsonl", KEYS)["verified"]
    assert offline.verify(tmp_path / "bare.jsonl", KEYS, without_anchors=True)["verified"]


async def test_what_no_longer_matches_its_anchor_is_not_proved(ground: Ground, tmp_path: Path) -> None:
    async with anchored(ground, tmp_path / "store") as one:
        mission = await told(one)
        async with owning(ground) as admin:
            await admin.execute(
                "UPDATE ledger SET hash = sha256('x') WHERE tenant = $1 AND seq = 1 AND subject = $2",
                one.tenant,
                mission,
            )
        with pytest.raises(Problem, match="newest anchor"):
            await prepare(ledger.inside_of(one.api, one.tenant), one.tenant, one.store, one.keys, mission)


def test_what_is_no_export_is_no_crash(tmp_path: Path) -> None:
    for text in ("", "{}", "[]", "null", "\n", '{"kind":"fact"}', "\xff", '{"kind":"end","kind":"end"}', "[" * 100_000):
        (tmp_path / "file").write_text(text)
        assert offline.verify(tmp_path / "file")["verified"] is False
    assert offline.main([str(tmp_path / "absent")]) == 2
    assert offline.main([str(tmp_path / "file"), "--key", "old:AAAA"]) == 2
    assert offline.main([str(tmp_path / "file")]) == 1
