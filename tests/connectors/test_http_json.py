"""The declared connector against a service of another shape, and the declarations that are refused."""

import asyncio
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.declared.body import parse_yaml
from app.errors import Problem
from app.writebacks.connectors import (
    Ambiguous,
    NotApplied,
    NotConfigured,
    Payload,
    ReadFailed,
    RecordMissing,
    Refused,
    Stale,
    encode,
    verify,
)
from app.writebacks.connectors.http_json import HttpJsonReader, HttpJsonWriter
from app.writebacks.connectors.registry import BadDefinition, capabilities, parse, place
from tests.connectors.ledger_service import READ, WRITE, Faults, in_thread
from tests.connectors.outcome import outcome

DECLARATION = b"""
base_url: http://127.0.0.1:1
auth: {header: X-Token, scheme: null}
refusals: {media_type: application/json, code: /fehler, detail: /text}
kinds:
  account:
    rename: {amount: betrag, note: vermerk}
    read: {path: "/konten/{id}", id: /nummer, fields: /daten, version: {header: ETag}}
    operations:
      update:
        method: PATCH
        path: /konten/{id}
        body: {neu: "{changes}", fest: [1, {wer: mission-root}]}
        version: {header: If-Match}
        success: [204]
        stale: [{status: 412, code: veraltet}]
        not_applied: [503]
        find: by_read_back
        writable: [amount, note]
"""


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def url(faults: Faults) -> Iterator[str]:
    with in_thread(faults) as address:
        yield address


def declared(url: str, **more: Any) -> Any:
    return parse("http_json", parse_yaml(DECLARATION) | {"base_url": url} | more)


def writer(url: str, token: str = WRITE, **more: Any) -> HttpJsonWriter:
    return HttpJsonWriter("books", declared(url, **more), token, allowed=frozenset({place(url)}))


async def proposed(books: HttpJsonWriter, **changes: Any) -> Payload:
    return Payload("books", "account", "a/1", "update", changes, (await books.read("account", "a/1")).version)


# --- a service with ETags and no keys


async def test_a_change_is_applied_under_its_etag_and_read_back(url: str, faults: Faults) -> None:
    async with writer(url) as books:
        payload = await proposed(books, amount=11, note='ä "{id}" \', x')
        assert await books.find("k-1", payload) is None
        applied = await books.apply(encode(payload), "k-1")
        assert (applied.receipt, applied.replayed) == ({"status": 204}, False)
        shown = await books.read("account", "a/1")
        assert verify(payload, shown).matches and shown.version != payload.expected_version
        assert (await books.find("k-1", payload))["version"] == shown.version  # type: ignore[index]
    [(number, headers, body)] = faults.calls
    assert (number, headers["if-match"], headers["x-token"]) == ("a/1", payload.expected_version, WRITE)
    assert json.loads(body) == {
        "neu": {"betrag": 11, "vermerk": payload.changes["note"]},
        "fest": [1, {"wer": "mission-root"}],
    }


async def test_a_moved_record_is_stale_and_shown_as_it_is(url: str, faults: Faults) -> None:
    async with writer(url) as books:
        payload = await proposed(books, amount=11)
        faults.records["a/1"]["daten"]["betrag"] = 12
        stale = await outcome(books.apply(encode(payload), "k-1"))
        assert isinstance(stale, Stale) and stale.current.value["amount"] == 12
        # moved on to exactly what is wanted: perhaps by an earlier call of ours
        faults.records["a/1"]["daten"]["betrag"] = 11
        assert isinstance(await outcome(books.apply(encode(payload), "k-1")), Ambiguous)
        assert await books.find("k-1", payload) is not None
        faults.records["a/1"]["daten"]["betrag"] = 13
        assert isinstance(await outcome(books.find("k-1", payload)), ReadFailed)  # nobody can tell any more


async def test_a_lost_answer_is_ambiguous_and_the_record_settles_it(url: str, faults: Faults) -> None:
    faults.drop_after = True
    async with writer(url) as books:
        payload = await proposed(books, amount=11)
        assert isinstance(await outcome(books.apply(encode(payload), "k-1")), Ambiguous)
        assert await books.find("k-1", payload) is not None
    assert len(faults.calls) == 1


async def test_a_late_answer_is_ambiguous_and_the_guard_keeps_it_single(url: str, faults: Faults) -> None:
    faults.before_s = 0.4
    async with writer(url, total_s=0.15) as books:
        payload = await proposed(books, amount=11)
        assert isinstance(await outcome(books.apply(encode(payload), "k-1")), Ambiguous)
        assert await books.find("k-1", payload) is None
        faults.before_s = 0
        await asyncio.sleep(0.5)
        assert await books.find("k-1", payload) is not None
        again = await outcome(books.apply(encode(payload), "k-1"))
        assert isinstance(again, Ambiguous)  # 412, and the record shows just what is wanted


