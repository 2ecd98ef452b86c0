"""The packet as one zip: complete, the same bytes for the same state, and verified offline by what is in it."""

import contextlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.packet import offline
from colony_client.artifacts import Claim
from tests.approvals.desk import awaiting, post, seen
from tests.approvals.test_interventions import act
from tests.approvals.test_vouching import left_unknown
from tests.conftest import DEMO, Cluster, fresh
from tests.life.test_moves import REACH
from tests.packet.zips import KEY, ZIP, Contents, anchor, closed, edited, fetched, opened, with_store, written
from tests.retention.test_api import grow_old, sweep
from tests.world import World
from tests.world.checks import hire, inspector, pending_change, problem
from tests.world.colony import aggregation
from tests.world.life import Life, begin, demo, give_guide, in_state, under_way

GIVEN = {"old": offline.public_key("", KEY.partition(":")[2])}
MADE: dict[str, bytes] = {}


@pytest.fixture
async def contents(cluster: Cluster, demo: dict[str, str], tmp_path: Path) -> Contents:
    """The files of one packet that is made once for all tests."""
    if not MADE:
        async with fresh(cluster, DEMO, f"test_packet_{os.getpid()}") as name:
            world = World(lambda role: cluster.url(role, name))
            await world.open(demo)
            try:
                with_store(world, tmp_path / "anchors")
                life = await written(world)
                await anchor(world)
                MADE["zip"] = await fetched(life)
            finally:
                await world.close()
    return opened(MADE["zip"])


def told(contents: Contents, tmp_path: Path, *, fitting: bool = False, **asked: Any) -> dict[str, Any]:
    return offline.verify(closed(contents, tmp_path / "forged.zip", fitting=fitting), GIVEN, **asked)


