"""Every tool in one shape, whoever answers it: the root's own and those of the tenant's layers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from app.db import ReadSession
from app.errors import Problem
from app.missions.tools import Reach
from app.tools import layers
from app.tools.builtin import TOOLS, Tool
from app.tools.definition import BadDefinition, Entry, Layer, Pin

BUILT_IN = "built_in"
OFF = ("tool_halted", "tool_drifted", "tool_unmapped")  # as what a tool that cannot be called now refuses


@dataclass(frozen=True)
class Known:
    """A tool that there is. Of a registered one: its layer as it is now, its entry, and what was pinned."""

    name: str
    access: Literal["read", "mutate"]
    reach: Reach
    description: str
    built_in: Tool | None = None
    layer: Layer | None = None
    entry: Entry | None = None
    pin: Pin | None = None
    retired: bool = False
    halted: bool = False
    drifted: bool = False

    @property
    def layer_name(self) -> str:
        return self.layer.name if self.layer else BUILT_IN

    @property
    def schema(self) -> dict[str, Any]:
        if self.pin is not None:
            return self.pin.input_schema
        assert self.built_in is not None
        return self.built_in.schema

    def off(self) -> Problem | None:
        """Why it cannot be called now; None when it can."""
        if self.retired or self.halted:
            return Problem("tool_halted", f"The layer {self.layer_name} is {'retired' if self.retired else 'halted'}.")
        if self.drifted:
            return drift(self.name)
        if self.access == "mutate" and self.entry is not None and self.entry.becomes is None:
            return Problem(
                "tool_unmapped", f"The layer {self.layer_name} does not say what a call of {self.name} becomes."
            )
        return None


def drift(tool: str) -> Problem:
    return Problem(
        "tool_drifted", f"{tool} is not what was registered; it is refused until its layer is registered anew."
    )


async def find(session: ReadSession, name: str) -> Known | None:
    """A tool of the tenant's by its name, `layer.tool`, as it is at this moment."""
    built_in = TOOLS.get(name)
    if built_in is not None:
        return own(name, built_in)
    layer, _, tool = name.partition(".")
    return at_present(name, await layers.current(session, layer)) if tool else None


def at_present(name: str, current: layers.Current | None) -> Known | None:
    """A tool of a layer as it is at this moment."""
    tool = name.partition(".")[2]
    found = of_layer(name, current.layer, tool) if current is not None else None
    if current is None or found is None:
        return None
    return replace(found, retired=current.retired, halted=current.halted, drifted=tool in current.drifted)


def remembered(tenant: UUID, name: str) -> Known | None:
    """The same from memory, as if it could be called; None when this process has not seen it."""
    built_in = TOOLS.get(name)
    if built_in is not None:
        return own(name, built_in)
    of, _, tool = name.partition(".")
    layer = layers.remembered(tenant, of)
    return of_layer(name, layer, tool) if layer is not None else None


def of_layer(name: str, layer: Layer, tool: str) -> Known | None:
    """A tool of a version of a layer, whatever the state of that."""
    entry, pin = entry_of(layer, tool), layer.pinned.get(tool)
    if entry is None or pin is None:
        return None
    return Known(name, entry.access, entry.reach, pin.description, layer=layer, entry=entry, pin=pin)


def own(name: str, tool: Tool) -> Known:
    return Known(name, tool.access, tool.reach, tool.description, built_in=tool)


async def all_of(session: ReadSession, names: Sequence[str]) -> list[Known]:
    """Those of the names that are tools, in the order given."""
    wanted = {name.partition(".")[0] for name in names if name not in TOOLS}
    found = {layer: await layers.current(session, layer) for layer in sorted(wanted)}
    known = [
        own(name, TOOLS[name]) if name in TOOLS else at_present(name, found[name.partition(".")[0]]) for name in names
    ]
    return [one for one in known if one is not None]


class Register:
    """What missions ask about tools (app.missions.tools.Tools)."""

    built_in = frozenset(TOOLS)

    async def reaches(self, session: ReadSession, names: Collection[str]) -> dict[str, Reach]:
        """How far those of the names reach that are tools of the tenant, halted or not."""
        found: dict[str, Reach] = {name: TOOLS[name].reach for name in names if name in TOOLS}
        wanted = {name.partition(".")[0] for name in names if name not in found}
        registered = await layers.named(session, wanted) if wanted else {}
        for name in names:
            layer, _, tool = name.partition(".")
            if name not in found and layer in registered and (entry := entry_of(registered[layer], tool)) is not None:
                found[name] = entry.reach
        return found


def entry_of(layer: Layer, tool: str) -> Entry | None:
    try:
        return layer.entry(tool)
    except BadDefinition:
        return None
