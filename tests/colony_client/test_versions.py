"""What a message is to a peer of an older version, and how a caller learns which version that is."""

import asyncio
import json
import time
from typing import Any

import pytest
from badly_behaved import BadPeer
from boundary_samples import KEYS, dispatch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from colony_client import contract as c
from colony_client import examples
from colony_client.artifacts import Part
from colony_client.client import ColonyClient
from colony_client.errors import TimedOut, Unreachable, VersionRefused
from colony_client.versions import order, spoken_with, written


class Inner(Part):
    old: int = 1
    new: int | None = c.since("1.1")


class Outer(Part):
    contract_version: str = "1.0"
    many: list[Inner]
    named: dict[str, Inner]
    one: Inner | None = c.since("1.1")
    plain: dict[str, Any]


def test_every_field_that_came_later_is_left_out_wherever_it_stands() -> None:
    inner = Inner(new=2)
    said = Outer(many=[inner], named={"a": inner}, one=inner, plain={"new": [1, None]})
    assert json.loads(written(said, "1.0")) == {
        "contract_version": "1.0",
        "many": [{"old": 1}],
        "named": {"a": {"old": 1}},
        "plain": {"new": [1, None]},
    }
    assert json.loads(written(said, "1.1"))["one"] == {"old": 1, "new": 2}
    assert said.one is inner, "the message itself stays as it is"


@pytest.mark.parametrize("name", sorted(examples.messages()))
def test_an_older_message_is_the_newer_one_with_less_in_it(name: str) -> None:
    message = examples.messages()[name]
    older, newer = (json.loads(written(message, version)) for version in ("1.0", c.CONTRACT_VERSION))
    assert contained(older, newer)
    assert type(message).model_validate_json(written(message, "1.0")), "what is left out may be left out"


def contained(older: Any, newer: Any) -> bool:
    if isinstance(older, dict):
        return older.keys() <= newer.keys() and all(
            name == "contract_version" or contained(one, newer[name]) for name, one in older.items()
        )
    if isinstance(older, list):
        return len(older) == len(newer) and all(map(contained, older, newer))
    return bool(older == newer)


def test_only_optional_fields_come_later() -> None:
    kinds: list[type[BaseModel]] = [*Part.__subclasses__()]
    for kind in kinds:
        kinds += kind.__subclasses__()
        for name, field in kind.model_fields.items():
            if isinstance(field.json_schema_extra, dict) and c.SINCE in field.json_schema_extra:
                assert not field.is_required(), f"{kind.__name__}.{name}"
                assert order(str(field.json_schema_extra[c.SINCE])) <= order(c.CONTRACT_VERSION) or kind in (
                    Inner,
                    Outer,
                )


@given(st.integers(0, 999))
def test_the_older_of_two_minor_versions_is_spoken(minor: int) -> None:
    ours = order(c.CONTRACT_VERSION)[1]
    assert spoken_with(f"1.{minor}") == f"1.{min(minor, ours)}"


@pytest.mark.parametrize("said", ["2.0", "0.1", "1", "1.", "01.0", "1.00", "1.1 ", "", "x", "1.1\n", "1.1000", "1.1.1"])
def test_what_is_no_version_of_ours_is_refused_by_name(said: str) -> None:
    with pytest.raises(VersionRefused) as refused:
        spoken_with(said)
    assert repr(said) in str(refused.value) and c.CONTRACT_VERSION in str(refused.value)


def test_a_peer_that_does_not_say_speaks_the_first_version() -> None:
    assert spoken_with(None) == "1.0"


async def test_asking_for_the_version_and_dispatching_share_one_deadline(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/hang", KEYS, timeout_s=0.3) as colony:
        began = time.monotonic()
        with pytest.raises(TimedOut):
            await colony.dispatch([dispatch()])
        assert time.monotonic() - began < 0.55
        assert peer.seen[-1][0] == "/hang/health", "who does not say its version in time is not offered anything either"


async def test_what_asking_for_the_version_took_is_lacking_for_the_dispatch(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/late", KEYS, timeout_s=0.7) as colony:
        began = time.monotonic()
        with pytest.raises(TimedOut):
            await colony.dispatch([dispatch()])
        assert time.monotonic() - began < 1.0, "each had the whole time for itself"


async def test_who_comes_back_is_asked_for_its_version_again(peer: BadPeer) -> None:
    async with ColonyClient(f"{peer.url}/good", KEYS) as colony:
        await colony.dispatch([dispatch()])
        assert colony.version is not None
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        there, colony._base_url = colony._base_url, f"http://127.0.0.1:{port}"
        async with server:
            with pytest.raises(Unreachable):
                await colony.dispatch([dispatch()])
        assert colony.version is None
        colony._base_url, before = there, len(peer.seen)
        await colony.dispatch([dispatch()])
        assert [path for path, _, _ in peer.seen[before:]] == ["/good/health", "/good/v1/missions"]
