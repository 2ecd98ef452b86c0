"""What would break a peer of the version before: the published documents hold, and each kind of break is found by name."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colony_client import publish
from colony_client.breaking import Break, breaks
from colony_client.contract import CONTRACT_VERSION
from colony_client.versions import order

Document = dict[str, Any]
Change = Callable[[Any], None]
VERSIONS = sorted((folder.name for folder in publish.PUBLISHED.iterdir()), key=order)
SERVICES = sorted(publish.ABOUT)


def document(version: str, service: str) -> Document:
    found: Document = json.loads(Path(publish.PUBLISHED / version / f"{service}.openapi.json").read_text())
    return found


# What the comparison calls a break and is none, with the reason.
MEANT = {
    "it succeeds with status 202 too": "of a tool that changes something: none was offered to any peer of 1.0",
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("newer", range(1, len(VERSIONS)))
def test_no_version_breaks_a_peer_of_the_one_before(newer: int, service: str) -> None:
    found = breaks(document(VERSIONS[newer - 1], service), document(VERSIONS[newer], service))
    assert not [str(one) for one in found if one.what not in MEANT]


def test_there_is_a_version_before_ours_and_ours_is_the_newest() -> None:
    assert VERSIONS[-1] == CONTRACT_VERSION and len(VERSIONS) >= 2


def test_what_a_version_added_is_gone_the_other_way_round() -> None:
    """Compared backwards, the same documents show exactly what 1.1 has added: the comparison is not blind to them."""
    for service, place in (
        (COLONY, "Dispatch/properties/gateway_token"),
        (ROOT, "EventReceipt/properties/next_gateway_token"),
    ):
        gone = breaks(document("1.1", service), document("1.0", service))
        assert [one.pointer for one in gone if "gateway" in one.what] == [f"{SCHEMAS}/{place}"]


# --- changes made by hand. Each: the service, where in its document, what is done there, and where the break is named
# (relative to the place, "" for the place itself). One that breaks nothing names nothing.

ROOT, COLONY = "root-internal", "colony"
EVENTS = "/paths/~1internal~1v1~1missions~1{mission_id}~1events/post"
DISPATCH = "/paths/~1v1~1missions/post"
SCHEMAS = "/components/schemas"


def put(**members: Any) -> Change:
    return lambda node: node.update(members)


def drop(*names: str) -> Change:
    def change(node: Any) -> None:
        for name in names:
            del node[name]

    return change


def append(value: Any) -> Change:
    return lambda node: node.append(value)


def remove(value: Any) -> Change:
    return lambda node: node.remove(value)


def property_of(name: str, schema: Any, required: bool = False) -> Change:
    def change(node: Any) -> None:
        node["properties"][name] = schema
        if required:
            node.setdefault("required", []).append(name)

    return change


def without_property(name: str) -> Change:
    def change(node: Any) -> None:
        del node["properties"][name]
        node["required"] = [one for one in node.get("required", []) if one != name]

    return change


TEXT = {"type": "string"}
LATER = {**TEXT, "x-since": "1.3"}
HEADER = {"name": "X-New", "in": "header", "required": True, "schema": TEXT}
NEW_EVENT = {
    "type": "object",
    "properties": {"type": {"const": "mood.changed", "type": "string"}},
    "required": ["type"],
    "additionalProperties": False,
}

BREAKING: dict[str, tuple[str, str, Change, str]] = {
    "a path is removed": (COLONY, "/paths", drop("/v1/missions/{mission_id}/cancel"), "/~1v1~1missions~1{mission_id}~1cancel"),
    "a method is removed": (COLONY, "/paths/~1v1~1missions", drop("post"), "/post"),
    "a field of a request is removed": (ROOT, f"{SCHEMAS}/Log", without_property("level"), "/properties/level"),
    "a field of an answer is removed": (ROOT, f"{SCHEMAS}/EventReceipt", without_property("stop"), "/properties/stop"),
    "a new field of a request is required": (
        ROOT, f"{SCHEMAS}/Log", property_of("code", LATER, required=True), "/properties/code"),
    "a field of a request becomes required": (ROOT, f"{SCHEMAS}/EventBatch/required", append("events"), "../properties/events"),
    "a field of an answer may be missing": (
        ROOT, f"{SCHEMAS}/EventReceipt/required", remove("lease_until"), "../properties/lease_until"),
    "a new field of a request does not say since when": (
        COLONY, f"{SCHEMAS}/Dispatch", property_of("mood", TEXT), "/properties/mood"),
    "a new field of a request says it was always there": (
        COLONY, f"{SCHEMAS}/Dispatch", property_of("mood", {**TEXT, "x-since": "1.1"}), "/properties/mood"),
    "an upper bound of a request is lowered": (ROOT, f"{SCHEMAS}/Log/properties/message", put(maxLength=1_999), ""),
    "a lower bound of a request is raised": (ROOT, f"{SCHEMAS}/Log/properties/seq", put(minimum=2), ""),
    "a bound of a request is new": (ROOT, f"{SCHEMAS}/WorkerResult/properties/claims", put(minItems=1), ""),
    "fewer entries of a list are taken": (COLONY, f"{SCHEMAS}/DispatchBatch/properties/missions", put(maxItems=63), ""),
    "an upper bound of an answer is raised": (COLONY, f"{SCHEMAS}/MissionStatus/properties/attempt", put(maximum=20_000), ""),
    "a lower bound of an answer is lowered": (COLONY, f"{SCHEMAS}/MissionStatus/properties/attempt", put(minimum=0), ""),
    "a bound of an answer is dropped": (ROOT, f"{SCHEMAS}/EventReceipt/properties/accepted_seq", drop("maximum"), ""),
    "a value of a request is removed": (ROOT, f"{SCHEMAS}/Log/properties/level/enum", remove("debug"), ".."),
    "a value of an answer is new": (COLONY, f"{SCHEMAS}/MissionStatus/properties/state/enum", append("dreaming"), ".."),
    "the values of an answer are free": (COLONY, f"{SCHEMAS}/DispatchAnswer/properties/outcome", drop("enum"), ""),
    "the values of a request are bound": (ROOT, f"{SCHEMAS}/ProviderFailed/properties/code", put(enum=["a"]), ""),
    "the pattern of a request changes": (ROOT, f"{SCHEMAS}/Citation/properties/source", put(pattern="^[0-9A-F]{64}$"), ""),
    "the pattern of an answer is dropped": (ROOT, f"{SCHEMAS}/EventReceipt/properties/next_token", drop("pattern"), ""),
    "the format of an answer changes": (ROOT, f"{SCHEMAS}/EventReceipt/properties/lease_until", put(format="date"), ""),
    "the type of a request changes": (ROOT, f"{SCHEMAS}/Log/properties/seq", put(type="string"), ""),
    "the type of an answer changes": (ROOT, f"{SCHEMAS}/RootView/properties/last_seq", put(type="string"), ""),
    "an answer that was whole has fractions": (ROOT, f"{SCHEMAS}/RootView/properties/last_seq", put(type="number"), ""),
    "a request that had fractions is whole": (ROOT, f"{SCHEMAS}/StageCompleted/properties/latency_ms", put(type="integer"), ""),
    "null is no longer taken": (ROOT, f"{SCHEMAS}/Signal/properties/reason/anyOf", lambda node: node.pop(), ".."),
    "null is answered": (COLONY, f"{SCHEMAS}/DispatchAnswer/properties/outcome", put(type=["string", "null"]), ""),
    "an event is no longer taken": (
        ROOT, f"{SCHEMAS}/EventBatch/properties/events/items/oneOf", lambda node: node.pop(), ".."),
    "members of a request are closed": (
        ROOT, f"{SCHEMAS}/WritebackProposal/properties/changes", put(additionalProperties=False), ""),
    "what is meant by leaving it out changes": (ROOT, f"{SCHEMAS}/WorkerResult/properties/not_found", put(default=["?"]), ""),
    "a status is removed": (ROOT, f"{EVENTS}/responses", drop("409"), "/409"),
    "a code is removed": (ROOT, f"{EVENTS}/responses/409/x-codes", remove("sequence_gap"), ""),
    "it succeeds with another status": (
        COLONY, f"{DISPATCH}/responses", lambda node: node.update({"202": node["200"]}), "/202"),
    "an answer is of another kind": (
        COLONY, f"{DISPATCH}/responses/200/content", lambda node: node.update({"text/html": node["application/json"]}), ""),
    "a header of a request is required": (COLONY, f"{DISPATCH}/parameters", append(HEADER), "/5"),
    "a header that was optional is required": (
        COLONY, "/components/parameters/Colony-Contract-Version", put(required=True), ""),
    "a token is asked for": (COLONY, DISPATCH, put(security=[{"mission_token": []}]), "/security"),
    "the names of members are bound": (
        ROOT, f"{SCHEMAS}/WritebackProposal/properties/changes", put(propertyNames={"maxLength": 3}), ""),
    "something is said that nobody understands": (ROOT, f"{SCHEMAS}/Log", put(dependentRequired={"a": ["b"]}), ""),
}  # fmt: skip

HARMLESS: dict[str, tuple[str, str, Change]] = {
    "a path is new": (COLONY, "/paths", put(**{"/v1/mood": {}})),
    "a method is new": (COLONY, "/paths/~1v1~1missions", put(get={"responses": {}})),
    "a field of an answer is new": (ROOT, f"{SCHEMAS}/EventReceipt", property_of("mood", TEXT)),
    "a new field of an answer is always there": (ROOT, f"{SCHEMAS}/EventReceipt", property_of("mood", TEXT, required=True)),
    "a new field of a request says since when": (COLONY, f"{SCHEMAS}/Dispatch", property_of("mood", LATER)),
    "a field of a request becomes optional": (ROOT, f"{SCHEMAS}/Log/required", remove("level")),
    "a field of an answer is always there": (ROOT, f"{SCHEMAS}/EventReceipt/required", append("stop")),
    "a bound of a request is wider": (ROOT, f"{SCHEMAS}/Log/properties/message", put(maxLength=4_000)),
    "a bound of a request is dropped": (ROOT, f"{SCHEMAS}/Log/properties/message", drop("maxLength")),
    "a bound of an answer is narrower": (COLONY, f"{SCHEMAS}/MissionStatus/properties/attempt", put(maximum=100)),
    "a bound of an answer is new": (COLONY, f"{SCHEMAS}/DispatchAnswers/properties/missions", put(minItems=2)),
    "a value of a request is new": (ROOT, f"{SCHEMAS}/Log/properties/level/enum", append("fatal")),
    "a value of an answer is removed": (COLONY, f"{SCHEMAS}/MissionStatus/properties/state/enum", remove("failed")),
    "the pattern of a request is dropped": (ROOT, f"{SCHEMAS}/Citation/properties/source", drop("pattern")),
    "a request may have fractions": (ROOT, f"{SCHEMAS}/CheckpointSaved/properties/size_bytes", put(type="number")),
    "a request may be null": (ROOT, f"{SCHEMAS}/Log/properties/level", put(type=["string", "null"])),
    "null is no longer answered": (COLONY, f"{SCHEMAS}/DispatchAnswer/properties/code/anyOf", lambda node: node.pop()),
    "an event is new": (ROOT, f"{SCHEMAS}/EventBatch/properties/events/items/oneOf", append(NEW_EVENT)),
    "a status of refusal is new": (ROOT, f"{EVENTS}/responses", lambda node: node.update({"418": node["409"]})),
    "a code is new": (ROOT, f"{EVENTS}/responses/409/x-codes", append("tea_is_ready")),
    "a header is no longer required": (COLONY, "/components/parameters/X-Colony-Nonce", put(required=False)),
    "a header is gone": (COLONY, f"{DISPATCH}/parameters", lambda node: node.pop()),
    "words are better": (ROOT, f"{SCHEMAS}/Log", put(description="What a colony has to say.")),
    "a title is given": (ROOT, f"{SCHEMAS}/Log", put(title="Log")),
    "an example is new": (ROOT, f"{SCHEMAS}/Log", put(examples=[{}])),
}  # fmt: skip


def at(found: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def changed(service: str, pointer: str, change: Change) -> tuple[list[Break], Document, Document]:
    old = document(CONTRACT_VERSION, service)
    new = copy.deepcopy(old)
    change(at(new, pointer))
    assert new != old, "the change changes nothing"
    return breaks(old, new), old, new


@pytest.mark.parametrize("name", BREAKING)
def test_a_break_is_found_and_named_by_its_place(name: str) -> None:
    service, pointer, change, where = BREAKING[name]
    found, old, new = changed(service, pointer, change)
    expected = f"{pointer.rpartition('/')[0]}{where[2:]}" if where.startswith("..") else pointer + where
    pointers = {one.pointer for one in found}
    assert any(one == expected or one.startswith(f"{expected}/") for one in pointers), [str(one) for one in found]
    for one in found:
        assert one.call and one.what
        try:
            at(new, one.pointer)
        except (KeyError, IndexError):
            at(old, one.pointer)


@pytest.mark.parametrize("name", HARMLESS)
def test_an_addition_breaks_nothing(name: str) -> None:
    service, pointer, change = HARMLESS[name]
    found, _, _ = changed(service, pointer, change)
    assert not found, [str(one) for one in found]


def test_a_schema_that_holds_itself_is_compared_once() -> None:
    def tree(most: int) -> Document:
        itself = {"$ref": "#/components/schemas/Node"}
        children = {"type": "array", "maxItems": most, "items": itself}
        node = {"type": "object", "properties": {"children": children}}
        body = {"content": {"application/json": {"schema": itself}}}
        return {
            "info": {"version": "1.0"},
            "paths": {"/tree": {"put": {"requestBody": body, "responses": {}}}},
            "components": {"schemas": {"Node": node}},
        }

    assert not breaks(tree(3), tree(4))
    assert [one.pointer for one in breaks(tree(4), tree(3))] == ["/components/schemas/Node/properties/children"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_document_does_not_break_itself(service: str) -> None:
    assert not breaks(document(CONTRACT_VERSION, service), document(CONTRACT_VERSION, service))
