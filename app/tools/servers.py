"""The stdio servers that the deployment runs for its tenants: named in a file, so that no tenant ever chooses a command."""

import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.settings import Misconfigured

NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
SURROUNDINGS = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")  # what a server gets besides what the file says


class StdioServer(BaseModel):
    """tenants: whose layers may name it; everybody's when it is left out. environment: all that it is told."""

    model_config = ConfigDict(extra="forbid")
    command: Annotated[str, Field(min_length=1, max_length=1000)]
    arguments: list[Annotated[str, Field(max_length=4000)]] = Field(default_factory=list, max_length=100)
    environment: dict[str, str] = Field(default_factory=dict, repr=False)
    tenants: list[UUID] | None = None

    def surroundings(self) -> dict[str, str]:
        return {name: os.environ[name] for name in SURROUNDINGS if name in os.environ} | self.environment


Servers = dict[str, StdioServer]


@lru_cache(maxsize=8)
def stdio_servers(file: str | None) -> Servers:
    """The servers in the file that TOOL_SERVERS_FILE names, read once. Raises Misconfigured."""
    if file is None:
        return {}
    try:
        found = TypeAdapter(Servers).validate_python(json.loads(Path(file).read_text()))
    except OSError as error:
        raise Misconfigured(f"TOOL_SERVERS_FILE: {file} cannot be read: {error.strerror or 'it is no file'}.") from None
    except ValidationError as refused:
        place = "/".join(str(part) for part in refused.errors(include_input=False)[0]["loc"])
        raise Misconfigured(
            f"TOOL_SERVERS_FILE: {file} is wrong at {place or 'its root'}: see docs/tools.md."
        ) from None
    except ValueError:
        raise Misconfigured(f"TOOL_SERVERS_FILE: {file} is not JSON.") from None
    if wrong := next((name for name in found if not NAME.fullmatch(name)), None):
        raise Misconfigured(f"TOOL_SERVERS_FILE: {wrong[:100]!r} cannot be the name of a server.")
    return found