@pytest.mark.parametrize(
    ("status", "plain", "kind"),
    [(503, False, NotApplied), (503, True, Ambiguous), (429, False, Ambiguous), (500, False, Ambiguous), (422, False, Refused),
     (422, True, Ambiguous), (408, False, Ambiguous), (425, False, Ambiguous), (409, False, Refused)],
)  # fmt: skip
async def test_a_refusal_counts_as_far_as_it_is_declared(
    url: str, faults: Faults, status: int, plain: bool, kind: type
) -> None:
    faults.answer, faults.plain = status, plain
    async with writer(url) as books:
        faults.plain = False
        payload = await proposed(books, amount=11)
        faults.plain = plain
        said = await outcome(books.apply(encode(payload), "k-1"))
    assert type(said) is kind and faults.records["a/1"]["daten"]["betrag"] == 10
    assert WRITE not in said.reason


async def test_what_the_declaration_does_not_let_through_is_never_sent(url: str, faults: Faults) -> None:
    async with writer(url) as books:
        payload = await proposed(books, amount=11)
        for wrong in (
            replace(payload, changes={"owner": "x"}), replace(payload, operation="delete"), replace(payload, kind="user"),
            replace(payload, record_id=".."), replace(payload, connector="other"), replace(payload, expected_version='"a"\r\nX: y'),
            replace(payload, expected_version=""), replace(payload, changes={"amount": 1, "betrag": 2}),
        ):  # fmt: skip
            said = await outcome(books.apply(encode(wrong), "k-1"))
            assert isinstance(said, Refused) and said.status is None, wrong
        assert isinstance(await outcome(books.read("account", "zz")), RecordMissing)
        faults.plain = True
        assert isinstance(await outcome(books.read("account", "zz")), ReadFailed)  # a bare 404 may be anybody's
    async with HttpJsonReader("books", declared(url), "wrong", allowed=frozenset({place(url)})) as stranger:
        faults.plain = False
        assert (await outcome(stranger.read("account", "a/1"))).status == 401
        assert not hasattr(stranger, "apply")
    async with writer(url, READ) as lesser:
        assert (await outcome(lesser.apply(encode(payload), "k-1"))).status == 403
    assert len(faults.calls) == 1


async def test_a_target_that_says_yes_and_does_nothing_is_seen_by_the_read_back(url: str, faults: Faults) -> None:
    faults.ignores_changes = True
    async with writer(url) as books:
        payload = await proposed(books, amount=11)
        await books.apply(encode(payload), "k-1")
        assert not verify(payload, await books.read("account", "a/1")).matches


def test_a_host_that_is_not_allowed_makes_no_connector(url: str) -> None:
    for allowed in (frozenset(), frozenset({"127.0.0.1:1"}), frozenset({"localhost"})):
        with pytest.raises(NotConfigured):
            HttpJsonWriter("books", declared(url), WRITE, allowed=allowed)  # type: ignore[arg-type]
    with pytest.raises(NotConfigured):
        writer(url, "a\r\nX: y")


def test_it_says_what_it_can_promise(url: str) -> None:
    body = parse_yaml(DECLARATION)
    said = capabilities("http_json", body)
    assert said is not None and said.operations == {"account": ["update"]} and not said.lists
    assert said.version.startswith("header ETag") and said.idempotency.startswith("none")


# --- declarations

