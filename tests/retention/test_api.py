"""Times, holds and removed bytes as they are seen over HTTP, and large sources from their upload to the review that cites them."""

from pathlib import Path
from typing import Any
from uuid import UUID

import obstore
import pytest

from app.artifacts import objects as objects_module
from app.artifacts import open_objects
from app.packet import archive, offline
from app.retention import Sweeper
from tests.world import World
from tests.world.checks import hire, inspector, problem
from tests.world.life import GUIDE, Life, begin, give_guide

LARGE = GUIDE + "A word that fills pages. " * 2000
TIMES = {"public_days": None, "internal_days": 1095, "confidential_days": 365, "restricted_days": 90, "unread_days": 30}


@pytest.fixture
async def large(world: World, tmp_path: Path) -> World:
    """The root with a store, in which everything from 4 KiB on is kept."""
    settings = world.settings(artifact_store=str(tmp_path / "artifacts"), artifact_store_from_bytes=4096)
    objects = open_objects(settings)
    for app in (world.public, world.internal):
        app.state.objects = objects
    world.worker.objects = objects
    world.worker.sweeper = Sweeper(world.worker.database, objects, world.worker.sweeper.interval)
    return world


async def answered(world: World, **ask: Any) -> tuple[Life, str]:
    """A mission that cites the large guide and is reviewed; its source."""
    source = await give_guide(world, LARGE)
    life = await begin(world, **ask)
    await life.take()
    await quote(life)
    await world.run_work("review")
    return life, source


async def quote(life: Life) -> None:
    from colony_client import artifacts
    from tests.world.colony import aggregation
    from tests.world.life import cited

    found = await life.world.colony.tool(
        life.dispatch, "workspace.search", query="rollback takes four minutes", limit=3
    )
    citation = cited(found["passages"][0], 0, 40)
    claim = artifacts.Claim(id="c1", text="A rollback takes four minutes.", citations=[citation])
    packet = aggregation(life.dispatch.envelope, [claim])
    await life.say({"type": "artifact.produced", "artifact": packet}, {"type": "signal", "signal": "complete"})


async def grow_old(world: World, mission: Any, days: int) -> None:
    """Days pass for a mission that has closed and for its sources."""
    connection = await inspector(world)
    async with connection.transaction():
        for table, trigger in (("mission", "mission_guard"), ("blob", "blob_guard")):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
        back = f"interval '{days} days'"
        await connection.execute(f"UPDATE mission SET closed_at = closed_at - {back} WHERE id = $1", UUID(str(mission)))
        await connection.execute(f"UPDATE blob SET kept_at = kept_at - {back}, look_at = now()")
        for table, trigger in (("mission", "mission_guard"), ("blob", "blob_guard")):
            await connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


async def sweep(world: World) -> None:
    async with world.worker.database.write() as session:
        await session.execute("SELECT restore_retention_work()")
    await world.make_due("retention")
    from app import work

    items, _ = await work.turn(world.worker.database, ["retention"], 8, world.root_lease())
    for item in items:
        await world.worker.sweeper.turn(item)


async def test_a_large_source_from_upload_to_review(large: World) -> None:
    life, source = await answered(large)
    admin = await inspector(large)
    [row] = await admin.fetch("SELECT bytes, object, size FROM blob WHERE sha256 = $1", bytes.fromhex(source))
    assert (row["bytes"], row["size"]) == (None, len(LARGE.encode())) and row["object"]
    assert await life.state() == "completed"
    packet = (await large.submitter.get(f"/v1/missions/{life.id}/packet")).json()
    assert packet["claims"][0]["supported"] and packet["retention"]["removed_at"] is None
    read = await large.submitter.get(f"/v1/missions/{life.id}/sources/{source}")
    assert (read.status_code, read.text) == (200, LARGE)
    assert read.headers["content-length"] == str(row["size"]) and read.headers["content-type"].startswith("text/plain")
    assert read.headers["etag"] == f'"{source}"' and "attachment" in read.headers["content-disposition"]
    cached = await large.submitter.get(
        f"/v1/missions/{life.id}/sources/{source}", headers={"If-None-Match": f'"{source}"'}
    )
    assert (cached.status_code, cached.content) == (304, b"")
    page = (await large.submitter.get(f"/v1/missions/{life.id}/sources")).json()
    assert [(one["source"], one["document"], one["bytes"], one["note"]) for one in page["items"]] == [
        (source, "guide.md", row["size"], None)
    ]


