"""Objects as they are written and read, in a real folder and over a real S3 protocol: whole, in part, damaged, missing, away."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.artifacts import objects as objects_module
from app.artifacts.objects import AGAIN, CHUNK, PIECE, Laid, Located, Objects, component, digests, open_objects
from app.canonical import sha256
from app.errors import Problem
from app.ledger.store import open_store
from app.settings import Misconfigured, Settings

TENANT = uuid4()
SIZES = (4096, CHUNK - 1, CHUNK, CHUNK + 1, PIECE, PIECE + 17, 3 * PIECE - 1)


def content(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[: size - 4] + size.to_bytes(4, "big")


def located(laid: Laid, **more: Any) -> Located:
    return Located(TENANT, laid.sha256, laid.size, laid.object, laid.chunks, inline=laid.inline, **more)


async def kept(place: str, size: int) -> tuple[Objects, Located, bytes]:
    objects, data = Objects(open_store(place), 4096), content(size)
    return objects, located(await objects.lay_down(TENANT, data)), data


async def overwrite(objects: Objects, found: Located, data: bytes) -> None:
    assert objects.store
    await obstore.put_async(objects.store.objects, found.name, data)


async def refusal(objects: Objects, found: Located, *span: int) -> str:
    with pytest.raises(Problem) as refused:
        await objects.read(found, *span)
    return refused.value.code


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_kept_is_read_whole_and_in_part(place: str, size: int) -> None:
    objects, found, data = await kept(place, size)
    assert found.inline is None and found.chunks is not None and len(found.chunks) == 32 * -(-size // CHUNK)
    assert await objects.read(found) == data
    assert b"".join([piece async for piece in objects.stream(found)]) == data
    for start, end in (
        (0, 1),
        (size - 1, size),
        (size // 2, size // 2 + 9),
        (CHUNK - 2, CHUNK + 2),
        (5, 10**9),
        (size, size + 5),
        (7, 3),
    ):
        assert await objects.read(found, start, end) == data[start:end], (start, end)


async def test_small_bytes_stay_in_their_row(place: str) -> None:
    objects = Objects(open_store(place), 4096)
    laid = await objects.lay_down(TENANT, b"x" * 4095)
    assert (laid.inline, laid.object, laid.chunks) == (b"x" * 4095, None, None)
    assert await objects.read(located(laid), 4000, 5000) == b"x" * 95
    everything = Objects(None, 4096)
    assert (await everything.lay_down(TENANT, b"x" * 10_000)).object is None


async def test_the_same_bytes_twice_are_two_objects_and_one_can_go(place: str) -> None:
    objects, first, data = await kept(place, 5000)
    second = located(await objects.lay_down(TENANT, data))
    assert first.name != second.name and first.sha256 == second.sha256
    await objects.discard(TENANT, [first.name.rpartition("/")[2]] * 2)  # gone already is well
    assert (await refusal(objects, first), await objects.read(second)) == ("artifact_missing", data)


async def test_every_damage_is_found_and_nothing_of_it_is_given(place: str) -> None:
    objects, found, data = await kept(place, 2 * PIECE + 100)
    flipped = bytearray(data)
    flipped[PIECE + 5] ^= 1
    for damaged in (bytes(flipped), data[:-1], data[: PIECE + 1], data + b"x", b"", data[::-1]):
        await overwrite(objects, found, damaged)
        got = b""
        with pytest.raises(Problem) as refused:
            async for piece in objects.stream(found):
                got += piece
            assert damaged == data + b"x", "only bytes beyond the end are never looked at"
            raise Problem("artifact_damaged", "")
        assert refused.value.code == "artifact_damaged"
        assert data.startswith(got) and (len(got) < len(data) or damaged == data + b"x")
    await overwrite(objects, found, bytes(flipped))
    assert await refusal(objects, found, PIECE, PIECE + 1) == "artifact_damaged"
    assert await objects.read(found, 0, 100) == data[:100], "what is whole of it can still be cited"


async def test_the_chunks_of_another_source_are_no_proof_of_the_whole(place: str) -> None:
    """A row whose chunks were made for other bytes: the whole has to have the hash it is kept under."""
    objects, found, data = await kept(place, PIECE + 1)
    other = data[:-1] + b"!"
    await overwrite(objects, found, other)
    lying = replace(found, chunks=digests(other)[1])
    with pytest.raises(Problem):
        _ = [piece async for piece in objects.stream(lying)]
    assert await refusal(objects, lying) == "artifact_damaged"
    assert await objects.read(lying, 0, 9) == data[:9] and objects.flaws


async def test_the_status_says_what_is_missing_until_it_is_back(place: str) -> None:
    objects, found, data = await kept(place, 5000)
    told = component()
    await objects.look(told)
    assert told.state == "up"
    await objects.discard(TENANT, [found.name.rpartition("/")[2]])
    assert await refusal(objects, found) == "artifact_missing"
    await objects.look(told)
    assert (told.state, told.detail) == ("degraded", "1 objects were missing or damaged when they were last read")
    assert str(TENANT) not in str(told.view()) and found.sha256.hex() not in str(told.view())
    await overwrite(objects, found, data)
    assert await objects.read(found) == data
    await objects.look(told)
    assert (told.state, told.detail) == ("up", None)


async def test_what_is_damaged_stays_so_until_those_bytes_are_read_again(place: str) -> None:
    objects, found, data = await kept(place, 2 * PIECE)
    flipped = bytearray(data)
    flipped[PIECE + 5] ^= 1
    await overwrite(objects, found, bytes(flipped))
    assert await refusal(objects, found, PIECE, PIECE + 9) == "artifact_damaged"
    told = component()
    for start, end in ((0, 100), (PIECE + CHUNK, 2 * PIECE)):
        assert await objects.read(found, start, end) == data[start:end]
        await objects.look(told)
        assert told.state == "degraded", "another part of it says nothing of the damaged one"
    await overwrite(objects, found, data)
    assert await objects.read(found, PIECE + 7, PIECE + 8) == data[PIECE + 7 : PIECE + 8]
    await objects.look(told)
    assert told.state == "up"


async def test_a_few_of_what_was_damaged_are_read_again_and_not_all_the_time(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Located] = []

    async def named(one: Located) -> bool:
        asked.append(one)
        return one.size != SIZES[0]

    objects = Objects(open_store(place), 4096)
    several = [located(await objects.lay_down(TENANT, content(4096 + n))) for n in range(AGAIN + 2)]
    for one in several:
        await overwrite(objects, one, content(one.size)[:-1] + b"?")
        assert await refusal(objects, one) == "artifact_damaged"
    await objects.look_again(named)
    assert not asked, "they have just been looked at"
    monkeypatch.setattr(objects_module, "AGAIN_S", 0.0)
    await overwrite(objects, several[1], content(several[1].size))
    await objects.look_again(named)
    assert asked == several[:AGAIN]
    assert {flaw.found for flaw in objects.flaws.values()} == {*several[2:]}, (
        "no row named the first, the second is back"
    )
    await objects.look_again(named)
    assert asked[AGAIN:] == [several[3], several[4], several[2]], "the others have their turn"


async def test_a_store_that_is_away_is_neither_missing_nor_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, found, _ = await kept(str(tmp_path / "a"), 5000)
    assert objects.store and objects.store.folder
    objects.store.folder.rename(tmp_path / "b")
    told = component()
    await objects.look(told)
    assert (await refusal(objects, found), told.state, told.detail) == (
        "upstream_unavailable",
        "degraded",
        "its folder is not there",
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")
    closed = Objects(open_store("s3://artifacts"), 4096)
    assert await refusal(closed, found) == "upstream_unavailable"
    with pytest.raises(Problem) as refused:
        await closed.lay_down(TENANT, b"x" * 5000)
    assert refused.value.code == "upstream_unavailable"
    await closed.look(told)
    assert told.detail == "no answer" and not closed.flaws
    assert await refusal(Objects(None, 4096), found) == "not_configured"


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=3000), start=st.integers(0, 3200), length=st.integers(0, 3200))
async def test_any_span_of_any_bytes(data: bytes, start: int, length: int) -> None:
    objects = Objects(open_store("memory:"), 1)
    found = located(await objects.lay_down(TENANT, data))
    assert found.sha256 == sha256(data)
    assert await objects.read(found, start, start + length) == data[start : start + length]


def test_a_store_that_cannot_be_opened_stops_the_process_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    settings = Settings(_env_file=None, artifact_store=str(tmp_path / "file" / "below"))
    with pytest.raises(Misconfigured, match=r"^ARTIFACT_STORE cannot be opened: "):
        open_objects(settings)
    assert open_objects(Settings(_env_file=None)).store is None
