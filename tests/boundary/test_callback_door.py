"""Who may speak for a mission, and what is refused whole: keys, nonces, tokens, strangers' artifacts, malformed bytes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.http.serving import opened
from app.main import Root, internal_app
from colony_client import signing
from colony_client.artifacts import (
    Citation,
    PolicyDecisionArtifact,
    ReviewPacket,
    WorkerResult,
    parse_artifact,
    quote_sha256,
)
from colony_client.contract import MAX_BODY_BYTES, MAX_EVENTS_PER_BATCH
from colony_client.errors import Superseded
from tests.boundary.calls import batch, call, events_path, send_raw, token_of
from tests.world import World
from tests.world.checks import census, problem
from tests.world.colony import base
from tests.world.life import Life, change, event, in_state

WORD = {"seq": 1, "at": "2026-11-21T10:00:00Z", "type": "stage.started", "stage": "planner"}


async def untouched(life: Life, before: tuple[Any, ...]) -> None:
    assert (await life.row(), await life.facts(), await census(life.world)) == before


async def known(life: Life) -> tuple[Any, ...]:
    return await life.row(), await life.facts(), await census(life.world)


# --- who


ANOTHERS: dict[str, dict[str, Any]] = {
    "of another mission": {"mission": UUID(int=7)},
    "of another attempt": {"attempt": 2, "fence": 2},
    "for the gateway": {"audience": "gateway"},
    "expired": {"now": datetime.now(UTC) - timedelta(seconds=901)},
    "of a foreign key": {"keys": signing.parse_keys("one:a-secret-that-is-not-the-roots", "TEST")},
    "of an unknown kid": {"keys": signing.parse_keys("two:signing-secret-of-the-tests", "TEST")},
}
NO_TOKENS = (None, "", "x", "mt1.one.e30.", "mt1.one.e30.AAAA", "Bearer", "é" * 10, "m" * 5_000)


async def test_a_token_that_is_not_for_this_call_opens_nothing(world: World) -> None:
    life = await in_state(world, "running")
    before = await known(life)
    for name, other in ANOTHERS.items():
        answer = await send_raw(
            world, life.dispatch, batch(life.dispatch, WORD), token_of(world, life.dispatch, **other)
        )
        assert answer.status_code == 401, name
        problem(answer, "unauthenticated")
        await untouched(life, before)


async def test_what_is_no_token_opens_nothing(world: World) -> None:
    life = await in_state(world, "running")
    before = await known(life)
    for token in NO_TOKENS:
        headers = signing.sign(world.colony.keys, "POST", events_path(life.dispatch), b"{}", "root")
        raw: list[tuple[bytes, bytes]] = [(name.encode(), value.encode()) for name, value in headers.items()]
        if token is not None:
            raw.append((b"authorization", b"Bearer " + token.encode("latin-1")))
        answer = await world.inside.post(events_path(life.dispatch), content=b"{}", headers=httpx.Headers(raw))
        problem(answer, "unauthenticated")
        await untouched(life, before)


async def test_a_token_altered_anywhere_opens_nothing(world: World) -> None:
    life = await in_state(world, "running")
    token = life.dispatch.mission_token
    for place in range(0, len(token), 7):
        altered = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        answer = await send_raw(world, life.dispatch, batch(life.dispatch, WORD), altered)
        # the last character of base64 may hold bits that nobody reads: the very same token, spelled otherwise
        assert answer.status_code == 401 or place == len(token) - 1, place
    assert (await life.row())["last_seq"] == 0


async def test_the_signature_is_over_everything_that_is_said(world: World) -> None:
    life = await in_state(world, "running")
    path, body, token = events_path(life.dispatch), batch(life.dispatch, WORD), life.dispatch.mission_token
    before = await known(life)
    genuine = signing.sign(world.colony.keys, "POST", path, body, "root") | {"Authorization": f"Bearer {token}"}
    other_path = events_path(life.dispatch).replace(str(life.id), str(uuid4()))
    late = datetime.now(UTC) - timedelta(minutes=6)
    foreign = signing.parse_keys("local:another-secret-altogether", "TEST")
    attempts = [
        await world.inside.post(path, content=body + b" ", headers=genuine),
        await world.inside.post(other_path, content=body, headers=genuine),
        await world.inside.post(f"{path}?x=1", content=body, headers=genuine),
        await world.inside.post(path, content=body, headers={"Authorization": f"Bearer {token}"}),
        await call(world, path, body, token, keys=foreign),
        await call(world, path, body, token, now=late),
        await world.inside.post(
            path,
            content=body,
            headers=signing.sign(world.colony.keys, "POST", path, body, "colony")
            | {"Authorization": f"Bearer {token}"},
        ),
    ]
    said = {tuple((k, v) for k, v in problem(one, "unauthenticated").items() if k not in ("request_id", "instance"))[:4]
            for one in attempts}  # fmt: skip
    assert len(said) == 1, "a stranger learns from the answer what was wrong"
    await untouched(life, before)


async def test_a_request_counts_once_in_all_processes_of_the_root(world: World) -> None:
    """A replay to another process of the root, which shares only the database, is refused."""
    second = Root(world.settings())
    app = internal_app(second)
    async with opened(second, app):
        other = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://root")
        life = await in_state(world, "running")
        path, token = events_path(life.dispatch), life.dispatch.mission_token
        for first, again in ((world.inside, other), (other, world.inside), (other, other)):
            nonce: dict[str, Any] = {"nonce": uuid4().hex}
            taken = await call(world, path, batch(life.dispatch), token, via=first, **nonce)
            assert taken.status_code == 200, taken.text
            problem(await call(world, path, batch(life.dispatch), token, via=again, **nonce), "unauthenticated")


async def test_a_nonce_is_spent_even_when_the_call_is_refused(world: World) -> None:
    life = await in_state(world, "running")
    path, token = events_path(life.dispatch), life.dispatch.mission_token
    nonce: dict[str, Any] = {"nonce": uuid4().hex}
    problem(await call(world, path, b"not json", token, **nonce), "validation")
    problem(await call(world, path, b"not json", token, **nonce), "unauthenticated")


async def test_keys_rotate_without_a_pause(world: World) -> None:
    life = await in_state(world, "running")
    old = world.colony.keys
    both = signing.parse_keys("new:a-brand-new-secret-for-tests,local:colony-secret-of-the-tests", "TEST")
    only_new = signing.parse_keys("new:a-brand-new-secret-for-tests", "TEST")
    path, token = events_path(life.dispatch), life.dispatch.mission_token
    world.internal.state.colony_keys = both
    for keys in (old, only_new):
        assert (await call(world, path, batch(life.dispatch), token, keys=keys)).status_code == 200
    world.internal.state.colony_keys = only_new
    problem(await call(world, path, batch(life.dispatch), token, keys=old), "unauthenticated")


async def test_every_receipt_carries_the_next_token(world: World) -> None:
    life = await in_state(world, "running")
    old = token_of(world, life.dispatch, now=datetime.now(UTC) - timedelta(seconds=890))
    answer = await send_raw(world, life.dispatch, batch(life.dispatch), old)
    fresh = answer.json()["next_token"]
    assert fresh != old
    assert (await send_raw(world, life.dispatch, batch(life.dispatch, WORD), fresh)).status_code == 200
    assert (await life.row())["last_seq"] == 1


async def test_a_superseded_attempt_cannot_write_at_all(world: World) -> None:
    life = await in_state(world, "running")
    old = life.dispatch
    await life.lose_lease()
    await life.take()
    await life.say()
    before = await known(life)
    for events in ([], [event(1, **{k: v for k, v in WORD.items() if k not in ("seq", "at")})]):
        with pytest.raises(Superseded) as refused:
            await world.colony.send(old, *events)
        assert refused.value.code == "attempt_superseded"
    # nor by saying that it is the new one: its token says otherwise
    problem(await send_raw(world, old, batch(life.dispatch, WORD), old.mission_token), "unauthenticated")
    await untouched(life, before)
    await life.say({"type": "stage.started", "stage": "planner"})


async def test_the_same_word_for_absent_and_for_foreign_missions(world: World) -> None:
    life = await in_state(world, "running")
    for mission in (uuid4(), UUID(int=0)):
        path = f"/internal/v1/missions/{mission}/events"
        problem(await call(world, path, batch(life.dispatch), life.dispatch.mission_token), "unauthenticated")
        token = token_of(world, life.dispatch, mission=mission)
        problem(await call(world, path, batch(life.dispatch), token), "not_found")
    problem(await call(world, "/internal/v1/missions/not-a-uuid/events", b"{}", None), "validation")


# --- what


def foreign_artifact(life: Life, **other: Any) -> dict[str, Any]:
    result = WorkerResult(**(base(life.dispatch.envelope) | other), task_id="t1", claims=[])
    return event(2, type="artifact.produced", artifact=result).model_dump(mode="json")


def forged_review(life: Life, **other: Any) -> dict[str, Any]:
    """A review that says everything is fine."""
    quote = "nobody ever wrote this"
    citation = Citation(
        source="0" * 64, document="guide.md", start=0, end=22, quote=quote, quote_sha256=quote_sha256(quote.encode())
    )
    claim = {
        "claim_id": "c1",
        "text": quote,
        "supported": True,
        "citations": [{"citation": citation, "verified": True}],
    }
    review = ReviewPacket.model_validate(
        base(life.dispatch.envelope)
        | {"reviewer": "colony", "verdict": "passed", "coverage": 1.0, "claims": [claim]}
        | other
    )
    return event(2, type="artifact.produced", artifact=review).model_dump(mode="json")


def policy_artifact(life: Life) -> dict[str, Any]:
    said = PolicyDecisionArtifact(
        **base(life.dispatch.envelope), action="a", resource="r", effect="allow", rule="x", policy_version="1", reason="y",
        inputs_sha256="0" * 64,
    )  # fmt: skip
    return event(2, type="artifact.produced", artifact=said).model_dump(mode="json")


def deep(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return WORD | {"seq": 2, "extra": value}


REFUSED: dict[str, Any] = {
    "an artifact of another mission": lambda life: foreign_artifact(life, mission_id=uuid4()),
    "an artifact of another tenant": lambda life: foreign_artifact(life, tenant_id=uuid4()),
    "a proposal of another mission": lambda life: event(
        2, type="writeback.proposed", proposal=change(life.dispatch.envelope.model_copy(update={"mission_id": uuid4()}), [])
    ).model_dump(mode="json"),
    "a mission envelope": lambda life: event(
        2, type="artifact.produced", artifact=life.dispatch.envelope
    ).model_dump(mode="json"),
    "a policy decision": policy_artifact,
    "a review by the root": lambda life: forged_review(life, reviewer="root"),
    "a review that calls its producer the root": lambda life: forged_review(
        life, producer={"name": "root", "version": "1"}
    ),
    "a proposal that calls its producer the root": lambda life: event(
        2, type="writeback.proposed", proposal=change(life.dispatch.envelope, [], producer={"name": " ROOT", "version": "1"})
    ).model_dump(mode="json"),
    "a proposal as a plain artifact": lambda life: event(
        2, type="artifact.produced", artifact=change(life.dispatch.envelope, [])
    ).model_dump(mode="json"),
    "an unknown field": lambda life: WORD | {"seq": 2, "mood": "fine"},
    "an unknown field in an artifact": lambda life: (
        lambda one: one | {"artifact": one["artifact"] | {"mood": "fine"}}
    )(foreign_artifact(life)),
    "an unknown type": lambda life: WORD | {"seq": 2, "type": "stage.invented"},
    "an unknown stage": lambda life: WORD | {"seq": 2, "stage": "dreaming"},
    "a gap inside": lambda life: WORD | {"seq": 3},
    "a time without a zone": lambda life: WORD | {"seq": 2, "at": "2026-11-21T10:00:00"},
    "a number as a text": lambda life: WORD | {"seq": "2"},
    "an artifact too deep": lambda life: deep(31),
    "a claim too long": lambda life: (
        lambda one: one | {"artifact": one["artifact"] | {"claims": [{"id": "c", "text": "x" * 4_001, "citations": []}]}}
    )(foreign_artifact(life)),
}  # fmt: skip


async def test_a_batch_with_one_bad_event_is_refused_whole_and_kept(world: World) -> None:
    for name, bad in REFUSED.items():
        life = await in_state(world, "running")
        row, facts, rows = await known(life)
        body = batch(life.dispatch, WORD, bad(life))
        answer = await send_raw(world, life.dispatch, body)
        assert answer.status_code == 422, (name, answer.text)
        assert problem(answer, "validation")["errors"], name
        assert await life.row() == row, f"half of the batch was applied: {name}"
        assert await life.quarantined() == [("callback", body)], name
        [(type, fact)] = (await life.facts())[len(facts) :]
        assert (type, fact["origin"]) == ("payload.quarantined", "callback"), name
        assert set(fact) == {"origin", "quarantine", "sha256"}, "nothing of what was sent stands in the ledger"
        after = await census(world)
        grown = {table: after[table] - rows[table] for table in after if after[table] != rows[table]}
        assert grown == {"quarantine": 1, "ledger": 1}, name

        await send_raw(world, life.dispatch, body)
        assert len(await life.quarantined()) == 1, "the same bytes are kept once"
        good = await send_raw(world, life.dispatch, batch(life.dispatch, WORD))
        assert good.status_code == 200, "the part that was right still fits"


BYTES: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"{",
    "a list": b"[]",
    "an html page": b"<html></html>",
    "not utf-8": b'{"attempt": 1, "\xff": 1}',
    "nan": b'{"attempt": NaN}',
    "a duplicate key": b'{"attempt": 1, "attempt": 1}',
    "a nul": b'{"attempt": 1, "events": [], "x": "\\u0000"}',
    "a lone surrogate": b'{"attempt": 1, "events": [], "x": "\\ud800"}',
    "too deep": b'{"attempt": 1, "events": ' + b"[" * 40 + b"]" * 40 + b"}",
    "very deep": b"[" * 500_000,
    "a huge number": b'{"attempt": ' + b"9" * 5_000 + b"}",
    "too many events": json.dumps(
        {"attempt": 1, "events": [WORD | {"seq": n + 1} for n in range(MAX_EVENTS_PER_BATCH + 1)]}
    ).encode(),
    "the next contract": b'{"contract_version": "2.0", "attempt": 1, "events": []}',
}


async def test_bytes_that_are_no_batch_are_refused_and_kept(world: World) -> None:
    life = await in_state(world, "running")
    row = await life.row()
    for name, body in BYTES.items():
        answer = await send_raw(world, life.dispatch, body)
        assert answer.status_code == 422, (name, answer.text)
        assert problem(answer, "validation")["errors"], name
        assert (await life.quarantined())[-1] == ("callback", body), name
    assert await life.row() == row
    assert len(await life.quarantined()) == len(BYTES)


async def test_a_batch_above_the_limit_is_refused_unread_and_one_at_the_limit_is_read(world: World) -> None:
    life = await in_state(world, "running")
    small = batch(life.dispatch)
    at_limit = small + b" " * (MAX_BODY_BYTES - len(small))
    assert (await send_raw(world, life.dispatch, at_limit)).status_code == 200
    before = await known(life)
    problem(await send_raw(world, life.dispatch, at_limit + b" "), "too_large")

    async def endless() -> Any:  # a body that does not say how long it is
        for _ in range(10):
            yield b" " * (1 << 20)

    headers = signing.sign(world.colony.keys, "POST", events_path(life.dispatch), b"", "root")
    problem(await world.inside.post(events_path(life.dispatch), content=endless(), headers=headers), "too_large")
    await untouched(life, before)


async def test_the_root_tells_a_colony_that_restarted_what_it_believes(world: World) -> None:
    life = await in_state(world, "running")
    await life.say({"type": "stage.started", "stage": "planner"})
    assert world.colony.root is not None
    view = await world.colony.root.mission_view(life.id)
    assert (view.mission_id, view.state, view.attempt, view.last_seq, view.stop) == (life.id, "running", 1, 1, False)
    await life.end("cancel")
    assert (await world.colony.root.mission_view(life.id)).stop is True
    path = f"/internal/v1/missions/{uuid4()}"
    problem(await call(world, path, b"", None, method="GET"), "not_found")
    problem(await world.inside.get(f"/internal/v1/missions/{life.id}"), "unauthenticated")


async def test_the_internal_doors_are_not_on_the_public_port(world: World) -> None:
    life = await in_state(world, "running")
    public = httpx.AsyncClient(transport=httpx.ASGITransport(world.public), base_url="http://root")
    for path in (events_path(life.dispatch), f"/internal/v1/missions/{life.id}/tools/workspace.search/calls"):
        problem(await call(world, path, batch(life.dispatch), life.dispatch.mission_token, via=public), "not_found")


async def test_a_review_that_only_looks_like_the_roots_is_never_shown_as_one(world: World) -> None:
    """A colony reviews itself, and then stops: the packet says that the root has not looked."""
    life = await in_state(world, "running")
    review = forged_review(life)["artifact"]
    await life.say(
        {"type": "artifact.produced", "artifact": parse_artifact(review)},
        {"type": "signal", "signal": "blocked", "reason": "look at my review"},
    )
    packet = (await world.auditor.get(f"/v1/missions/{life.id}/packet")).json()
    assert packet["review"] is None
    assert not any(citation["verified"] for claim in packet["claims"] for citation in claim["citations"])