OPERATION = ("kinds", "account", "operations", "update")
WRONG: dict[str, tuple[tuple[str, ...], Any]] = {
    "a host in the path": ((*OPERATION, "path"), "//evil.example/{id}"),
    "a URL as path": ((*OPERATION, "path"), "https://evil.example/{id}"),
    "a path that climbs": ((*OPERATION, "path"), "/konten/../{id}"),
    "a path that climbs in disguise": ((*OPERATION, "path"), "/konten/%2e%2e/{id}"),
    "a path with a fragment": ((*OPERATION, "path"), "/konten/{id}#x"),
    "an unknown placeholder": ((*OPERATION, "path"), "/konten/{id.__class__}"),
    "an open brace": ((*OPERATION, "path"), "/konten/{id"),
    "a changed placeholder": ((*OPERATION, "body"), {"neu": "x{changes}"}),
    "an unknown value": ((*OPERATION, "body"), {"neu": "{changes}", "wer": "{secret}"}),
    "no changes": ((*OPERATION, "body"), {"neu": 1}),
    "no guard": ((*OPERATION, "version"), None),
    "a guard that is nowhere": ((*OPERATION, "version"), {}),
    "a guard's format with more": ((*OPERATION, "version"), {"header": "If-Match", "format": "{version}{key}"}),
    "a guard's format with a line": ((*OPERATION, "version"), {"header": "If-Match", "format": "a\nb"}),
    "a key that is nowhere": ((*OPERATION, "idempotency"), {}),
    "a receipt without a key": ((*OPERATION, "find"), {"path": "/r/{key}", "key": "/k", "not_found": {"status": 404}}),
    "no way to find": ((*OPERATION, "find"), None),
    "a success that is none": ((*OPERATION, "success"), [404]),
    "a proof that is none": ((*OPERATION, "not_applied"), [500]),
    "a method that reads": ((*OPERATION, "method"), "GET"),
    "a header of HTTP's": ((*OPERATION, "version"), {"header": "Host"}),
    "a header with a line": ((*OPERATION, "version"), {"header": "X\r\nY"}),
    "two versions": (("kinds", "account", "read", "version"), {"header": "ETag", "pointer": "/v"}),
    "no version": (("kinds", "account", "read", "version"), {}),
    "a broken pointer": (("kinds", "account", "read", "fields"), "daten"),
    "two fields of one name": (("kinds", "account", "rename"), {"a": "x", "b": "x"}),
    "refusals unsaid": (("refusals",), None),
    "a user name": (("base_url",), "https://user@example.com"),
    "a query": (("base_url",), "https://example.com/?a=b"),
    "another scheme": (("base_url",), "file:///etc/passwd"),
    "numbers for a host": (("base_url",), "http://2130706433/"),
    "a token of one's own": (("headers",), {"Authorization\r\nX": "y"}),
    "a second token": (("headers",), {"x-token": "another"}),
    "a header in two spellings": (("headers",), {"X-One": "1", "x-one": "2"}),
    "no kinds": (("kinds",), {}),
    "a secret field": (("password",), "x"),
    "no end": (("total_s",), 3600),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_declaration_that_could_go_wrong_is_refused_with_its_place(case: str) -> None:
    where, value = WRONG[case]
    body = copy.deepcopy(parse_yaml(DECLARATION))
    parse("http_json", body)  # it is right but for what follows
    inner = body
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    with pytest.raises(BadDefinition) as refused:
        parse("http_json", body)
    for error in refused.value.errors:
        assert error["detail"] and (error["pointer"] == "" or error["pointer"].startswith("/"))
        assert len(where) < 3 or error["pointer"].startswith("/kinds/account")


@pytest.mark.parametrize(
    ("operation", "more", "said"),
    [
        ({"version": {"header": "authorization"}}, {"auth": {}}, "carries the credential"),
        ({"version": {"header": "X-API-key"}}, {"auth": {"header": "X-Api-Key"}}, "carries the credential"),
        ({"idempotency": {"header": "X-TOKEN"}}, {}, "carries the credential"),
        ({"idempotency": {"header": "if-match"}, "version": {"header": "If-Match"}}, {}, "cannot share a header"),
        ({}, {"auth": {"header": "X-Key"}, "headers": {"x-key": "1"}}, "carries the credential"),
    ],
)
def test_no_header_is_declared_for_two_things(operation: dict[str, Any], more: dict[str, Any], said: str) -> None:
    body = copy.deepcopy(parse_yaml(DECLARATION)) | more
    body["kinds"]["account"]["operations"]["update"] |= operation
    with pytest.raises(BadDefinition) as refused:
        parse("http_json", body)
    assert said in refused.value.errors[0]["detail"], refused.value.errors


@pytest.mark.parametrize(
    "text",
    [
        b"a: &x [1]\nb: *x\n", b"a: !!python/object/apply:os.system [ls]\n", b"a: 1\na: 2\n", b"1: x\n", b"a: [", b"\xff",
        b"- " * 100 + b"x",
        b"a: b: c", b"--- 1\n--- 2\n", b"<<: {a: 1}\nb: &c x",
    ],
)  # fmt: skip
def test_yaml_is_only_another_spelling_of_json(text: bytes) -> None:
    with pytest.raises(Problem) as refused:
        parse_yaml(text)
    assert refused.value.code == "malformed"


def test_yaml_has_no_values_that_json_has_not() -> None:
    said = parse_yaml(b"a: yes\nb: 2026-01-01\nc: 0x10\nd: 1e3\ne: true\nf: ~\ng: 1.5\nh: 07\ni: 12:30\nj: -3\nk:\n")
    assert said == {
        "a": "yes", "b": "2026-01-01", "c": "0x10", "d": "1e3", "e": True, "f": None, "g": 1.5, "h": "07", "i": "12:30", "j": -3, "k": None,
    }  # fmt: skip
    assert json.loads(json.dumps(said)) == said


def test_the_example_of_the_documentation_is_a_declaration() -> None:
    folder = Path(__file__).parents[2] / "docs" / "examples"
    found = [parse_yaml(file.read_bytes()) for file in folder.glob("*.yaml")]
    declared = [document for document in found if "kind" in document]  # the others declare something else
    assert declared
    for document in declared:
        parse(document.pop("kind"), document)
