"""What a client may ask of a model: an OpenAI chat request, bounded, without what would make its cost unbounded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.canonical import canonical
from app.errors import Problem
from colony_client.errors import BadBody
from colony_client.wire import read_json

AROUND = 256  # tokens that a provider may put around a request: its template, a default system prompt
LARGEST = 4 * 1024 * 1024  # bytes of a request
MAX_DEPTH = 32
MOST_MESSAGES = 2_000

# Fields that are refused unless they have one of the values named, and why.
PASSED_AS: dict[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "one answer is made for each call"),
    "best_of": ((1,), "one answer is made for each call"),
    "store": ((False,), "the provider keeps nothing"),
    "modalities": ((["text"],), "this gateway carries text"),
    "service_tier": (("default",), "the price is that of the default tier"),
    "use_beam_search": ((False,), "one answer is made for each call"),
    "background": ((False,), "an answer is waited for"),
}
# Fields that are refused whatever they hold.
REFUSED = {
    **dict.fromkeys(("audio",), "this gateway carries text"),
    **dict.fromkeys(
        ("web_search_options", "plugins"), "what a provider looks up itself passes neither policy nor budget"
    ),
    "prediction": "tokens that were predicted in vain are charged beyond max_tokens",
    **dict.fromkeys(
        ("models", "fallbacks", "route", "provider", "custom_llm_provider", "deployment_id"),
        "who is asked is the root's to say",
    ),
    **dict.fromkeys(
        ("api_key", "api_base", "base_url", "api_version", "extra_headers", "extra_body", "extra_query", "headers"),
        "how a provider is reached is the root's to say",
    ),
    **dict.fromkeys(("num_retries", "mock_response", "cache"), "how often is asked is the root's to say"),
    **dict.fromkeys(("chat_template", "mm_processor_kwargs"), "it would be run by the server of the model"),
    **dict.fromkeys(("ignore_eos", "min_tokens"), "an answer ends where it ends"),
}
LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Asked:
    """One call in its canonical form: what is asked, without where it goes.

    body has neither model, stream nor a limit. prompt_tokens: at most so many. max_tokens: at most so many of the answer;
    before a reservation None says that the client named no limit.
    """

    model: str
    body: Mapping[str, Any] = field(repr=False)
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool

    def canonical(self) -> bytes:
        """What makes two calls the same one."""
        said = {"model": self.model, "max_tokens": self.max_tokens, "stream": self.stream, "body": dict(self.body)}
        return canonical(said)


def read(data: bytes) -> tuple[Asked, bytes]:
    """The call in a request body, and its canonical form. Raises Problem malformed or validation."""
    try:
        said = read_json(data, max_bytes=LARGEST, max_depth=MAX_DEPTH)
    except BadBody as refused:
        raise Problem("malformed", f"{str(refused)[:1].upper()}{str(refused)[1:]}.") from None
    if not isinstance(said, dict):
        raise wrong("", "must be a JSON object")
    model, messages = said.get("model"), said.get("messages")
    if not isinstance(model, str) or not 0 < len(model) <= 100:
        raise wrong("/model", "must name a model, in at most 100 letters")
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST_MESSAGES:
        raise wrong("/messages", f"must be a list of 1 to {MOST_MESSAGES} messages")
    for place, message in enumerate(messages):
        check_message(f"/messages/{place}", message)
    check_fields(said)
    stream, include_usage = streaming(said)
    limit = limited(said)
    left_out = ("model", "stream", "stream_options", *LIMITS)
    body = {name: value for name, value in said.items() if name not in left_out}
    # A token is at least one byte, so nothing has more tokens than bytes. An escape such as \u00e4 only makes it more.
    asked = Asked(model, body, len(data) + AROUND, limit, stream, include_usage)
    try:
        return asked, asked.canonical()
    except ValueError:
        raise wrong("", "holds a number that has no exact JSON form: write it as text") from None


def check_message(at: str, message: Any) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise wrong(at, "must be an object with a role")
    if message.get("audio") is not None:
        raise wrong(f"{at}/audio", "is refused: this gateway carries text")
    content = message.get("content")
    if not isinstance(content, list):
        return
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
            raise wrong(f"{at}/content/{number}/type", "is refused: this gateway carries text")


def check_fields(said: Mapping[str, Any]) -> None:
    for name, value in said.items():
        why = REFUSED.get(name)
        if why is not None:
            raise wrong(f"/{name}", f"is refused: {why}")
        if name in PASSED_AS and value is not None:
            values, why = PASSED_AS[name]
            if not any(type(value) is type(one) and value == one for one in values):
                raise wrong(f"/{name}", f"is refused unless it is {str(values[0]).lower()}: {why}")
    tools = said.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise wrong("/tools", "must be a list")
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise wrong(f"/tools/{place}/type", "must be function: tools that a provider runs itself pass no policy")


def streaming(said: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a stream is wanted, and whether its last chunk is to say what was used."""
    stream, options = said.get("stream"), said.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise wrong("/stream", "must be true or false")
    if options is None:
        return bool(stream), False
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        raise wrong("/stream_options", "must be an object; include_usage is true or false")
    if not stream:
        raise wrong("/stream_options", "goes with stream: true only")
    return True, options.get("include_usage", False)


def limited(said: Mapping[str, Any]) -> int | None:
    """The client's own limit of the answer, the smaller one when it names two."""
    found = []
    for name in LIMITS:
        value = said.get(name)
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= 100_000_000:
            raise wrong(f"/{name}", "must be a whole number from 1 on")
        found.append(value)
    return min(found, default=None)


def wrong(pointer: str, detail: str) -> Problem:
    return Problem("validation", f"{pointer or 'The body'} {detail}.", errors=[{"pointer": pointer, "detail": detail}])
