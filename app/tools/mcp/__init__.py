"""Speaking to MCP servers through the official SDK, which only these modules import: it is slow to load, and large.

A server is somebody else's program. It may lie, hang, die, flood, and want things of us; whatever it does ends in an `Answer`,
or in `ServerFailed` with one of our own codes, within the layer's time and the bounds below.
"""

from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 1024 * 1024  # of one answer as it comes, notifications included
MOST_TEXT = 262_144  # of what is kept of it
MOST_OFFERED = 1000  # tools of one server
MOST_SCHEMA = 65_536
OPEN_S = 15.0  # for a session to begin


class ServerFailed(Exception):
    """No usable answer. code is one of CODES; reason is one sentence; retryable: asking again may help.

    said holds the tool's own words, when it gave some: they are for the colony, and stay out of logs and facts.
    """

    def __init__(self, code: str, reason: str, *, retryable: bool, said: str | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason, self.retryable, self.said = code, reason, retryable, said


CODES = {
    "tool_unreachable": "the server cannot be reached",
    "tool_forbidden": "this deployment does not let the server be called",
    "tool_timed_out": "the server did not answer in time",
    "tool_broke_off": "the server broke off",
    "tool_too_large": "the answer exceeds its bound",
    "tool_malformed": "the answer is not one of the protocol",
    "tool_protocol": "the server speaks another version of the protocol",
    "tool_refused": "the server refused the call",
    "tool_said_no": "the tool could not do it",
    "tool_asks_back": "the tool wants an answer from us, which it does not get",
}


@dataclass(frozen=True)
class Where:
    """How a server is reached: by its URL, or by the command that the deployment runs. Neither is shown: they may hold secrets."""

    url: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    allowed: frozenset[str] = frozenset()
    command: tuple[str, ...] = field(default=(), repr=False)
    environment: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Offered:
    """A tool as its server describes it now."""

    name: str
    input_schema: dict[str, Any]
    schema_sha256: str
    description: str


@dataclass(frozen=True)
class Answer:
    """What a tool answered. left_out: parts that are no text and are not handed on, each with type, mime_type and bytes."""

    text: str
    structured: Any
    left_out: list[dict[str, Any]]