async def test_the_same_state_makes_the_same_bytes_and_verifies_alone(world: World, tmp_path: Path) -> None:
    with_store(world, tmp_path / "anchors")
    life = await written(world)
    await anchor(world)
    data = await fetched(life)
    MADE["zip"] = data
    await world.create()  # others go on, and are anchored too
    await anchor(world)
    assert await fetched(life) == data
    (tmp_path / "packet.zip").write_bytes(data)
    contents = opened(data)
    (tmp_path / "verify.py").write_bytes(contents["verify.py"])
    alone = "import sys\nclass Only:\n def find_spec(self, name, path=None, target=None):\n"
    alone += "  if name.partition('.')[0] not in sys.stdlib_module_names: raise ImportError(name)\n"
    alone += "sys.meta_path.insert(0, Only())\nimport runpy\nsys.argv = sys.argv[1:]\n"
    alone += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    (tmp_path / "alone.py").write_text(alone)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "alone.py", "verify.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    ended = run("packet.zip", "--key", KEY)
    assert ended.returncode == 0 and ended.stdout.endswith("HOLDS\n"), ended.stdout + ended.stderr
    assert "the keys are those you gave" in ended.stdout and ended.stdout.isascii()
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(tmp_path / "packet.zip") as found:
        found.extractall(folder)
    from_folder = subprocess.run(
        [sys.executable, "-I", "verify.py", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = json.loads(from_folder.stdout)
    assert from_folder.returncode == 0 and said["holds"] and not said["keys_given"]
    assert (said["citations"], said["approvals"], said["writebacks"]) == (1, 2, 2) and said["facts"] == said["covered"]
    assert run("nothing.zip").returncode == 2
    (folder / "shown.jsonl").unlink()
    ended = run("unpacked", "--key", KEY)
    assert ended.returncode == 1 and "shown.jsonl" in ended.stdout


async def test_every_file_changed_removed_added_or_swapped_is_named(contents: Contents, tmp_path: Path) -> None:
    """By somebody who leaves the manifest as it is."""
    assert told(contents, tmp_path)["holds"]
    names = list(contents)
    for name in names:
        for changed in (contents[name] + b" ", contents[name][:-1], b"", contents[name].replace(b"0", b"1", 1)):
            if changed == contents[name]:
                continue
            wrong = told(contents | {name: changed}, tmp_path)["wrong"]
            assert wrong is not None, (name, changed[:20])
            assert name == "manifest.json" or wrong["where"] == name
        gone = told({one: data for one, data in contents.items() if one != name}, tmp_path)["wrong"]
        assert gone is not None and gone["where"] == name
    for name in ("more.txt", "artifacts/more.json", "../up.txt", "sources/" + "0" * 64 + ".txt", "verify.pyc"):
        assert told(contents | {name: b"x"}, tmp_path)["wrong"]["where"] == name
    for one, other in pairwise(names):
        swapped = contents | {one: contents[other], other: contents[one]}
        assert told(swapped, tmp_path)["wrong"] is not None, (one, other)


async def test_a_name_that_stands_in_the_zip_twice(contents: Contents, tmp_path: Path) -> None:
    place = closed(contents, tmp_path / "forged.zip")
    with zipfile.ZipFile(place, "a") as made, pytest.warns(UserWarning):
        made.writestr("packet.json", b"{}")
    assert offline.verify(place, GIVEN)["wrong"]["where"] == "packet.json"


def changed(value: Any) -> Any:
    """Something else of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return "x" if value is None else value[:-1] if isinstance(value, list) and value else {"x": 1}


# What the facts hold beside the manifest, as the documentation says.
BOUND = {
    "approvals.jsonl": ("id", "writeback_id", "payload_sha256", "state", "decisions", "payload", "questions", "handed"),
    "writebacks.jsonl": ("id", "approval_id", "payload", "payload_sha256", "state", "observed", "observed_sha256", "idempotency_key"),
    "policy_decisions.jsonl": ("id", "inputs", "inputs_sha256"),
    "shown.jsonl": ("source", "document"),
}  # fmt: skip


async def test_a_forger_who_makes_the_manifest_fit_is_found_by_the_facts(contents: Contents, tmp_path: Path) -> None:
    assert told(contents, tmp_path, fitting=True)["holds"]
    bare = {
        name: data
        for name, data in contents.items()
        if name not in ("README.txt", "packet.html", "verify.py", "manifest.json")
    }
    for name, data in bare.items():
        without = {one: held for one, held in contents.items() if one != name}
        assert told(without, tmp_path, fitting=True)["wrong"] is not None, name
        if name.startswith(("artifacts/", "sources/")):
            flipped = data.replace(b"four", b"five", 1) if b"four" in data else data.replace(b"0", b"1", 1)
            flipped = flipped if flipped != data else data + b" "
            assert told(contents | {name: flipped}, tmp_path, fitting=True)["wrong"]["where"] == name
    for name, members in BOUND.items():
        lines = contents[name].splitlines()
        for number in range(len(lines)):
            for member in members:
                forged = edited(contents, name, lambda said, m=member: said.update({m: changed(said[m])}), number)
                wrong = told(forged, tmp_path, fitting=True)["wrong"]
                assert wrong is not None, (name, number, member)
            fewer = contents | {name: b"".join(line + b"\n" for line in [*lines[:number], *lines[number + 1 :]])}
            if name != "shown.jsonl" or b"guide.md" in lines[number] or b"wiki" in lines[number]:
                assert told(fewer, tmp_path, fitting=True)["wrong"] is not None, (name, number)
            twice = contents | {name: contents[name] + lines[number] + b"\n"}
            assert told(twice, tmp_path, fitting=True)["wrong"] is not None, (name, number)


TIMES = {"created_at", "expires_at", "not_before"}
ASKED = {"requested_by", "risk_level"}
# What the manifest alone holds, as the documentation says: by file, the members of its lines, * for each of a list.
UNBOUND = {
    "approvals.jsonl": ("approvals", TIMES | ASKED | {
        "closed_at", "decisions.*.decided_at", "handed.*.at", "questions.*.asked_at", "questions.*.answered_at",
        "rule.approver_role", "rule.comment_required", "rule.may_escalate_to", "rule.may_escalate_to.*", "rule.undo_window_s",
        "deny_threshold", "obligations", "signature_required", "decisions.*.keys",
        "may_decide", "must_hold", "stopped", "version",
    }),
    "writebacks.jsonl": ("writebacks", TIMES | ASKED | {"started_at", "settled_at"}),
    "policy_decisions.jsonl": ("policy_decisions", {"at", "obligations", "reason", "id", "rule", "policy_version", "effect"}),
}  # fmt: skip


def members(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a line."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from members(inner, (*place, key))


def change(said: Any, place: tuple[Any, ...]) -> None:
    *outer, last = place
    for key in outer:
        said = said[key]
    said[last] = changed(said[last])


async def test_what_the_facts_do_not_hold_is_what_the_documentation_says(contents: Contents, tmp_path: Path) -> None:
    """Each member of each line is changed by a forger who makes packet.json and the manifest fit."""

    def unnoticed(name: str, part: str, number: int, line: dict[str, Any], place: tuple[Any, ...]) -> bool:
        def shown(said: dict[str, Any]) -> None:
            with contextlib.suppress(LookupError, TypeError):  # it shows less than the file holds
                change(next(one for one in said[part] if one["id"] == line["id"]), place)

        lied = edited(contents, name, partial(change, place=place), number)
        return told(edited(lied, "packet.json", shown), tmp_path, fitting=True)["wrong"] is None

    for name, (part, unbound) in UNBOUND.items():
        lines = [json.loads(line) for line in contents[name].splitlines()]
        found = {
            ".".join("*" if isinstance(key, int) else key for key in place)
            for number, line in enumerate(lines[:4])
            for place in members(line)
            if unnoticed(name, part, number, line, place)
        }
        assert found == unbound, (name, found ^ unbound)


async def test_every_part_of_what_the_packet_shows_is_held_against_the_rest(contents: Contents, tmp_path: Path) -> None:
    packet = json.loads(contents["packet.json"])

    def forge(edit: Any) -> dict[str, Any] | None:
        wrong: dict[str, Any] | None = told(edited(contents, "packet.json", edit), tmp_path, fitting=True)["wrong"]
        return wrong

    edits: dict[str, Any] = {
        "answer": lambda said: said.update(answer="Trust me."),
        "goal": lambda said: said["mission"].update(user_goal="Another"),
        "state": lambda said: said["mission"].update(state="failed"),
        "verdict": lambda said: said["review"].update(verdict="failed"),
        "contradictions": lambda said: said["review"].update(contradictions=[]),
        "sources": lambda said: said["review"]["sources"][0].update(trust="authoritative"),
        "claim": lambda said: said["claims"][0].update(text="Another."),
        "quote": lambda said: said["claims"][0]["citations"][0].update(quote="Another."),
        "a claim more": lambda said: said["claims"].append(said["claims"][0]),
        "a fact less": lambda said: said["timeline"].pop(),
        "a fact changed": lambda said: said["timeline"][3]["body"].update(more=1),
        "facts swapped": lambda said: said["timeline"].reverse(),
        "an artifact": lambda said: said["artifacts"][0].update(sha256="0" * 64),
        "an approval": lambda said: said["approvals"][0].update(state="rejected"),
        "an approval less": lambda said: said["approvals"].pop(),
        "who approved": lambda said: said["approvals"][0]["decisions"][0].update(approver="00000000-0000-7000-8000-000000000000"),
        "what was asked": lambda said: said["approvals"][0]["questions"][0].update(question="Another?"),
        "a decision less": lambda said: said["approvals"][0]["decisions"].pop(),
        "a decision twice": lambda said: said["approvals"][0]["decisions"].append(said["approvals"][0]["decisions"][0]),
        "a comment left out": lambda said: said["approvals"][0]["decisions"][0].pop("comment"),
        "nothing of a decision": lambda said: said["approvals"][0]["decisions"][0].clear(),
        "no questions": lambda said: said["approvals"][0].pop("questions"),
        "no hand-ons": lambda said: said["approvals"][0].pop("handed"),
        "an approval in place of another": lambda said: said["approvals"].__setitem__(1, said["approvals"][0]),
        "a change without its receipt": lambda said: said["writebacks"][0].pop("receipt"),
        "a policy decision without its reason": lambda said: said["policy_decisions"][0].pop("reason"),
        "how many were open": lambda said: said["approvals"][0]["decisions"][0].update(open_questions=0),
        "to whom it was handed": lambda said: said["approvals"][0]["handed"][0].update(to="policy_owner"),
        "a change": lambda said: said["writebacks"][0]["payload"]["changes"].update(status="won"),
        "what was read back": lambda said: said["writebacks"][0].update(read_back={"status": "won"}),
        "a policy decision": lambda said: said["policy_decisions"][0].update(effect="deny"),
    }  # fmt: skip
    assert packet["approvals"] and packet["writebacks"]
    for what, edit in edits.items():
        wrong = forge(edit)
        assert wrong is not None and wrong["where"] == "packet.json", what


async def test_what_was_asked_open_and_handed_on_is_held_against_the_facts(contents: Contents, tmp_path: Path) -> None:
    """Also by a forger who writes the packet's other files to fit."""
    edits: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
        "none was open": (lambda one: one["decisions"][0].update(open_questions=0), "open when it was decided"),
        "more were open": (lambda one: one["decisions"][0].update(open_questions=2), "open when it was decided"),
        "another comment": (lambda one: one["decisions"][0].update(comment="Trust me."), "the hash of why"),
        "no comment": (lambda one: one["decisions"][0].update(comment=None), "the hash of why"),
        "another question": (lambda one: one["questions"][1].update(question="Shall we?"), "the hash of the question"),
        "another answer": (lambda one: one["questions"][0].update(answer="Trust me."), "the hash of the answer"),
        "another reason": (lambda one: one["handed"][0].update(reason="no reason"), "hand-on 1"),
        "another role": (lambda one: one["handed"][1].update(to="policy_owner"), "hand-on 2"),
        "another person": (lambda one: one["handed"][0].update(by=one["requested_by"]), "hand-on 1"),
        "as well": (lambda one: one["handed"][1].update(instead=False), "hand-on 2"),
        "another order": (lambda one: one["handed"].reverse(), "hand-on 1"),
        "once less": (lambda one: one["handed"].pop(), "how often it was handed on"),
    }
    first = json.loads(contents["approvals.jsonl"].splitlines()[0])
    assert [one["open_questions"] for one in first["decisions"]] == [1] and len(first["handed"]) == 2
    assert first["decisions"][0]["comment"]

    def in_packet(edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
        return lambda said: [edit(one) for one in said["approvals"] if one["id"] == first["id"]] and None

    for name, (edit, what) in edits.items():
        forged = edited(edited(contents, "approvals.jsonl", edit, 0), "packet.json", in_packet(edit))
        wrong = told(forged, tmp_path, fitting=True)["wrong"]
        assert wrong is not None and wrong["where"] == "approvals.jsonl line 1" and what in wrong["what"], (name, wrong)


async def test_a_root_that_says_another_number_of_open_questions_is_told(contents: Contents, tmp_path: Path) -> None:
    """The number is recomputed from what was asked and answered before, whatever the signed fact of the decision says."""
    files = offline.Files(closed(contents, tmp_path / "packet.zip"))
    facts = offline.Facts(GIVEN, frozenset())
    facts.read(files, json.loads(contents["manifest.json"]))
    approvals = {said["id"]: (where, said) for where, said in files.lines("approvals.jsonl")}
    offline.check_open(facts, approvals)
    decided = facts.of("approval.decided")[0]
    decided["body"]["open_questions"] = 0
    with pytest.raises(offline.Wrong, match="open when it was decided is 0, and 1 by the record"):
        offline.check_open(facts, approvals)
    decided["body"]["open_questions"] = 1
    asked, answered = (facts.of(f"approval.{kind}")[0] for kind in ("questioned", "answered"))
    at, later = facts.all.index(asked), facts.all.index(answered)
    facts.all[at], facts.all[later] = answered, asked
    with pytest.raises(offline.Wrong, match="answers what was not open"):
        offline.check_open(facts, approvals)


async def test_the_page_shows_who_was_asked_besides(contents: Contents) -> None:
    page = contents["packet.html"].decode()
    for words in ("escalated to admin", "handed to operator", "they know better: admin", "questions open: 1"):
        assert words in page, words


async def test_a_revision_and_the_one_before_are_told_apart_in_the_packet(world: World, tmp_path: Path) -> None:
    """Whoever reads of a question reads about which revision it was, and which came after it."""
    first = await pending_change(world)
    await world.operator.post(f"/v1/approvals/{first['id']}/questions", json={"question": "Which call?"})
    made = await world.operator.post(
        f"/v1/approvals/{first['id']}/revisions",
        json={"payload_sha256": first["payload_sha256"], "changes": {"status": "new"}, "reason": "a slip"},
        headers={"If-Match": f'"v{first["version"]}"'},
    )
    second = made.json()["approval_id"]
    await world.second_operator.post(f"/v1/approvals/{second}/questions", json={"question": "And now?"})
    page = await world.auditor.get(f"/v1/missions/{first['mission_id']}/packet?format=html")
    assert page.status_code == 200, page.text
    [before] = re.findall(r"<tr><td>question: (.*?)</td>.*?Which call\?", page.text)
    [after] = re.findall(r"<tr><td>question: ([^?]*?)</td>[^?]*?And now\?", page.text)
    assert before == f"approval of writeback, which was asked again as revision 2<br><code>{first['id']}</code>"
    assert after == f"approval of writeback, revision 2<br><code>{second}</code>"
    (tmp_path / "packet.zip").write_bytes(
        (await world.auditor.get(f"/v1/missions/{first['mission_id']}/packet", headers=ZIP)).content
    )
    verdict = offline.verify(tmp_path / "packet.zip", without_anchors=True)
    assert verdict["holds"], verdict


async def test_no_fact_and_no_anchor_can_be_changed(contents: Contents, tmp_path: Path) -> None:
    name = "ledger/facts.jsonl"
    lines = [json.loads(line) for line in contents[name].splitlines()]
    passed = []
    for at, line in enumerate(lines):
        edits = [
            line | {member: changed(line[member])} for member in line if member != "source" and line["kind"] != "end"
        ]
        for edit in [*edits, None]:
            forged = [
                json.dumps(one, ensure_ascii=False, separators=(",", ":"))
                for one in [*lines[:at], *([edit] if edit else []), *lines[at + 1 :]]
            ]
            wrong = told(contents | {name: ("\n".join(forged) + "\n").encode()}, tmp_path, fitting=True)["wrong"]
            if wrong is None and line["kind"] not in ("verifier",):
                passed.append((at, line["kind"], [m for m in line if edit is None or edit.get(m) != line[m]]))
            elif wrong is not None and line["kind"] == "fact" and edit is not None and edit["body"] != line["body"]:
                assert wrong["where"] == f"{name} line {at + 1}"
    # the format's name, and the listed keys where others were given, say nothing that is relied on
    assert [one for one in passed if one[1] not in ("manifest", "key")] == []


async def test_without_the_right_key_nothing_is_signed(contents: Contents, tmp_path: Path) -> None:
    place = closed(contents, tmp_path / "packet.zip")
    assert offline.verify(place)["holds"]
    for given, revoked in (({"old": bytes(32)}, ()), ({"other": GIVEN["old"]}, ()), (GIVEN, ("old",))):
        wrong = offline.verify(place, given, revoked)["wrong"]
        assert wrong is not None and wrong["where"].startswith("ledger/facts.jsonl"), given


@pytest.mark.parametrize("state", REACH)
async def test_a_mission_in_any_state_has_a_packet_that_holds(world: World, state: str, tmp_path: Path) -> None:
    life = await REACH[state](world)
    place = tmp_path / "packet.zip"
    place.write_bytes(await fetched(life))
    assert "no anchor signs" in offline.verify(place)["wrong"]["what"]
    verdict = offline.verify(place, without_anchors=True)
    assert verdict["holds"] and verdict["state"] == state, verdict


@pytest.mark.parametrize("asker", ["policy", "colony"])
async def test_a_question_about_a_mission_is_held_against_what_was_stored(
    world: World, asker: str, tmp_path: Path
) -> None:
    if asker == "policy":
        life = await begin(world, mode="autonomous", risk_level="medium")
        await world.run_work("ask")
    else:
        life = await under_way(world)
        await life.say({"type": "signal", "signal": "escalate", "question": "May I read the archive?"})
    [asked] = await life.approvals()
    contents = opened(await fetched(life))

    def verdict(contents: Contents) -> dict[str, Any]:
        return offline.verify(closed(contents, tmp_path / "packet.zip", fitting=True), without_anchors=True)

    assert asked["subject"] == "mission" and verdict(contents)["holds"], verdict(contents)["wrong"]
    lies: dict[str, Callable[[dict[str, Any]], Any]] = {
        "asks what was not stored": lambda one: one["payload"].update(action="mission.other"),
        "the summary": lambda one: one.update(summary="May I have a look?"),
        "the rationale": lambda one: one.update(rationale="It is urgent."),
        "the evidence": lambda one: one.update(evidence=[{}]),
        "what it is about": lambda one: one.update(subject="writeback"),
    }
    for what, lie in lies.items():

        def lied(said: dict[str, Any], lie: Any = lie) -> None:
            [lie(one) for one in said["approvals"]]

        wrong = verdict(edited(edited(contents, "approvals.jsonl", lie, 0), "packet.json", lied))["wrong"]
        assert wrong is not None and wrong["where"].startswith("approvals.jsonl") and what in wrong["what"], wrong


async def test_a_humans_word_on_a_change_is_held_against_the_fact(world: World, tmp_path: Path) -> None:
    writeback, mission = await left_unknown(world)
    word = {"found": "applied", "comment": "The <b>log</b> has it."}
    assert (await world.operator.post(f"/v1/writebacks/{writeback}/vouch", json=word)).status_code == 200
    contents = opened(await fetched(Life(world, UUID(mission))))
    shown = contents["packet.html"].decode()
    assert "ended it by their word: the change is there. “The &lt;b&gt;log&lt;/b&gt; has it.”" in shown

    def verdict(contents: Contents) -> dict[str, Any]:
        return offline.verify(closed(contents, tmp_path / "packet.zip", fitting=True), without_anchors=True)

    true = verdict(contents)
    assert true["holds"] and true["vouched"] == 1, true
    assert "executed and read back; but for 1 that a human's word ended" in "\n".join(offline.printed(true))
    for member, other in (
        ("vouched", "not_applied"), ("vouched", None), ("by", str(uuid4())), ("by", None),
        ("comment", "Nobody looked."), ("comment", None),
    ):  # fmt: skip

        def lie(said: dict[str, Any], member: str = member, other: str | None = other) -> None:
            receipt = json.loads(said["receipt"]) | {member: other}
            said["receipt"] = json.dumps({name: value for name, value in receipt.items() if value is not None})

        def lied(said: dict[str, Any], lie: Any = lie) -> None:
            one = {"receipt": json.dumps(said["writebacks"][0]["receipt"])}
            lie(one)
            said["writebacks"][0]["receipt"] = json.loads(one["receipt"])

        forged = edited(edited(contents, "writebacks.jsonl", lie, 0), "packet.json", lied)
        wrong = verdict(forged)["wrong"]
        assert wrong is not None and wrong["where"].startswith("writebacks.jsonl"), (member, other)


async def test_what_became_of_approvals_besides_votes_is_held_against_the_facts(world: World, tmp_path: Path) -> None:
    """Taken back, revised, and decided behind a broken glass: who, why, and under which rule."""
    life = await awaiting(world, proposals=3)
    withdrawn, revised, broken = await life.approvals()
    holder = await hire(world, "glenda", "break_glass")
    for answer in (
        await act(world.operator, withdrawn, "cancel", payload_sha256=None),
        await act(world.operator, revised, "revisions", changes={"status": "step 9"}),
        await act(holder.http, broken, "break-glass"),
    ):
        assert answer.is_success, answer.text
    successor = (await seen(world, revised))["successor_approval"]
    contents = opened(await fetched(life))

    def verdict(contents: Contents) -> dict[str, Any]:
        return offline.verify(closed(contents, tmp_path / "packet.zip", fitting=True), without_anchors=True)

    assert verdict(contents)["holds"], verdict(contents)["wrong"]
    other = str(uuid4())
    lies: list[tuple[str, str, Callable[[dict[str, Any]], Any]]] = [
        (withdrawn["id"], "the hash of why it was taken back", lambda one: one.update(note="nobody minded")),
        (withdrawn["id"], "the hash of why it was taken back", lambda one: one.update(note=None)),
        (withdrawn["id"], "who took it back", lambda one: one.update(withdrawn_by=other)),
        (withdrawn["id"], "who took it back", lambda one: one.update(withdrawn_by=None)),
        (revised["id"], "the hash of why it was taken back", lambda one: one.update(note="nobody minded")),
        (revised["id"], "who took it back", lambda one: one.update(withdrawn_by=other)),
        (successor, "who asked for this instead", lambda one: one.update(edited_by=other)),
        (successor, "who asked for this instead", lambda one: one.update(edited_by=None)),
        (broken["id"], "who broke the glass", lambda one: one.update(glass=None)),
        (broken["id"], "who broke the glass", lambda one: one["glass"].update(broken_by=other)),
        (broken["id"], "its rule", lambda one: one["rule"].update(id=one["glass"]["was_rule"])),
        (broken["id"], "its rule", lambda one: one["rule"].update(version=7)),
        (broken["id"], "how many have to approve", lambda one: one.update(required=1)),
        (withdrawn["id"], "the hash of why", lambda one: one.update(note="")),
        (revised["id"], "the revision after", lambda one: one.update(successor=None, successor_approval=None)),
        (withdrawn["id"], "the revision after", lambda one: one.update(successor=other)),
        (successor, "the revision before", lambda one: one.update(predecessor=None)),
        (successor, "the number of the revision", lambda one: one.update(revision=1)),
    ]
    for approval, what, lie in lies:
        number = next(
            n for n, line in enumerate(contents["approvals.jsonl"].splitlines()) if json.loads(line)["id"] == approval
        )

        def lied(said: dict[str, Any], approval: str = approval, lie: Any = lie) -> None:
            [lie(one) for one in said["approvals"] if one["id"] == approval]

        forged = edited(edited(contents, "approvals.jsonl", lie, number), "packet.json", lied)
        wrong = verdict(forged)["wrong"]
        assert wrong is not None and wrong["where"].startswith("approvals.jsonl") and what in wrong["what"], (
            what,
            wrong,
        )


async def test_a_renewed_change_holds_at_each_step_and_when_its_words_are_removed(world: World, tmp_path: Path) -> None:
    async def verdict() -> dict[str, Any]:
        told = offline.verify(closed(opened(await fetched(life)), tmp_path / "packet.zip"), without_anchors=True)
        assert told["holds"], told["wrong"]
        return told

    await world.with_crm()
    await world.no_undo_window()
    life = await awaiting(world)
    [first] = await life.approvals()
    await post(world.operator, first)
    await life.settle(await life.claim(first["writeback_id"]), first["writeback_id"], "stale")
    await world.run_work("progress")
    await verdict()
    assert (await world.operator.post(f"/v1/writebacks/{first['writeback_id']}/renew", json={})).status_code == 201
    await verdict()
    [second] = await life.approvals()
    await post(world.operator, second)
    await life.settle(await life.claim(second["writeback_id"]), second["writeback_id"], "succeeded")
    await world.run_work("progress")
    assert (await verdict())["state"] == "completed"
    await grow_old(world, life.id, 4000)
    await sweep(world)
    told = await verdict()
    assert told["removed"] == told["artifacts"] > 0 and told["writebacks"] == 2


async def test_a_source_that_the_mission_was_not_shown_stays_where_it_is(world: World, tmp_path: Path) -> None:
    """Whoever cites the hash of another's document does not get its bytes by it."""
    secret = await give_guide(world, "# Salaries\n\nNobody is to read this line.\n", "salaries.md")
    life = await under_way(world)
    [citation, *_] = await life.show()
    stolen = citation.model_copy(update={"source": secret, "document": "salaries.md"})
    claim = Claim(id="c1", text="A claim.", citations=[stolen])
    await life.say(
        {"type": "artifact.produced", "artifact": aggregation(life.dispatch.envelope, [claim], 0)},
        {"type": "signal", "signal": "complete"},
    )
    await world.run_work("review")
    data = await fetched(life)
    assert f"sources/{secret}.txt" not in opened(data)
    (tmp_path / "packet.zip").write_bytes(data)
    assert offline.verify(tmp_path / "packet.zip", without_anchors=True)["holds"]


async def test_the_format_is_chosen_by_the_caller(world: World) -> None:
    life = await in_state(world, "in_review")
    path = f"/v1/missions/{life.id}/packet"
    for accept, query, kind in (
        ("application/json", "", "application/json"),
        ("application/zip", "", "application/zip"),
        ("application/zip, application/json", "", "application/zip"),
        ("application/json, application/zip", "", "application/json"),
        ("*/*", "?format=zip", "application/zip"),
        ("application/zip", "?format=html", "text/html; charset=utf-8"),
    ):
        answer = await world.auditor.get(path + query, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), (accept, query)
    problem(await world.auditor.get(path + "?format=pdf"), "validation")
    missing = path.replace(str(life.id)[-4:], "0000")
    problem(await world.auditor.get(missing, headers=ZIP), "not_found")
    stranger = await world.another_tenant()
    problem(await stranger.http.get(path, headers=ZIP), "not_found")


async def test_a_long_mission_is_whole_and_read_page_by_page(world: World, tmp_path: Path) -> None:
    """More facts, artifacts and policy decisions than a page of each holds, or the packet shows."""
    life = await in_state(world, "running")
    connection = await inspector(world)
    tenant = await demo(world)
    async with connection.transaction():
        await connection.execute("SELECT set_config('app.tenant', $1, true)", str(tenant))
        await connection.execute(
            """INSERT INTO ledger (tenant, subject, type, actor, body)
               SELECT $1, $2, 'test.said', 'system:api', convert_to('{"n":' || n || '}', 'UTF8') FROM generate_series(1, 2200) n""",
            tenant,
            life.id,
        )
        await connection.execute(
            """INSERT INTO policy_decision (tenant, id, mission, principal, action, resource, effect, rule, policy_version, reason, inputs)
               SELECT $1, gen_random_uuid(), $2, gen_random_uuid(), 'tool.call', 'workspace.read', 'allow', 'r', 'v', 'x',
                 convert_to('{"action":"tool.call","resource":"workspace.read","n":' || n || '}', 'UTF8') FROM generate_series(1, 700) n""",
            tenant,
            life.id,
        )
    with_store(world, tmp_path / "anchors")
    while not (anchored := await anchor_state(world)):
        await anchor(world)
    assert anchored
    place = tmp_path / "packet.zip"
    place.write_bytes(await fetched(life))
    verdict = offline.verify(place, GIVEN)
    assert verdict["holds"], verdict
    assert verdict["facts"] > 2200 and verdict["policy_decisions"] > 700
    contents = opened(place.read_bytes())
    assert len(json.loads(contents["packet.json"])["timeline"]) == 2000


async def anchor_state(world: World) -> bool:
    """Whether everything but the facts of anchors is anchored."""
    found = (await world.auditor.post("/v1/ledger/verify")).json()["anchors"]
    return found["state"] == "ok" and found["tail"] <= 1
