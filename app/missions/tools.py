"""Which tools a request may name: missions know that there are some, and a later room says which."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from app.db import ReadSession
from app.errors import Problem

Reach = Literal["internal", "public"]


class Tools(Protocol):
    """What missions ask about tools. built_in: those that every tenant has, which all stay inside."""

    @property
    def built_in(self) -> frozenset[str]: ...

    async def reaches(self, session: ReadSession, names: Collection[str]) -> dict[str, Reach]:
        """How far those of the names reach that are tools of the tenant."""
        ...


def beyond_workspace(tools: Collection[str]) -> bool:
    """Whether there is a tool among them that knows records outside: without one a mission finds nothing that could be changed."""
    return any(not tool.startswith("workspace.") for tool in tools)


def unknown_tools(names: Sequence[str], known: Mapping[str, Reach]) -> list[dict[str, str]]:
    return [
        {"pointer": f"/tools/{number}", "detail": "there is no such tool; see GET /v1/tool-layers"}
        for number, name in enumerate(names)
        if name not in known
    ]


def refuse_tools(found: list[dict[str, str]]) -> None:
    if found:
        raise Problem("validation", f"{found[0]['pointer']}: {found[0]['detail']}", errors=found[:20])
