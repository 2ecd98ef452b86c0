"""The packet as one HTML page for people: inert, self-contained, and showing evidence as what it is."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from app.visible import visible

TONE = {"untrusted": "bad", "normal": "", "authoritative": "good", None: ""}


def rendered(packet: dict[str, Any]) -> str:
    return template().render(packet=packet, flaws=flaws(packet), tone=TONE)


def flaws(packet: dict[str, Any]) -> list[str]:
    """Everything that could not be verified, in one list."""
    if packet["review"]:
        return list(packet["review"]["problems"])
    return [packet["retention"]["note"] or "The root has not reviewed this mission."]


def templates() -> jinja2.Environment:
    """For pages about what others wrote: everything is escaped, and a name that is not there is an error."""
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@lru_cache(maxsize=1)
def template() -> jinja2.Template:
    environment = templates()
    environment.filters["visible"] = visible
    environment.filters["when"] = lambda instant: f"{instant[:10]} {instant[11:19]} UTC"
    environment.filters["days"] = days
    return environment.from_string((Path(__file__).parent / "packet.html").read_text())


def days(count: float) -> str:
    """An age for a person: 41 days, 3 hours, minutes."""
    for size, name in ((1, "day"), (1 / 24, "hour")):
        if count >= size:
            whole = round(count / size)
            return f"{whole} {name}{'' if whole == 1 else 's'}"
    return "under 1 hour"
