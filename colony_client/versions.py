"""Which version of the contract two sides speak: each says its newest in a header, and the older of the two is used.

Within a major version everything is additive, so a peer with a newer minor is spoken to in our own, and one with an older
minor gets our messages without the fields that came later. Nobody speaks across majors.
"""

import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_json

from colony_client.contract import CONTRACT_VERSION, FIRST_VERSION, SINCE, VERSION_HEADER
from colony_client.errors import VersionRefused

_FORM = re.compile(r"[1-9][0-9]{0,2}\.(?:0|[1-9][0-9]{0,2})")
_SAID = (VERSION_HEADER.lower().encode(), CONTRACT_VERSION.encode())

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def order(version: str) -> tuple[int, int]:
    """A version as something that can be compared."""
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def spoken_with(theirs: str | None) -> str:
    """The version to speak with a peer whose newest is `theirs`; a peer that does not say speaks the first.

    Raises VersionRefused for another major version, and for what is no version.
    """
    newest = FIRST_VERSION if theirs is None else theirs
    if not _FORM.fullmatch(newest) or order(newest)[0] != order(CONTRACT_VERSION)[0]:
        raise VersionRefused(newest, CONTRACT_VERSION)
    return min(newest, CONTRACT_VERSION, key=order)


def written(message: BaseModel, version: str) -> bytes:
    """The JSON of a message for a peer with which `version` is spoken: without fields that came later."""
    if "contract_version" in type(message).model_fields:
        message = message.model_copy(update={"contract_version": version})
    if version == CONTRACT_VERSION:
        return message.model_dump_json().encode()
    return to_json(_older(message, order(version)))


def _older(value: Any, version: tuple[int, int]) -> Any:
    if isinstance(value, BaseModel):
        if not _newer_inside(type(value), version):
            return value
        return {name: _older(getattr(value, name), version) for name in _known(type(value), version)}
    if isinstance(value, list | tuple):
        return [_older(one, version) for one in value]
    if isinstance(value, dict):
        return {name: _older(one, version) for name, one in value.items()}
    return value


@cache
def _known(model: type[BaseModel], version: tuple[int, int]) -> tuple[str, ...]:
    """The fields that a version has."""
    return tuple(name for name, field in model.model_fields.items() if order(_since(field)) <= version)


@cache
def _newer_inside(model: type[BaseModel], version: tuple[int, int]) -> bool:
    """Whether a message of this type could hold a field that the version does not have."""
    return any(len(_known(one, version)) < len(one.model_fields) for one in _reached(model))


def _reached(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A type of message and those of its parts, however deep."""
    found: set[type[BaseModel]] = set()
    waiting: list[Any] = [model]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            if one not in found:
                found.add(one)
                waiting += [field.annotation for field in one.model_fields.values()]
        else:
            waiting += get_args(one)
    return found


def _since(field: Any) -> str:
    extra = field.json_schema_extra
    return str(extra.get(SINCE, FIRST_VERSION)) if isinstance(extra, dict) else FIRST_VERSION


class SaysVersion:
    """ASGI middleware: every answer says the newest version that is spoken here."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, saying_version(send) if scope["type"] == "http" else send)


def saying_version(send: Send) -> Send:
    async def said(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], _SAID]}
        await send(message)

    return said
