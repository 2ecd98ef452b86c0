"""What a call used: the provider's own numbers where they can be true, else our own count."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.model_gateway.providers import Target
from app.model_gateway.request import Asked


@dataclass(frozen=True)
class Usage:
    """Tokens of one call. estimated: counted here, and never below what they can have been in what was seen."""

    tokens_in: int
    tokens_out: int
    estimated: bool


def used(target: Target, asked: Asked, said: Any, seen_bytes: int) -> Usage:
    """What a call used, from the `usage` of the answer and the bytes of text that were seen.

    Numbers count when they are whole and possible: not more than the request has bytes, or the answer was allowed to have
    tokens, and no silence where text was seen.
    """
    own = Usage(min(asked.prompt_tokens, target.model.context_tokens), min(seen_bytes, asked.max_tokens or 0), True)
    if not isinstance(said, Mapping):
        return own
    tokens_in, tokens_out = said.get("prompt_tokens"), said.get("completion_tokens")
    if type(tokens_in) is not int or type(tokens_out) is not int:
        return own
    if not 0 < tokens_in <= own.tokens_in or not 0 <= tokens_out <= (asked.max_tokens or 0):
        return own
    if tokens_out == 0 and seen_bytes > 0:
        return own
    return Usage(tokens_in, tokens_out, False)


def text_bytes(value: Any) -> int:
    """How many bytes of text an answer or a chunk holds: what the model has written."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return sum(text_bytes(inner) for name, inner in value.items() if name not in NOT_WRITTEN)
    if isinstance(value, list):
        return sum(text_bytes(inner) for inner in value)
    return 0


NOT_WRITTEN = ("role", "type", "id", "index", "finish_reason", "logprobs")
