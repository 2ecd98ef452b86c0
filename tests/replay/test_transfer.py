"""A mission goes to another environment as one signed file, and is played there."""

import base64
import json
from collections.abc import Callable
from importlib import import_module
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.canonical import sha256
from app.ledger import signer
from app.ledger.keys import sealed
from app.replay.wiring import sides
from app.settings import Misconfigured
from colony_client.artifacts import MissionEnvelope, contract_hash
from tests.replay.test_recorded import rich
from tests.tools.registered import ask
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.life import Life

HERE = "here:" + base64.b64encode(b"h" * 32).decode()
ELSEWHERE = "elsewhere:" + base64.b64encode(b"e" * 32).decode()


def give_keys(world: World) -> None:
    """The instance signs as `here` and believes `here` and `elsewhere`."""
    state = world.public.state
    state.transfer_signer = signer(HERE)
    state.transfer_keys = signer(HERE).public() | signer(ELSEWHERE).public()


async def exported(world: World) -> tuple[Life, bytes]:
    give_keys(world)
    life = await rich(world)
    answer = await world.operator.get(f"/v1/missions/{life.id}/recording")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith("attachment")
    return life, answer.content


async def taken_in(http: httpx.AsyncClient, data: bytes) -> httpx.Response:
    return await http.post("/v1/recordings", content=data, headers={"Content-Type": "application/json"})


async def test_a_mission_is_exported_imported_elsewhere_and_played_there(world: World) -> None:
    life, data = await exported(world)
    other = await world.another_tenant()
    answer = await taken_in(other.http, data)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["mission"], made["signed_by"], made["environment"]) == (str(life.id), "here", "local")
    again = await taken_in(other.http, data)
    assert again.json()["id"] == made["id"], "the same file is kept once"
    listed = (await other.http.get("/v1/recordings")).json()["items"]
    assert [one["id"] for one in listed] == [made["id"]]
    assert (await world.auditor.get(f"/v1/recordings/{made['id']}")).status_code == 404, "it is the other tenant's"

    asked = await other.http.post(f"/v1/recordings/{made['id']}/replay", json={"mode": "recorded"})
    assert asked.status_code == 202, asked.text
    await world.run_work("replay", "review")
    found = await other.http.get(f"/v1/missions/{asked.json()['id']}/diff")
    said = found.json()
    assert said["after"]["state"] == "completed", said
    differing = {name for name, part in said.items() if isinstance(part, dict) and part.get("same_in_all") is False}
    assert differing <= {"changes", "decisions"}, json.dumps({name: said[name] for name in differing}, indent=1)


