"""What every page works with: one visit of somebody who is signed in."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from app.audit.find import LONGEST
from app.caller import Caller
from app.console import door
from app.console.inside import Inside, Refused
from app.console.render import page

PAGES = (
    ("", "Inbox"), ("missions", "Missions"), ("audit", "Audit"), ("release", "Release"), ("health", "Health"),
    ("policies", "Policies"), ("connectors", "Connectors"),
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """One request of a person, and their way to the API."""

    request: Request
    caller: Caller
    inside: Inside

    @property
    def id(self) -> UUID:
        found: UUID = self.request.path_params["id"]
        return found

    @property
    def environment(self) -> str:
        said: str = self.request.app.state.settings.environment
        return said

    def asked(self, name: str, most: int = 400) -> str:
        return self.request.query_params.get(name, "")[:most]

    async def form(self) -> door.Form:
        """The fields of a form of this session. Raises Problem."""
        return await door.form(self.request, self.caller.secret)

    async def end(self) -> str:
        """Where the record ends now; empty when that is not to be had: then the page looks again once it hears. A page that goes on
        by itself asks before it reads anything: what comes later may not be on it."""
        head = await self.inside.try_get("/v1/ledger/head")
        return "" if isinstance(head, Refused) else str(head["id"])

    def page(self, name: str, here: str, status: int = 200, after: str = "", **values: Any) -> Response:
        """A page in its frame; here is the entry of the menu that it belongs to, after where its live part begins."""
        frame = {
            "here": here,
            "pages": PAGES,
            "who": self.caller,
            "token": door.token(self.caller.secret),
            "environment": self.environment,
            "after": after,
            "longest_id": LONGEST,
        }
        if "names" in values:
            values["names"] = defaultdict(str, values["names"])  # whoever is not known by name is "somebody"
        return door.html(page(name, **frame, **values), status)

    def handed_on(self, path: str, accept: str, headers: dict[str, str] | None = None, **query: Any) -> Response:
        """The API's own answer: a stream, a file, or a page that is inert by itself."""
        return HandedOn(self.inside, path, {"accept": accept, **(headers or {})}, query)

    async def names(self, *ids: Any) -> dict[str, str]:
        """What people are called: {id: name}."""
        wanted = sorted({str(one) for one in ids if one and not str(one).startswith("00000000-0000")})[:200]
        if not wanted:
            return {}
        found = await self.inside.try_get("/v1/names", id=wanted)
        return {} if isinstance(found, Refused) else {key: one["name"] for key, one in found["people"].items()}

    async def gather(self, *parts: Any) -> list[Any]:
        return list(await asyncio.gather(*parts))


class HandedOn(Response):
    """An answer that the API itself writes."""

    def __init__(self, inside: Inside, path: str, asking: dict[str, str], query: dict[str, Any]) -> None:
        super().__init__()
        self.inside, self.path, self.asking, self.query = inside, path, asking, query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.inside.hand_on(self.path, self.query, self.asking, receive, send)


def actor(said: str, names: dict[str, str]) -> str:
    """Who a fact says did it: a person by name, the service's own parts by theirs."""
    kind, _, name = said.partition(":")
    return (
        names.get(name, "somebody") if kind == "principal" else f"the {name}" if kind == "system" else f"colony {name}"
    )