async def test_the_colony_reads_spans_of_a_large_source(large: World) -> None:
    text = "größer ⟶ " * 60_000  # more than one chunk, and characters of one to three bytes
    source = await give_guide(large, text, "long.txt")
    [size] = await (await inspector(large)).fetchrow("SELECT size FROM blob WHERE sha256 = $1", bytes.fromhex(source))
    dispatch = await large.dispatch()
    whole = ""
    while len(whole.encode()) < 400_000:
        start = len(whole.encode())
        span = await large.colony.tool(dispatch, "workspace.read", source=source, start=start, end=start + 50_001)
        assert (span["start"], span["total"]) == (start, size)
        whole += span["text"]
    assert text.startswith(whole)
    beyond = await large.colony.tool(dispatch, "workspace.read", source=source, start=size + 5, end=size + 9)
    assert (beyond["text"], beyond["start"]) == ("", size)


@pytest.mark.parametrize("what", ["missing", "damaged"])
async def test_bytes_that_are_not_there_count_as_unverified_and_are_said(
    large: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await give_guide(large, LARGE)
    life = await begin(large)
    await life.take()
    await quote(life)
    objects = large.worker.objects
    assert objects.store
    [label] = [one async for page in objects.labels(await large.tenant()) for one in page]
    name = f"{await large.tenant()}/{label[:2]}/{label}"
    if what == "missing":
        await obstore.delete_async(objects.store.objects, name)
    else:
        await obstore.put_async(objects.store.objects, name, b"!" + LARGE.encode()[1:])
    await large.run_work("review")
    assert await life.state() == "failed"
    packet = (await large.submitter.get(f"/v1/missions/{life.id}/packet")).json()
    assert packet["claims"][0]["citations"][0]["problem"] == f"the cited bytes are {what} in the store"
    read = await large.submitter.get(f"/v1/missions/{life.id}/sources/{source}")
    assert source in problem(read, f"artifact_{what}")["detail"]
    status = (await large.auditor.get("/v1/status")).json()
    [told] = [one for one in status["components"] if one["name"] == "artifacts"]
    assert (status["status"], told["state"]) == ("degraded", "degraded") and source not in str(told)
    await looked_again(large, monkeypatch)
    assert await artifacts_state(large) == "degraded", "it is still so"
    await obstore.put_async(objects.store.objects, name, LARGE.encode())
    await looked_again(large, monkeypatch)
    assert await artifacts_state(large) == "up", "somebody has put it back"


async def looked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process does in the background, of objects that were looked at long ago."""
    monkeypatch.setattr(objects_module, "AGAIN_S", 0.0)
    world.root.objects = world.public.state.objects
    await world.root.watch.turn()


async def artifacts_state(world: World) -> str:
    components = (await world.auditor.get("/v1/status")).json()["components"]
    return str(next(one["state"] for one in components if one["name"] == "artifacts"))


async def test_what_retention_removed_is_missed_by_nobody(large: World, monkeypatch: pytest.MonkeyPatch) -> None:
    life, source = await answered(large, sensitivity_class="restricted")
    objects = large.worker.objects
    assert objects.store
    [label] = [one async for page in objects.labels(await large.tenant()) for one in page]
    await obstore.delete_async(objects.store.objects, f"{await large.tenant()}/{label[:2]}/{label}")
    problem(await large.submitter.get(f"/v1/missions/{life.id}/sources/{source}"), "artifact_missing")
    await looked_again(large, monkeypatch)
    assert await artifacts_state(large) == "degraded"
    await large.submitter.delete("/v1/workspaces/default/documents", params={"path": "guide.md"})
    connection = await inspector(large)
    await connection.execute("UPDATE document SET retired_at = retired_at - interval '31 days'")
    await grow_old(large, life.id, 91)
    await sweep(large)
    await looked_again(large, monkeypatch)
    assert await artifacts_state(large) == "up"


async def test_a_review_waits_for_a_store_that_is_away(large: World) -> None:
    await give_guide(large, LARGE)
    life = await begin(large)
    await life.take()
    await quote(life)
    folder = large.worker.objects.store.folder  # type: ignore[union-attr]
    assert folder is not None
    away = folder.rename(folder.with_name("elsewhere"))
    await large.run_work("review")
    assert await life.state() == "in_review"
    away.rename(folder)
    await large.make_due("review")
    await large.run_work("review")
    assert await life.state() == "completed"


async def test_what_was_removed_says_so_and_is_never_404(large: World) -> None:
    life, source = await answered(large, sensitivity_class="restricted")
    at = f"/v1/missions/{life.id}"
    shown = (await large.submitter.get(at)).json()
    assert shown["retention"] | {"over_at": None} == {
        "sensitivity_class": "restricted", "days": 90, "over_at": None, "holds": [], "removed_at": None, "note": None,
    }  # fmt: skip
    await large.submitter.delete("/v1/workspaces/default/documents", params={"path": "guide.md"})
    connection = await inspector(large)
    await connection.execute("UPDATE document SET retired_at = retired_at - interval '31 days'")
    await grow_old(large, life.id, 91)
    before = (await large.submitter.get(f"{at}/artifacts")).json()["items"]
    await sweep(large)
    shown = (await large.submitter.get(at)).json()
    day = shown["retention"]["removed_at"][:10]
    note = f"removed under retention on {day}"
    assert shown["user_goal"] is None and shown["retention"]["note"] == f"What this mission has said was {note}."
    [listed] = [one for one in (await large.submitter.get("/v1/missions")).json()["items"] if one["id"] == str(life.id)]
    assert listed["user_goal"] is None
    artifacts = (await large.submitter.get(f"{at}/artifacts")).json()["items"]
    assert [one | {"removed_at": None} for one in artifacts] == before, "hashes, sizes and all else stay"
    for one in artifacts:
        read = await large.submitter.get(f"{at}/artifacts/{one['id']}", headers={"If-None-Match": f'"{one["sha256"]}"'})
        assert read.status_code == 200 and read.json()["content"] is None and read.json()["note"] == note
    [listed] = (await large.submitter.get(f"{at}/sources")).json()["items"]
    assert listed["note"] == note
    said = problem(await large.submitter.get(f"{at}/sources/{source}"), "bytes_removed")
    assert note in said["detail"] and said["removed_at"][:10] == day
    packet = await large.submitter.get(f"{at}/packet")
    assert packet.status_code == 200 and packet.json()["retention"]["note"].endswith(f"{note}.")
    assert "bytes.removed" in {fact["type"] for fact in packet.json()["timeline"]}
    page = await large.submitter.get(f"{at}/packet", headers={"Accept": "text/html"})
    assert page.text.count(note) == 2 and "has reviewed no answer" not in page.text
    assert "four minutes" not in packet.text and LARGE[:20] not in page.text
    verdict = (await large.auditor.post("/v1/ledger/verify")).json()
    assert verdict["verified"]


@pytest.mark.parametrize("after", ["snapshot", "place_of"])
async def test_a_packet_that_loses_its_bytes_while_it_is_written_is_asked_for_again(
    large: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: str
) -> None:
    life, _ = await answered(large, sensitivity_class="restricted")
    await large.submitter.delete("/v1/workspaces/default/documents", params={"path": "guide.md"})
    await (await inspector(large)).execute("UPDATE document SET retired_at = retired_at - interval '31 days'")
    await grow_old(large, life.id, 91)
    then = getattr(archive, after)

    async def and_swept(*asked: Any) -> Any:
        found = await then(*asked)
        monkeypatch.setattr(archive, after, then)
        await sweep(large)
        return found

    monkeypatch.setattr(archive, after, and_swept)
    busy = await large.submitter.get(f"/v1/missions/{life.id}/packet?format=zip")
    assert busy.headers["retry-after"] == "1"
    problem(busy, "database_busy")
    again = await large.submitter.get(f"/v1/missions/{life.id}/packet?format=zip")
    (tmp_path / "packet.zip").write_bytes(again.content)
    verdict = offline.verify(tmp_path / "packet.zip", without_anchors=True)
    assert verdict["holds"] and verdict["removed"] == verdict["artifacts"], verdict


async def test_labels_are_held_as_they_are_given(world: World) -> None:
    name, value = "n" * 100, "v" * 200
    life = await begin(world, labels={name: value, "a": "b:c"})
    for number, label in enumerate((f"{name}:{value}", "a:b:c")):
        ask = {"scope": "label", "label": label, "reason": "a case"}
        assert (await world.admin.put(f"/v1/legal-holds/case-{number}", json=ask)).status_code == 201
    assert (await world.submitter.get(f"/v1/missions/{life.id}")).json()["retention"]["holds"] == ["case-0", "case-1"]
    for label in (f"{name}n:{value}", f"{name}:{value}v", "a:" + "v" * 299, "a", ":b", "a:b\n", "a:\x85"):
        ask = {"scope": "label", "label": label, "reason": "a case"}
        problem(await world.admin.put("/v1/legal-holds/no", json=ask), "validation")
    ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?", "labels": {"a:b": "c"}}
    problem(await world.submitter.post("/v1/missions", json=ask), "validation")


async def test_times_are_versions_with_history(world: World) -> None:
    first = await world.submitter.get("/v1/retention")
    assert first.json() == {**TIMES, "version": 0, "set_by": None, "set_at": None, "counted": TIMES}
    wanted = TIMES | {"restricted_days": 7, "public_days": 4000}
    for who, code in (("submitter", "forbidden"), ("operator", "forbidden"), ("auditor", "forbidden")):
        problem(await getattr(world, who).put("/v1/retention", json=wanted, headers={"If-Match": '"v0"'}), code)
    problem(await world.admin.put("/v1/retention", json=wanted), "precondition_required")
    made = await world.admin.put("/v1/retention", json=wanted, headers={"If-Match": first.headers["etag"]})
    assert made.status_code == 200, made.text
    # a shorter time waits a week, and so does one where there was none
    assert made.json()["counted"] == TIMES and (made.json()["version"], made.json()["restricted_days"]) == (1, 7)
    problem(await world.policy_owner.put("/v1/retention", json=wanted, headers={"If-Match": '"v0"'}), "stale")
    longer = TIMES | {"restricted_days": 400}
    again = await world.policy_owner.put("/v1/retention", json=longer, headers={"If-Match": made.headers["etag"]})
    assert again.json()["counted"]["restricted_days"] == 400
    page = (await world.submitter.get("/v1/retention/versions?limit=1")).json()
    assert page["has_more"] and page["items"][0]["version"] == 2
    rest = (await world.submitter.get("/v1/retention/versions", params={"cursor": page["next_cursor"]})).json()
    assert [one["version"] for one in rest["items"]] == [1] and not rest["has_more"]


@pytest.mark.parametrize(
    "wrong", [{"restricted_days": -1}, {"internal_days": 40_000}, {"public_days": "x"}, {"more": 1}]
)
async def test_wrong_times_are_refused_by_name(world: World, wrong: dict[str, Any]) -> None:
    said = problem(
        await world.admin.put("/v1/retention", json=TIMES | wrong, headers={"If-Match": '"v0"'}), "validation"
    )
    assert said["errors"][0]["pointer"] == f"/{next(iter(wrong))}"
    missing = {name: days for name, days in TIMES.items() if name != "unread_days"}
    problem(await world.admin.put("/v1/retention", json=missing, headers={"If-Match": '"v0"'}), "validation")


async def test_holds_are_placed_listed_shown_and_lifted_by_another(world: World) -> None:
    life = await begin(world, labels={"case": "17"})
    at = "/v1/legal-holds"
    assert (await world.auditor.get(at)).json()["items"] == []
    label = {"scope": "label", "label": "case:17", "reason": "a case"}
    made = await world.auditor.put(f"{at}/case-17", json=label)
    assert (made.status_code, made.json()["state"], made.json()["label"]) == (201, "standing", "case:17")
    assert (await world.auditor.put(f"{at}/case-17", json=label)).status_code == 200
    problem(await world.admin.put(f"{at}/case-17", json=label | {"reason": "another"}), "taken")
    mission = {"scope": "mission", "mission_id": str(life.id), "reason": "x"}
    assert (await world.admin.put(f"{at}/a-mission", json=mission)).status_code == 201
    problem(await world.admin.put(f"{at}/b", json=mission | {"mission_id": str(UUID(int=7))}), "not_found")
    shown = (await world.submitter.get(f"/v1/missions/{life.id}")).json()
    assert shown["retention"]["holds"] == ["a-mission", "case-17"]
    problem(await world.submitter.get(at), "forbidden")
    problem(await world.auditor.request("DELETE", f"{at}/case-17", json={"reason": "over"}), "forbidden")
    problem(await world.admin.request("DELETE", f"{at}/a-mission", json={"reason": "over"}), "second_person")
    problem(await world.admin.request("DELETE", f"{at}/nothing", json={"reason": "over"}), "not_found")
    problem(await world.admin.request("DELETE", f"{at}/case-17", json={}), "validation")
    lifted = await world.admin.request("DELETE", f"{at}/case-17", json={"reason": "over"})
    assert (lifted.json()["state"], lifted.json()["lift_reason"]) == ("lifted", "over")
    problem(await world.admin.request("DELETE", f"{at}/case-17", json={"reason": "over"}), "wrong_state")
    for state, names in (("standing", ["a-mission"]), ("lifted", ["case-17"]), ("", ["a-mission", "case-17"])):
        page = await world.policy_owner.get(at, params={"state": state} if state else {})
        assert [one["name"] for one in page.json()["items"]] == names
    first = (await world.admin.get(f"{at}?limit=1")).json()
    second = (await world.admin.get(at, params={"cursor": first["next_cursor"]})).json()
    assert [one["name"] for one in first["items"] + second["items"]] == ["a-mission", "case-17"]
    told = [fact for fact in await world.facts(life.id) if fact["type"].startswith("hold.")]
    assert len(told) == 1 and "a case" not in str(told)


@pytest.mark.parametrize("wrong", [
    {"scope": "mission"}, {"scope": "tenant", "label": "a:b"}, {"scope": "label", "label": "ab"}, {"scope": "all"}, {"reason": ""},
    {"reason": "  "}, {"scope": "tenant", "mission_id": str(UUID(int=1))}, {"reason": "x" * 2001},
])  # fmt: skip
async def test_wrong_holds_are_refused(world: World, wrong: dict[str, Any]) -> None:
    problem(await world.admin.put("/v1/legal-holds/a", json={"scope": "tenant", "reason": "x"} | wrong), "validation")
    for name in ("A", "a b", "-a", "x" * 64):
        problem(await world.admin.put(f"/v1/legal-holds/{name}", json={"scope": "tenant", "reason": "x"}), "validation")


async def test_a_service_places_no_hold_and_sets_no_times(world: World) -> None:
    machine = await hire(world, "machine", "admin", "policy_owner", kind="service")
    problem(await machine.http.put("/v1/legal-holds/a", json={"scope": "tenant", "reason": "x"}), "forbidden")
    problem(await machine.http.put("/v1/retention", json=TIMES, headers={"If-Match": '"v0"'}), "forbidden")


async def test_a_held_mission_is_kept_by_the_sweep_of_the_worker(large: World) -> None:
    life, source = await answered(large, sensitivity_class="restricted")
    await large.auditor.put("/v1/legal-holds/all", json={"scope": "tenant", "reason": "x"})
    await grow_old(large, life.id, 5000)
    await sweep(large)
    assert (await large.submitter.get(f"/v1/missions/{life.id}/sources/{source}")).status_code == 200
    lifted = await large.admin.request("DELETE", "/v1/legal-holds/all", json={"reason": "x"})
    assert lifted.status_code == 200
    await sweep(large)
    assert (await large.submitter.get(f"/v1/missions/{life.id}")).json()["retention"]["removed_at"]
    assert (await large.submitter.get(f"/v1/missions/{life.id}/sources/{source}")).status_code == 200, (
        "a document has it"
    )
