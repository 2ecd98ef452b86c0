"""Whatever is sent: never a 500, always a whole problem document, and nothing stored."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.world import World
from tests.world.checks import census, problem

ASK: dict[str, Any] = {"mission_type": "oracle_advisory", "user_goal": "What is there?"}
JSON = {"content-type": "application/json"}
GOOD = json.dumps(ASK).encode()


def ask(**more: Any) -> bytes:
    return json.dumps({**ASK, **more}).encode()


def raw(member: bytes) -> bytes:
    """The ask with one more member, written as it stands."""
    return GOOD[:-1] + b", " + member + b"}"


DEEP = b'{"a":' * 40 + b"1" + b"}" * 40
BODIES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"mission_type=oracle_advisory", "malformed"),
    "cut short": (GOOD[:-1], "malformed"),
    "two documents": (GOOD + GOOD, "malformed"),
    "a comment": (b"/* hello */" + GOOD, "malformed"),
    "a trailing comma": (GOOD[:-1] + b",}", "malformed"),
    "NaN": (raw(b'"budget": {"cost_usd": NaN}'), "malformed"),
    "Infinity": (raw(b'"budget": {"cost_usd": Infinity}'), "malformed"),
    "minus Infinity": (raw(b'"inputs": {"max_claims": -Infinity}'), "malformed"),
    "a number beyond doubles": (raw(b'"budget": {"cost_usd": 1e999}'), "malformed"),
    "a number of 5000 digits": (raw(b'"budget": {"tokens": ' + b"9" * 5000 + b"}"), "malformed"),
    "a number beyond bigint": (raw(b'"budget": {"tokens": 99999999999999999999}'), "validation"),
    "a fraction for a whole number": (raw(b'"budget": {"tokens": 1.5}'), "validation"),
    "duplicate keys": (raw(b'"user_goal": "Another?"'), "malformed"),
    "duplicate keys deep down": (raw(b'"inputs": {"a": {"b": 1, "b": 2}}'), "malformed"),
    "duplicate keys in disguise": (raw(b'"user\\u005fgoal": "Another?"'), "malformed"),
    "a lone surrogate, escaped": (raw(b'"labels": {"a": "\\ud800"}'), "malformed"),
    "a lone surrogate, raw": (raw(b'"labels": {"a": "\xed\xa0\x80"}'), "malformed"),
    "a lone surrogate as a key": (raw(b'"labels": {"\\udfff": "a"}'), "malformed"),
    "NUL, escaped": (raw(b'"labels": {"a": "x\\u0000"}'), "malformed"),
    "NUL, raw": (raw(b'"labels": {"a": "x\x00"}'), "malformed"),
    "invalid UTF-8": (raw(b'"labels": {"a": "\xff\xfe"}'), "malformed"),
    "UTF-16": (json.dumps(ASK).encode("utf-16"), "malformed"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "malformed"),
    "too deep": (DEEP, "malformed"),
    "far too deep": (b"[" * 100_000, "malformed"),
    "deep inputs": (raw(b'"inputs": {"a": ' + b"[" * 25 + b"]" * 25 + b"}"), "validation"),
    "an array": (b"[]", "validation"),
    "a string": (b'"mission"', "validation"),
    "null": (b"null", "validation"),
    "an empty object": (b"{}", "validation"),
    "an empty body": (b"", "validation"),
    "unknown fields": (ask(surprise=1), "validation"),
    "unknown fields deeper down": (ask(budget={"surprise": 1}), "validation"),
    "a wrong type": (ask(user_goal=5), "validation"),
    "a number as text": (ask(budget={"tokens": "5"}), "validation"),
    "a list for an object": (ask(labels=["a"]), "validation"),
    "a boolean for a number": (ask(budget={"tokens": True}), "validation"),
    "an unknown mode": (ask(mode="reckless"), "validation"),
    "an unknown mission type": (ask(mission_type="no_such_type"), "validation"),
    "a mission type that is no name": (ask(mission_type="../etc/passwd"), "validation"),
    "inputs that do not fit": (ask(inputs={"max_claims": 0}), "validation"),
    "inputs that are not there": (ask(inputs={"surprise": True}), "validation"),
    "a workspace that is no name": (ask(inputs={"workspace": "a/b"}), "validation"),
    "no goal": (json.dumps({"mission_type": "oracle_advisory"}).encode(), "validation"),
    "an empty goal": (ask(user_goal=""), "validation"),
    "an invisible goal": (ask(user_goal="\u200b\u200d \t\n\u00ad"), "validation"),
    "a goal of marks": (ask(user_goal="\u0301\u200d"), "validation"),
    "a goal that is too long": (ask(user_goal="a" * 8001), "validation"),
    "a goal that grows too long": (ask(user_goal="\ufb2c" * 8000), "validation"),
    "too many labels": (ask(labels={str(n): "" for n in range(21)}), "validation"),
    "an empty label": (ask(labels={"": "a"}), "validation"),
    "a label of two lines": (ask(labels={"a": "b\nc"}), "validation"),
    "a label that ends its line": (ask(labels={"a": "b\r"}), "validation"),
    "a label with a line end of Unicode's": (ask(labels={"a": "b\u2028c"}), "validation"),
    "a label's name of two lines": (ask(labels={"a\nb": "c"}), "validation"),
    "a label's name with a colon": (ask(labels={"a:b": "c"}), "validation"),
    "too many tools": (ask(tools=["a"] * 51), "validation"),
    "a tool that is no name": (ask(tools=["rm -rf /"]), "validation"),
    "a negative budget": (ask(budget={"tokens": -1}), "validation"),
    "no time at all": (ask(budget={"time_ms": 0}), "validation"),
    "too large": (ask(labels={"a": "x" * 300_000}), "too_large"),
}


async def test_no_bad_body_gets_in(world: World) -> None:
    before = await census(world)
    for case, (body, code) in BODIES.items():
        for query in ("", "?validate_only=true"):
            answer = await world.submitter.post(f"/v1/missions{query}", content=body, headers=JSON)
            assert answer.json().get("code") == code, (case, answer.text[:300])
            said = problem(answer, code)
            if code == "validation":
                assert said["errors"], case
    assert await census(world) == before


async def test_errors_point_at_the_field(world: World) -> None:
    pointers = {
        "/user_goal": ask(user_goal=5),
        "/budget/tokens": ask(budget={"tokens": -1}),
        "/surprise": ask(surprise=1),
        "/inputs/max_claims": ask(inputs={"max_claims": 99}),
        "/mission_type": ask(mission_type="no_such_type"),
        "/tools/1": ask(tools=["fine", "not fine"]),
        "/inputs/lead_ids/1": ask(mission_type="crm_lead_intelligence", inputs={"lead_ids": ["a", 5]}),
    }
    for pointer, body in pointers.items():
        said = problem(await world.submitter.post("/v1/missions", content=body, headers=JSON), "validation")
        assert [error["pointer"] for error in said["errors"]] == [pointer]
        assert pointer in said["detail"]
    odd = await world.submitter.post("/v1/missions", content=ask(**{"a/b~c": 1}), headers=JSON)
    assert problem(odd, "validation")["errors"][0]["pointer"] == "/a~1b~0c"


async def test_a_media_type_that_is_not_json(world: World) -> None:
    before = await census(world)
    for headers in (
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/problem+json"},
        {"content-type": "json"},
        {"content-type": ""},
    ):
        answer = await world.submitter.post("/v1/missions", content=GOOD, headers=headers)
        problem(answer, "unsupported_media_type")
    assert await census(world) == before
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON;x=y"):
        answer = await world.submitter.post("/v1/missions", content=GOOD, headers={"content-type": kind})
        assert answer.status_code == 202, kind


async def test_the_same_bounds_hold_on_every_route_that_takes_json(world: World) -> None:
    made = await world.create()
    before = await census(world)
    targets = [
        ("POST", f"/v1/missions/{made['id']}/cancel"),
        ("POST", f"/v1/missions/{made['id']}/fail"),
        ("POST", f"/v1/approvals/{uuid4()}/decisions"),
        ("POST", "/v1/policies/evaluate"),
        ("PUT", "/v1/mission-types/some_kind"),
    ]
    strict = {name: body for name, body in BODIES.items() if body[1] == "malformed"}
    for method, path in targets:
        person = world.product_owner if method == "PUT" else world.operator
        headers = {**JSON, "If-Match": '"v1"'}
        for case, (body, code) in strict.items():
            answer = await person.request(method, path, content=body, headers=headers)
            assert answer.json().get("code") == code, (path, case, answer.text[:200])
            problem(answer, code)
        for body in (b"", b"[]", b"null", b"{}", b'{"surprise": 1}'):
            problem(await person.request(method, path, content=body, headers=headers), "validation")
        problem(await person.request(method, path, content=b'"' + b"x" * 300_000 + b'"', headers=headers), "too_large")
        problem(await person.request(method, path, content=GOOD), "unsupported_media_type")
    assert await census(world) == before


async def test_a_body_that_does_not_end(world: World) -> None:
    """Without a Content-Length the bound holds for what arrives, and the rest is not waited for."""
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 65_536
            yield b" " * 65_536

    problem(await world.submitter.post("/v1/missions", content=long(), headers=JSON), "too_large")
    assert sent <= 6 * 65_536


async def test_a_body_that_drips(world: World) -> None:
    world.public.state.settings = world.settings(body_timeout_ms=200)

    async def dripping() -> AsyncIterator[bytes]:
        for byte in GOOD:
            yield bytes([byte])
            await asyncio.sleep(0.05)

    before, began = await census(world), time.monotonic()
    problem(await world.submitter.post("/v1/missions", content=dripping(), headers=JSON), "too_slow")
    assert time.monotonic() - began < 1.5
    assert await census(world) == before


QUERIES = {
    "limit": ["0", "201", "-1", "abc", "1.5", "", "9" * 30],
    "cursor": ["", "x", "one.", "one.AAAA", "two.AAAA", ".", "one.%ff", "\u00e9", "a" * 1001, "one." + "A" * 40],
    "state": ["open", "", "completed ", "COMPLETED"],
    "requested_by": ["me", "0", ""],
    "created_after": ["yesterday", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "1e400", ""],
    "created_before": ["9999-12-31T23:59:59-23:59", "-1", "NaN", "99999999999999999999"],
    "label": ["a", ":b", "\x00:b", "a:\x00", "a" * 101 + ":b", "a:b\nc", "a\n:b", "a:b\n", "a:\u2029"],
    "mission_type": ["x" * 65, "\x00"],
}


async def test_no_bad_parameter_gets_through(world: World) -> None:
    for name, values in QUERIES.items():
        for value in values:
            answer = await world.submitter.get("/v1/missions", params={name: value})
            assert answer.status_code in (200, 422), (name, value, answer.text[:200])
            if answer.status_code == 422:
                [error] = problem(answer, "validation")["errors"]
                assert error["parameter"] == ("url" if "\x00" in value else name)
            else:
                assert answer.json()["items"] == []
    refused = [("limit", "0"), ("limit", "201"), ("cursor", "x"), ("state", "open"), ("requested_by", "me")]
    for name, value in refused:
        problem(await world.submitter.get("/v1/missions", params={name: value}), "validation")


async def test_no_bad_path_gets_through(world: World) -> None:
    for path in (
        "/v1/missions/{}", "/v1/missions/{}/events", "/v1/missions/{}/artifacts", "/v1/missions/{}/packet",
        "/v1/writebacks/{}", "/v1/approvals/{}", "/v1/mission-types/{}", "/v1/workspaces/{}/documents",
    ):  # fmt: skip
        for bad in ("not-an-id", "123", "%00", "%ff", "%ED%A0%80", "a" * 3000, "..%2f..", "%F0%9F%92%A9", "' OR 1=1"):
            answer = await world.submitter.get(path.format(bad))
            assert answer.status_code in (404, 422), (path, bad, answer.text[:200])
            problem(answer, answer.json()["code"])
    for name in ("%00", "Big", "x", "a" * 64, "a-b", "1ab"):
        answer = await world.product_owner.put(f"/v1/mission-types/{name}", json={})
        problem(answer, "validation")
    for path in ("", "/abs", "../up", "a//b", "a/./b", "%00", "a%0Ab", "x" * 501):
        answer = await world.submitter.put(f"/v1/workspaces/w/documents?path={path}", content=b"# A\n")
        problem(answer, "validation")
    for document in ("a.bin", "a"):
        answer = await world.submitter.put(f"/v1/workspaces/w/documents?path={document}", content=b"\x00\xff\xfe\x01")
        assert answer.status_code in (201, 422), answer.text


async def test_a_cursor_is_good_for_its_own_list_only(world: World) -> None:
    for _ in range(3):
        await world.create()
    lists = {
        "/v1/missions": (await world.submitter.get("/v1/missions?limit=1")).json()["next_cursor"],
        "/v1/ledger": (await world.submitter.get("/v1/ledger?limit=1")).json()["next_cursor"],
    }
    for name in ("a", "b"):
        await world.submitter.put(f"/v1/workspaces/{name}/documents?path=a.md", content=b"# A\n")
        await world.submitter.put(f"/v1/workspaces/{name}/documents?path=b.md", content=b"# B\n")
        here = f"/v1/workspaces/{name}/documents"
        lists[here] = (await world.submitter.get(f"{here}?limit=1")).json()["next_cursor"]
    lists["/v1/workspaces"] = (await world.submitter.get("/v1/workspaces?limit=1")).json()["next_cursor"]
    assert all(lists.values())
    for there in (*lists, "/v1/writebacks", "/v1/approvals", "/v1/approvals?state=pending"):
        for place, cursor in lists.items():
            answer = await world.submitter.get(there, params={"cursor": cursor})
            if place == there:
                assert answer.status_code == 200
            else:
                problem(answer, "validation")
    for place, cursor in lists.items():
        kid, _, sealed = cursor.partition(".")
        for n in range(0, len(sealed), 7):
            changed = "A" if sealed[n] != "A" else "B"
            answer = await world.submitter.get(
                place, params={"cursor": f"{kid}.{sealed[:n]}{changed}{sealed[n + 1 :]}"}
            )
            problem(answer, "validation")
        for damaged in (sealed, f"{kid}.{sealed[:-4]}", f"other.{sealed}", f"{kid}.{sealed}AAAA", f".{sealed}"):
            problem(await world.submitter.get(place, params={"cursor": damaged}), "validation")


async def test_headers_that_make_no_sense(world: World) -> None:
    made = await world.create()
    before = await census(world)
    for key in ("", " ", "a b", "x" * 256, "\u00e9", "a\x7f"):
        headers = httpx.Headers({**JSON, "Idempotency-Key": key}, encoding="latin-1")
        answer = await world.submitter.post("/v1/missions", content=GOOD, headers=headers)
        [error] = problem(answer, "validation")["errors"]
        assert error["parameter"] == "Idempotency-Key"
    for tag in ("v1", 'W/"v1"', "*", "", '"v1", "v2"', '"v99999999999999999999"', '"v-1"', "\u00e9"):
        headers = httpx.Headers({"If-Match": tag}, encoding="latin-1")
        answer = await world.operator.post(f"/v1/missions/{made['id']}/cancel", json={"reason": "x"}, headers=headers)
        assert problem(answer, "stale")["current"]["id"] == made["id"]
    for position in ("x", "1", "1-", "-1-1", "1-1-1", "99999999999999999999999-1", "1-9223372036854775808", ""):
        answer = await world.submitter.get("/v1/events", headers={"Last-Event-ID": position})
        [error] = problem(answer, "validation")["errors"]
        assert error["parameter"] == "Last-Event-ID"
    assert await census(world) == before


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["oracle_advisory", "default", "high", "\x00", "\u202e"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "mission_type", "user_goal", "inputs", "mode", "origin_surface", "risk_level", "sensitivity_class", "budget", "tools", "labels",
]  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(FIELDS), anything, max_size=3))
async def test_nothing_at_all_makes_it_stumble(world: World, changes: dict[str, Any]) -> None:
    answer = await world.submitter.post("/v1/missions", content=json.dumps({**ASK, **changes}), headers=JSON)
    assert answer.status_code in (202, 403, 422), answer.text
    if answer.status_code != 202:
        problem(answer, answer.json()["code"])


@pytest.mark.parametrize("path", ["/v1/missions", "/v1/policies/evaluate"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
async def test_no_bytes_make_it_stumble(world: World, path: str, body: bytes) -> None:
    before = await census(world)
    answer = await world.submitter.post(path, content=body, headers=JSON)
    assert 400 <= answer.status_code < 500, answer.text
    problem(answer, answer.json()["code"])
    assert await census(world) == before
