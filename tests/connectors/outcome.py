"""What a connector returned, or the typed answer it raised."""

from collections.abc import Awaitable
from typing import Any

from app.writebacks.connectors import ConnectorError


async def outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except ConnectorError as raised:
        return raised