@pytest.mark.parametrize("what", ["changed", "stranger", "unsigned", "no json", "another purpose", "empty", "cut"])
async def test_a_file_that_nobody_trusted_has_signed_is_refused(world: World, what: str) -> None:
    _, data = await exported(world)
    found: dict[str, Any] = json.loads(data)
    statement = found["statement"]
    stranger = Ed25519PrivateKey.generate()
    bad = {
        "changed": data.replace(b'"state":"awaiting_approval"', b'"state":"completed"', 1),
        "stranger": sealed(statement | {"by": "nobody"}, stranger),
        "unsigned": sealed(statement, stranger),
        "no json": b"recording",
        "another purpose": sealed(statement | {"purpose": "x"}, signer(HERE).by_kid["here"]),
        "empty": b"",
        "cut": data[: len(data) // 2],
    }[what]
    assert bad != data
    answer = await taken_in(world.operator, bad)
    assert answer.status_code in (403, 422), answer.text
    problem(answer, "forbidden" if answer.status_code == 403 else "validation")
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM recording") == 0


async def test_what_is_signed_but_malformed_is_refused_by_name(world: World) -> None:
    _, data = await exported(world)
    statement = json.loads(data)["statement"]
    key = signer(ELSEWHERE).by_kid["elsewhere"]
    broken = statement | {"by": "elsewhere", "recording": statement["recording"] | {"attempt": 0}}
    said = problem(await taken_in(world.operator, sealed(broken, key)), "validation")
    assert "attempt" in said["detail"]
    broken = statement | {"by": "elsewhere", "sources": ["!"]}
    problem(await taken_in(world.operator, sealed(broken, key)), "validation")
    for more in ({"attempt": 2**31}, {"mission_type": "a\x00b"}, {"environment": "a\x00b"}):
        broken = statement | {"by": "elsewhere", "recording": statement["recording"] | more}
        said = problem(await taken_in(world.operator, sealed(broken, key)), "validation")
        assert next(iter(more)) in said["detail"]
    calls = [one | {"name": "a\x00b"} for one in statement["recording"]["calls"]]
    broken = statement | {"by": "elsewhere", "recording": statement["recording"] | {"calls": calls}}
    assert "calls/0/name" in problem(await taken_in(world.operator, sealed(broken, key)), "validation")["detail"]
    calls = [one | {"arguments": {"n": 1e16}} for one in statement["recording"]["calls"]]
    whole = statement | {"by": "elsewhere", "recording": statement["recording"] | {"calls": calls}}
    assert (await taken_in(world.operator, sealed(whole, key))).status_code == 201


async def test_a_file_that_an_earlier_version_took_in_and_this_one_does_not_ends_its_replay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = await exported(world)
    other = await world.another_tenant()
    made = (await taken_in(other.http, data)).json()
    asked = (await other.http.post(f"/v1/recordings/{made['id']}/replay", json={"mode": "recorded"})).json()
    monkeypatch.setattr("app.replay.transfer.PURPOSE", "mission-root recording 2")
    await world.run_work("replay")
    ended = (await other.http.get(f"/v1/missions/{asked['id']}")).json()
    assert (ended["state"], ended["reason"]) == ("failed", "replay_unplayable"), ended


def facts(recording: dict[str, Any], type: str) -> list[dict[str, Any]]:
    return [one for one in recording["facts"] if one["type"] == type]


def of_tool(recording: dict[str, Any], outcome: str, **said: Any) -> None:
    """Every call of that outcome was answered otherwise."""
    for one in recording["calls"]:
        if one["outcome"] == outcome:
            one["answer"] = base64.b64encode(json.dumps(said).encode()).decode()


def without_the_packet(recording: dict[str, Any]) -> None:
    recording["artifacts"] = [one for one in recording["artifacts"] if one["schema_name"] != "aggregation_packet"]


def produced_by(name: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(recording: dict[str, Any]) -> None:
        for one in recording["artifacts"]:
            one["content"]["producer"] = name

    return spoil


def without_a_stage(recording: dict[str, Any]) -> None:
    facts(recording, "stage.started")[0]["body"] = {}


def with_arguments_that_are_none(recording: dict[str, Any]) -> None:
    [one] = [one for one in recording["calls"] if one["name"] == "workspace.search"]
    one["arguments"] = [1]
    facts(recording, "tool.called")[-1]["body"]["arguments_sha256"] = sha256(b"[1]").hex()


def with_a_model(outcome: str, answer: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(recording: dict[str, Any]) -> None:
        asked = {"kind": "model", "name": "small", "arguments": {}, "ordinal": 1, "outcome": outcome, "took_ms": 1.0}
        recording["calls"].append(asked | {"answer": base64.b64encode(json.dumps(answer).encode()).decode()})
        place = recording["facts"].index(facts(recording, "stage.started")[0])
        body = {"model": "small", "request_sha256": sha256(b"{}").hex(), "attempt": 1}
        recording["facts"].insert(place, recording["facts"][place] | {"type": "model.called", "body": body})

    return spoil


SPOILED: dict[str, Callable[[dict[str, Any]], None]] = {
    "an artifact missing": without_the_packet,
    "another form": without_a_stage,
    "refused": produced_by("somebody else"),
    "what no text may hold": produced_by({"name": "a\x00b", "version": "1"}),
    "no result": lambda recording: of_tool(recording, "answered", shown=[], kind="document"),
    "shown what is not there": lambda recording: of_tool(
        recording, "answered", result={}, kind="document", shown=[["0" * 64, "nothing.md", None]]
    ),
    "an unknown problem": lambda recording: of_tool(
        recording, "refused", code="nobody_knows", detail="", errors=[], members={}
    ),
    "half a problem": lambda recording: of_tool(recording, "refused", code="not_found"),
    "arguments that are none": with_arguments_that_are_none,
    "a model that says nothing": with_a_model("answered", {}),
    "a model that nobody asked about": with_a_model("denied", {"considered": []}),
    "shown what has no name": lambda recording: of_tool(
        recording, "answered", result={}, kind="document", shown=[["ab" * 32, ["x"], None]]
    ),
    "shown what nobody can write": lambda recording: of_tool(
        recording, "answered", result={}, kind="document", shown=[["ab" * 32, "\ud800", None]]
    ),
    "shown in a version that is none": lambda recording: of_tool(
        recording, "answered", result={}, kind="record", shown=[["ab" * 32, "x", 1]]
    ),
    "shown as something else": lambda recording: of_tool(recording, "answered", result={}, kind=["x"], shown=[]),
    "a proposal that nobody can write": lambda recording: of_tool(
        recording, "answered", result={}, kind="record", shown=[], proposal={"x": "\ud800"}
    ),
    "a refusal that nobody can write": lambda recording: of_tool(
        recording, "refused", code="not_found", detail="\ud800", errors=[], members={}
    ),
    "a refusal without words": lambda recording: of_tool(
        recording, "refused", code="not_found", detail=[1], errors=[], members={}
    ),
    "a model whose provider is no name": with_a_model("answered", {"considered": [], "fact": {"provider": []}}),
    "a model that was denied and asked": with_a_model("denied", {"considered": [], "fact": {"provider": "east"}}),
    "a model with half a fact": with_a_model("answered", {"considered": [], "fact": {"provider": None, "n": 2.0**70}}),
}


@pytest.mark.long
@pytest.mark.parametrize("what", SPOILED)
async def test_a_file_that_cannot_be_played_to_its_end_ends_its_replay(world: World, what: str) -> None:
    _, data = await exported(world)
    statement = json.loads(data)["statement"]
    SPOILED[what](statement["recording"])
    other = await world.another_tenant()
    forged = sealed(statement | {"by": "elsewhere"}, signer(ELSEWHERE).by_kid["elsewhere"])
    made = (await taken_in(other.http, forged)).json()
    asked = (await other.http.post(f"/v1/recordings/{made['id']}/replay", json={"mode": "recorded"})).json()
    await world.run_work("replay")
    ended = (await other.http.get(f"/v1/missions/{asked['id']}")).json()
    assert (ended["state"], ended["reason"]) == ("failed", "replay_unplayable"), ended
    assert "in fact" in ended["reason_note"]
    assert await (await inspector(world)).fetchval("SELECT count(*) FROM work WHERE kind = 'replay'") == 0


# what is spoiled: the outcome of the calls that are answered so, and why they are not
HEARD_LIVE = {
    "no result": ("answered", "not_whole"), "shown what is not there": ("answered", "refused"),
    "shown what has no name": ("answered", "not_whole"), "shown what nobody can write": ("answered", "not_whole"),
    "shown in a version that is none": ("answered", "not_whole"), "shown as something else": ("answered", "not_whole"),
    "a proposal that nobody can write": ("answered", "not_whole"), "a proposal that is none": ("answered", "not_whole"),
    "an unknown problem": ("refused", "not_whole"), "half a problem": ("refused", "not_whole"),
    "a refusal that nobody can write": ("refused", "not_whole"), "a refusal without words": ("refused", "not_whole"),
}  # fmt: skip


@pytest.mark.parametrize("what", HEARD_LIVE)
async def test_a_live_colony_is_told_that_its_tape_is_not_whole(world: World, what: str) -> None:
    _, data = await exported(world)
    statement = json.loads(data)["statement"]
    outcome, why = HEARD_LIVE[what]
    if what == "a proposal that is none":  # without its colony it is played from its fact
        of_tool(statement["recording"], outcome, result={}, kind="record", shown=[], proposal={"x": 1})
    else:
        SPOILED[what](statement["recording"])
    other = await world.another_tenant()
    forged = sealed(statement | {"by": "elsewhere"}, signer(ELSEWHERE).by_kid["elsewhere"])
    made = (await taken_in(other.http, forged)).json()
    body = {"mode": "recorded", "colony": "live"}
    asked = (await other.http.post(f"/v1/recordings/{made['id']}/replay", json=body)).json()
    again = Life(world, UUID(asked["id"]))
    await again.take()
    one, *_ = (one for one in statement["recording"]["calls"] if one["outcome"] == outcome)
    said = problem(await ask(world, again.dispatch, one["name"], one["arguments"]), "replay_diverged")
    assert one["name"] in said["detail"] and "what its tape says of it" in said["detail"], said
    ended = (await other.http.get(f"/v1/missions/{again.id}")).json()
    assert (ended["state"], ended["reason"]) == ("failed", "replay_unplayable"), ended
    assert (await other.http.get(f"/v1/missions/{again.id}/diff")).json()["divergence"]["why"] == why
    kept = "SELECT count(*) FROM {} WHERE mission = $1"
    for table in ("tape", "reading"):
        assert await (await inspector(world)).fetchval(kept.format(table), again.id) == 0, table


async def test_a_replay_that_failed_for_half_a_day_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    life = await rich(world)
    asked = (await world.submitter.post(f"/v1/missions/{life.id}/replay", json={"mode": "recorded"})).json()
    monkeypatch.setattr(import_module("app.replay.play"), "MOST_TRIES", 0)
    await world.run_work("replay")
    ended = (await world.operator.get(f"/v1/missions/{asked['id']}")).json()
    assert (ended["state"], ended["reason"]) == ("failed", "replay_unplayable"), ended
    assert "It failed 0 times" in ended["reason_note"]


async def test_without_a_key_nothing_leaves(world: World) -> None:
    life = await rich(world)
    world.public.state.transfer_signer = None
    problem(await world.operator.get(f"/v1/missions/{life.id}/recording"), "not_configured")
    problem(await world.submitter.get(f"/v1/missions/{life.id}/recording"), "forbidden")
    give_keys(world)
    problem(await world.operator.get(f"/v1/missions/{UUID(int=3)}/recording"), "not_found")


async def test_settings_that_are_no_keys_stop_the_process(world: World) -> None:
    wrong = world.root.settings.model_copy(update={"transfer_trusted_keys": "nonsense"})
    with pytest.raises(Misconfigured, match="TRANSFER_TRUSTED_KEYS must be kid:base64"):
        sides(wrong)


@pytest.mark.parametrize("mode", ["recorded", "rerun"])
async def test_what_could_be_asked_for_elsewhere_is_repeated_or_refused_by_name(world: World, mode: str) -> None:
    """Labels of which nobody could ask for by name and value are taken again; what no mission here may say is refused."""
    _, data = await exported(world)
    statement = json.loads(data)["statement"] | {"by": "elsewhere"}
    other = await world.another_tenant()

    async def repeated(**said: Any) -> httpx.Response:
        statement["recording"]["envelope"] |= said
        envelope = MissionEnvelope.model_validate_json(json.dumps(statement["recording"]["envelope"]))
        statement["recording"]["envelope"]["contract_hash"] = contract_hash(envelope)
        made = await taken_in(other.http, sealed(statement, signer(ELSEWHERE).by_kid["elsewhere"]))
        assert made.status_code == 201, made.text
        return await other.http.post(f"/v1/recordings/{made.json()['id']}/replay", json={"mode": mode})

    labels = {"case:old": "one\ntwo"}
    taken = await repeated(labels=labels)
    assert taken.status_code == 202, taken.text
    assert taken.json()["labels"] == labels
    said = problem(await repeated(labels={"n" * 150: "long"}), "validation")
    assert "labels" in said["detail"] and "at most 100 characters" in said["detail"], said
