"""What would break a peer that was built for the previous version: two OpenAPI documents compared.

Direction decides. In a request the service receives, so it must go on taking everything that it took; in an answer the other
side does, so nothing may come that was not announced. Both are one question: may the sender say something that the receiver
refuses? Answers are read leniently (unknown members are dropped), requests strictly. What is not understood here is breaking:
whoever adds a keyword to the schemas teaches it to this file first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from colony_client.contract import SINCE
from colony_client.versions import order

LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
SAME = ("pattern", "format", "multipleOf", "uniqueItems")  # added or changed, nobody can say what it lets through
WORDS = ("title", "description", "examples", "example", "discriminator", "deprecated", "$comment", SINCE)
KNOWN = {
    *LOWER, *UPPER, *SAME, *WORDS, "type", "enum", "const", "default", "properties", "required", "additionalProperties",
    "patternProperties", "propertyNames", "items", "anyOf", "oneOf", "$ref",
}  # fmt: skip
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
ANY = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})


@dataclass(frozen=True)
class Break:
    """pointer: JSON Pointer into the newer document, or into the older one for what is gone."""

    pointer: str
    call: str
    what: str

    def __str__(self) -> str:
        return f"{self.call}: {self.pointer}: {self.what}"


@dataclass(frozen=True)
class Side:
    """A schema in its document."""

    document: dict[str, Any]
    pointer: str
    schema: Any

    def at(self, *steps: str) -> "Side":
        found, pointer = self.schema, self.pointer
        for step in steps:
            found = found[int(step)] if isinstance(found, list) else found[step]
            pointer = f"{pointer}/{step.replace('~', '~0').replace('/', '~1')}"
        return Side(self.document, pointer, found)

    def followed(self) -> "Side":
        """The schema behind a reference, under its own pointer."""
        side = self
        while isinstance(side.schema, dict) and "$ref" in side.schema:
            steps = side.schema["$ref"].removeprefix("#/").split("/")
            side = Side(self.document, "", self.document).at(
                *(one.replace("~1", "/").replace("~0", "~") for one in steps)
            )
        return side


@dataclass(frozen=True)
class Between:
    """One direction of one call. newer: the side from the newer document."""

    call: str
    request: bool
    old: Side
    new: Side

    def to(self, old: Side, new: Side) -> "Between":
        return replace(self, old=old.followed(), new=new.followed())

    @property
    def sender(self) -> Side:
        return self.old if self.request else self.new

    @property
    def receiver(self) -> Side:
        return self.new if self.request else self.old

    def says(self, what: str, side: Side | None = None) -> Break:
        where = "request" if self.request else "answer"
        return Break((side or self.new).pointer, f"{self.call} ({where})", what)


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[Break]:
    """Everything in the newer document that breaks a peer of the older one, each once."""
    found: dict[Break, None] = {}
    for path, operations in old["paths"].items():
        if path not in new["paths"]:
            found[Break(_pointer("paths", path), path, "the path is gone")] = None
            continue
        for method in METHODS:
            if method in operations:
                found |= dict.fromkeys(_operation(old, new, path, method))
    return list(found)


def _operation(old: dict[str, Any], new: dict[str, Any], path: str, method: str) -> Iterator[Break]:
    call, here = f"{method.upper()} {path}", _pointer("paths", path, method)
    if method not in new["paths"][path]:
        yield Break(here, call, "the method is gone")
        return
    before, after = (Side(one, "", one).at("paths", path, method) for one in (old, new))
    yield from _parameters(call, before, after)
    if not before.schema.get("security") and after.schema.get("security"):
        yield Break(f"{here}/security", call, "it asks for credentials that it did not ask for")

    body, newer = (one.schema.get("requestBody") for one in (before, after))
    if newer and newer.get("required") and not (body and body.get("required")):
        yield Break(f"{here}/requestBody", call, "a body is required that was not")
    elif body and not newer:
        yield Break(f"{here}/requestBody", call, "the body is no longer taken")
    if body and newer:
        yield from _contents(call, True, before.at("requestBody"), after.at("requestBody"))
    for status in before.schema["responses"]:
        if status not in after.schema["responses"]:
            yield Break(_pointer("paths", path, method, "responses", status), call, f"status {status} is gone")
            continue
        was, now = before.at("responses", status), after.at("responses", status)
        yield from _contents(call, False, was, now)
        for code in was.schema.get("x-codes", ()):
            if code not in now.schema.get("x-codes", ()):
                yield Break(f"{now.pointer}/x-codes", call, f"the code {code} is gone")
    for status in after.schema["responses"]:
        if status.startswith(("2", "3")) and status not in before.schema["responses"]:
            yield Break(
                _pointer("paths", path, method, "responses", status), call, f"it succeeds with status {status} too"
            )


def _parameters(call: str, before: Side, after: Side) -> Iterator[Break]:
    was, now = ({_name(one): one for one in _listed(side)} for side in (before, after))
    for name, side in now.items():
        if name not in was:
            if side.schema.get("required"):
                yield Break(side.pointer, call, f"{name[1]} is required and was not known")
            continue
        if side.schema.get("required") and not was[name].schema.get("required"):
            yield Break(side.pointer, call, f"{name[1]} is required and was not")
        yield from _schema(Between(call, True, was[name].at("schema").followed(), side.at("schema").followed()))
    for name in was.keys() - now.keys():
        if name[0] != "header":  # a header that nobody reads harms nobody
            yield Break(was[name].pointer, call, f"{name[1]} is gone")


def _listed(side: Side) -> list[Side]:
    return [side.at("parameters", str(place)).followed() for place in range(len(side.schema.get("parameters", ())))]


def _name(parameter: Side) -> tuple[str, str]:
    said = parameter.schema
    return said["in"], said["name"].lower() if said["in"] == "header" else said["name"]


def _contents(call: str, request: bool, before: Side, after: Side) -> Iterator[Break]:
    was, now = before.schema.get("content", {}), after.schema.get("content", {})
    for kind in was if request else {**was, **now}:
        if kind not in now or kind not in was:
            yield Break(f"{after.pointer}/content", call, f"{kind} is {'gone' if kind not in now else 'new'}")
            continue
        sides = (side.at("content", kind, "schema").followed() for side in (before, after))
        yield from _schema(Between(call, request, *sides))


def _schema(both: Between, seen: frozenset[tuple[str, str]] = frozenset()) -> Iterator[Break]:
    """What the sender may say under its schema and the receiver refuses under its own."""
    key = (both.old.pointer, both.new.pointer)
    if key in seen:
        return
    seen |= {key}
    for side in (both.old, both.new):
        if unknown := sorted(set(side.schema) - KNOWN):
            yield both.says(f"{unknown[0]} is not understood by this comparison", side)
    if any("anyOf" in side.schema or "oneOf" in side.schema for side in (both.old, both.new)):
        yield from _alternatives(both, seen)
        return
    yield from _values(both)
    yield from _bounds(both)
    yield from _members(both, seen)
    old, new = both.old.schema, both.new.schema
    if "items" in old and "items" in new:
        yield from _schema(both.to(both.old.at("items"), both.new.at("items")), seen)
    elif "items" in both.receiver.schema:
        yield both.says("the entries of the list are bound to a shape")


def _values(both: Between) -> Iterator[Break]:
    """Types and lists of values."""
    sent, taken = _types(both.sender.schema), _types(both.receiver.schema)
    if sent - taken - ({"integer"} if "number" in taken else set()):
        yield both.says(f"its type was {_say(both.old.schema)} and is {_say(both.new.schema)}")
        return
    said, known = _listed_values(both.sender.schema), _listed_values(both.receiver.schema)
    if known is not None:
        if said is None:
            yield both.says("its values are bound to a list" if both.request else "its values are no longer a list")
        else:
            for value in [one for one in said if one not in known]:
                gone = "is no longer taken" if both.request else "is new, and an older receiver does not know it"
                yield both.says(f"the value {value!r} {gone}")
    if both.request and both.old.schema.get("default") != both.new.schema.get("default"):
        yield both.says("what is meant when it is left out has changed")


def _bounds(both: Between) -> Iterator[Break]:
    sent, taken = both.sender.schema, both.receiver.schema
    for names, tighter in ((LOWER, lambda a, b: a > b), (UPPER, lambda a, b: a < b)):
        for name in names:
            bound, own = taken.get(name), sent.get(name)
            if bound is not None and (own is None or tighter(bound, own)):
                change = "narrowed" if both.request else "widened"
                yield both.says(f"{name} is {change}: {both.old.schema.get(name)} was, {both.new.schema.get(name)} is")
    for name in SAME:
        if name in taken and taken[name] != sent.get(name):
            yield both.says(f"{name} has changed: {both.old.schema.get(name)} was, {both.new.schema.get(name)} is")


def _members(both: Between, seen: frozenset[tuple[str, str]]) -> Iterator[Break]:
    old, new = both.old.schema.get("properties", {}), both.new.schema.get("properties", {})
    for name in both.receiver.schema.get("required", ()):
        if name not in both.sender.schema.get("required", ()):
            side = both.new.at("properties", name) if name in new else both.new
            yield both.says(f"{name} {'is required and was not' if both.request else 'may be missing now'}", side)
    for name in old:
        if name not in new:
            yield both.says(f"{name} is gone", both.old.at("properties", name))
        else:
            yield from _schema(both.to(both.old.at("properties", name), both.new.at("properties", name)), seen)
    for name in new.keys() - old.keys():
        if both.request and both.old.schema.get("additionalProperties") is False:
            yield from _added(both, name)
    yield from _others(both, seen)


def _added(both: Between, name: str) -> Iterator[Break]:
    """A new member of a request: an older receiver refuses it, so it has to say with which version it came."""
    said = both.new.at("properties", name)
    came = said.schema.get(SINCE)
    if came is None or order(came) <= order(both.old.document["info"]["version"]):
        yield both.says(f"{name} is new and does not say since when, so an older receiver would be sent it", said)


def _others(both: Between, seen: frozenset[tuple[str, str]]) -> Iterator[Break]:
    """Members beside those that are named, and the names that members may have."""
    sent, taken = both.sender.schema, both.receiver.schema
    if not {"object"} & _types(sent) & _types(taken):
        return
    for pattern in taken.get("patternProperties", ()):
        if pattern not in sent.get("patternProperties", {}):
            yield both.says(f"members like {pattern} are {'bound to' if both.request else 'no longer of'} a shape")
        else:
            at = ("patternProperties", pattern)
            yield from _schema(both.to(both.old.at(*at), both.new.at(*at)), seen)
    for name in ("additionalProperties", "propertyNames"):
        said, own = taken.get(name), sent.get(name)
        if isinstance(said, dict) and isinstance(own, dict):
            yield from _schema(both.to(both.old.at(name), both.new.at(name)), seen)
        elif said is False and own is not False and both.request:
            yield both.says("members that are not named are no longer taken")
        elif isinstance(said, dict) and own is not False and name in taken:
            yield both.says(f"{name} is bound to a shape" if both.request else f"{name} is no longer bound to a shape")


def _alternatives(both: Between, seen: frozenset[tuple[str, str]]) -> Iterator[Break]:
    """Each alternative of the sender needs one of the receiver that takes it."""
    old, new = _choices(both.old), _choices(both.new)
    named_old, named_new = {_tag(one): one for one in old}, {_tag(one): one for one in new}
    sent, taken = (named_old, named_new) if both.request else (named_new, named_old)
    for tag, side in sent.items():
        if tag in taken:
            yield from _schema(both.to(named_old[tag], named_new[tag]), seen)
            continue
        pairs = [(side, one) if both.request else (one, side) for one in taken.values()]
        if not any(not list(_schema(both.to(*pair), seen)) for pair in pairs):
            gone = "is no longer taken" if both.request else "is new, and an older receiver does not know it"
            yield both.says(f"the alternative {tag} {gone}", both.new if both.request else side)


def _choices(side: Side) -> list[Side]:
    for name in ("anyOf", "oneOf"):
        if name in side.schema:
            return [
                choice
                for place in range(len(side.schema[name]))
                for choice in _choices(side.at(name, str(place)).followed())
            ]
    return [side]


def _tag(side: Side) -> str:
    """What tells an alternative from its neighbours: the constant of its tag, else its type."""
    for name, member in side.schema.get("properties", {}).items():
        if name in ("type", "schema_name") and "const" in member:
            return str(member["const"])
    return _say(side.schema)


def _types(schema: dict[str, Any]) -> frozenset[str]:
    said = schema.get("type")
    if said is None:
        values = _listed_values(schema)
        return ANY if values is None else frozenset(_type_of(value) for value in values)
    return frozenset([said] if isinstance(said, str) else said)


def _type_of(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}
    return names.get(type(value), "object")


def _listed_values(schema: dict[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _say(schema: dict[str, Any]) -> str:
    return " or ".join(sorted(_types(schema))) if _types(schema) != ANY else "anything"


def _pointer(*steps: str) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
