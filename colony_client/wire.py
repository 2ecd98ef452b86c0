"""Bytes from the other side into models: bounded first, parsed strictly, and refused with the field's name."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from colony_client.contract import MAX_BODY_BYTES, MAX_BODY_DEPTH
from colony_client.errors import BadBody, FieldProblem

Model = TypeVar("Model", bound=BaseModel)

MAX_CONTAINERS = 200_000  # an empty list is 3 bytes on the wire and 70 in memory
MAX_PROBLEMS = 20
MAX_PROBLEM_TEXT = 300

# A JSON string, or the rest of the text when it never closes: every quote starts one match, so this stays linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ONE_KIND = bytes.maketrans(b"[]{}", b"()()")


def read_json(body: bytes, *, max_bytes: int = MAX_BODY_BYTES, max_depth: int = MAX_BODY_DEPTH) -> Any:
    """Decode one JSON text; BadBody when it is too large, too deep, ambiguous, or holds what we cannot store."""
    if len(body) > max_bytes:
        raise _refusal("too_large", f"the body is larger than {max_bytes} bytes")
    brackets = _brackets(body, more_than=max_depth)
    if _deeper_than(brackets, max_depth):
        raise _refusal("too_deep", f"the body is nested deeper than {max_depth} levels")
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise _refusal("too_many", f"the body holds more than {MAX_CONTAINERS} lists and objects")
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise _refusal("not_utf8", "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _refusal("not_json", f"not JSON at character {error.pos}: {error.msg}") from None
    except ValueError:  # a number of more digits than Python converts
        raise _refusal("number", "a number has too many digits") from None
    if b"\\u" in body:  # raw NULs and surrogates cannot get this far, escaped ones can
        _check_texts(value)
    return value


def read_model(
    model: type[Model],
    body: bytes,
    *,
    max_bytes: int = MAX_BODY_BYTES,
    max_depth: int = MAX_BODY_DEPTH,
    unknown: Literal["forbid", "ignore"] = "forbid",
) -> Model:
    """Decode a body into a model, without converting types; BadBody names every field that is wrong."""
    document = read_json(body, max_bytes=max_bytes, max_depth=max_depth)
    try:
        return model.model_validate_json(body, strict=True, extra=unknown)
    except ValidationError as error:
        raise BadBody(*field_problems(error, document)) from None


def members_of(body: bytes, name: str) -> list[bytes]:
    """The members of a list that the object in `body` holds under a name, each as it came. The body has been read before."""
    text, found = body.decode(), list[bytes]()
    for member, begin in _members(text):
        if member == name:
            place = _over(text, begin, "[")
            while text[place] != "]":
                _, end = _DECODER.raw_decode(text, place)
                found.append(text[place:end].encode())
                place = _over(text, end, ",")
            break
    return found


def without(body: bytes, name: str) -> bytes:
    """An object as it came, but for one member: an empty text is in its place. The body has been read before."""
    text = body.decode()
    for member, begin in _members(text):
        if member == name:
            _, end = _DECODER.raw_decode(text, begin)
            return f'{text[:begin]}""{text[end:]}'.encode()
    return body


def _members(text: str) -> Iterator[tuple[str, int]]:
    """The names of an object's members, however they are spelled, and where their values begin."""
    place = _over(text, 0, "{")
    while text[place] != "}":
        name, place = _DECODER.raw_decode(text, place)
        begin = _over(text, place, ":")
        yield name, begin
        _, place = _DECODER.raw_decode(text, begin)
        place = _over(text, place, ",")


def _over(text: str, place: int, sign: str) -> int:
    """Past blanks and this sign."""
    while text[place] in " \t\n\r" or text[place] == sign:
        place += 1
    return place


def field_problems(error: ValidationError, document: Any) -> list[FieldProblem]:
    """Pydantic's findings as JSON Pointers into the document that was refused."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        FieldProblem(_pointer(document, item["loc"]), item["type"], item["msg"][:MAX_PROBLEM_TEXT])
        for item in found[:MAX_PROBLEMS]
    ]


def _pointer(document: Any, location: tuple[Any, ...]) -> str:
    """Pydantic's location also names union branches; those are no steps in the document and are left out."""
    steps: list[str] = []
    for index, step in enumerate(location):
        is_entry = isinstance(document, list) and isinstance(step, int) and step < len(document)
        if is_entry or (isinstance(document, dict) and step in document):
            document = document[step]
        elif not (isinstance(document, dict) and index == len(location) - 1):  # a missing member is the last step
            continue
        steps.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{step}" for step in steps)[:MAX_PROBLEM_TEXT]


def _refusal(code: str, detail: str) -> BadBody:
    return BadBody(FieldProblem("", code, detail[:MAX_PROBLEM_TEXT]))


def _brackets(body: bytes, more_than: int) -> bytes:
    """The brackets of a JSON text, all of one kind; nothing when they are too few to matter."""
    if body.count(b"[") + body.count(b"{") <= more_than:
        return b""
    return _STRING.sub(b"", body).translate(_ONE_KIND, _NOT_BRACKETS)


def _deeper_than(brackets: bytes, limit: int) -> bool:
    """Takes away the innermost pairs, a level at a time; of brackets that pair with none as many count as there are."""
    for _ in range(limit):
        if b"()" not in brackets:
            break
        brackets = brackets.replace(b"()", b"")
    return b"()" in brackets or brackets.count(b"(") > limit


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _refusal("duplicate_key", "an object names the same member twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _refusal("number", "a number is too large")
    return number


def _no_constant(name: str) -> Any:
    raise _refusal("number", f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unambiguous, parse_float=_finite, parse_constant=_no_constant)


def _check_texts(value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, str):
            if "\x00" in item:
                raise _refusal("nul", "a text contains NUL")
            if any("\ud800" <= character <= "\udfff" for character in item):
                raise _refusal("surrogate", "a text contains a lone surrogate")
