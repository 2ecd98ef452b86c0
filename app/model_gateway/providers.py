"""The providers of a deployment: one file, read and checked when the process starts."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from app import outbound
from app.declared.body import Plain
from app.settings import MODEL_KEY, Misconfigured, Settings
from colony_client.contract import url_origin

LARGEST_FILE = 262_144
MILLION, FINEST = Decimal(1_000_000), Decimal("0.00000001")
Reach = Literal["internal", "public"]
Class = Literal["public", "internal", "confidential", "restricted"]
Milliseconds = Annotated[int, Field(ge=10, le=3_600_000)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
Usd = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
ProviderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")]


def base_url(url: str) -> str:
    url_origin(url)
    return url.rstrip("/")


def key_name(name: str) -> str:
    if not MODEL_KEY.fullmatch(name):
        raise ValueError("must be the name of an environment variable that begins with MODEL_KEY_")
    return name


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Timeouts(Part):
    """How long a provider may take. first_byte_ms: a stream's first chunk, and every pause in it."""

    connect_ms: Milliseconds = 2_000
    first_byte_ms: Milliseconds = 60_000
    whole_ms: Milliseconds = 300_000


class Model(Part):
    """A model as one provider has it. Prices are US dollars for a million tokens."""

    upstream: Annotated[str, Field(min_length=1, max_length=200)]
    input_usd: Usd
    output_usd: Usd
    context_tokens: Tokens
    output_tokens: Tokens
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def cost(self, tokens_in: int, tokens_out: int) -> Decimal:
        """In US dollars, rounded up in the last place that is kept."""
        said = Decimal(str(self.input_usd)) * tokens_in + Decimal(str(self.output_usd)) * tokens_out
        return (said / MILLION).quantize(FINEST, ROUND_CEILING)


class Provider(Part):
    """Who runs models, how it is reached, and what it may see. key names the environment variable that holds its key."""

    name: ProviderName
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    base_url: Annotated[str, Field(max_length=2000), AfterValidator(base_url)]
    key: Annotated[str, AfterValidator(key_name)] | None = None
    reach: Reach = "public"
    classes: Annotated[list[Class], Field(min_length=1)]
    timeouts: Timeouts = Timeouts()
    models: Annotated[dict[ModelName, Model], Field(min_length=1, max_length=200)]

    @property
    def own_address(self) -> str:
        """host:port, as the list of what may be called spells it."""
        parts = urlsplit(self.base_url)
        return f"{parts.hostname}:{parts.port or outbound.PORTS[parts.scheme]}"


class Document(Part):
    """The file. fallback: who is asked for a model, in this order; without it everybody who has it, in the file's order."""

    providers: Annotated[list[Provider], Field(min_length=1, max_length=50)]
    fallback: dict[ModelName, Annotated[list[ProviderName], Field(min_length=1)]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A model at one provider: somewhere a call may go."""

    name: str
    provider: Provider
    model: Model


@dataclass(frozen=True)
class Registry:
    """Everybody who may be asked, and for each model in which order. A key is looked up by its provider's name."""

    providers: Mapping[str, Provider] = field(default_factory=dict)
    routes: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    keys: Mapping[str, SecretStr] = field(default_factory=dict, repr=False)


def load(settings: Settings) -> Registry:
    """The registry of the file that MODEL_PROVIDERS names; an empty one without it. Raises Misconfigured."""
    if settings.model_providers is None:
        return Registry()
    try:
        document = Document.model_validate(read(Path(settings.model_providers)))
        routes = routed(document)
    except ValidationError as refused:
        raise Misconfigured(f"MODEL_PROVIDERS: {first(refused)}") from None
    except ValueError as refused:
        raise Misconfigured(f"MODEL_PROVIDERS: {refused}.") from None
    keys = dict(found(document.providers, settings))
    return Registry({one.name: one for one in document.providers}, routes, keys)


def read(path: Path) -> Any:
    """The document of a JSON or YAML file. Raises ValueError with a sentence that quotes nothing of it."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path} is larger than {LARGEST_FILE} bytes")
        text = path.read_text()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=Plain)  # noqa: S506  # made stricter
    except (yaml.YAMLError, ValueError, RecursionError) as bad:
        mark = getattr(bad, "problem_mark", None)
        line = bad.lineno if isinstance(bad, json.JSONDecodeError) else mark.line + 1 if mark else None
        where = "" if line is None else f" (line {line})"
        raise ValueError(f"{path} is neither JSON nor YAML that stands for JSON{where}") from None


def first(refused: ValidationError) -> str:
    """The first finding as one sentence; values stay out of it, because one may be a key in the wrong place."""
    found = refused.errors(include_input=False, include_url=False, include_context=False)[0]
    place = "/".join(str(step) for step in found["loc"] if step != "[key]") or "the file"
    more = f" ({refused.error_count() - 1} more are wrong)" if refused.error_count() > 1 else ""
    return f"{place}: {found['msg'].removeprefix('Value error, ').rstrip('.')}{more}."


def routed(document: Document) -> dict[str, tuple[Target, ...]]:
    """Where a call for each model may go, in order. Raises ValueError."""
    by_name = {one.name: one for one in document.providers}
    if len(by_name) < len(document.providers):
        raise ValueError("two providers have the same name")
    having: dict[str, list[str]] = {}
    for one in document.providers:
        for name, model in one.models.items():
            having.setdefault(name, []).append(one.name)
            if model.output_tokens > model.context_tokens:
                raise ValueError(f"{one.name} says of {name} that its output is larger than its context")
    for name, order in document.fallback.items():
        strangers = [one for one in order if one not in having.get(name, ())]
        if strangers or len(set(order)) < len(order):
            raise ValueError(f"fallback/{name} must name providers that have the model, each once")
    return {
        name: tuple(
            Target(name, by_name[one], by_name[one].models[name]) for one in document.fallback.get(name, everybody)
        )
        for name, everybody in having.items()
    }


def found(providers: Iterable[Provider], settings: Settings) -> Iterable[tuple[str, SecretStr]]:
    """The key of every provider that has one. Raises Misconfigured for a key that is not there or cannot be sent, and for
    an address that may not be called."""
    for one in providers:
        problem = outbound.unfit(f"{one.base_url}/", may_call(one, settings), any_public=one.reach == "public")
        if problem is not None:
            raise Misconfigured(f"MODEL_PROVIDERS: base_url of {one.name} {problem}.")
        if one.key is None:
            continue
        key = settings.model_keys.get(one.key)
        if key is None:
            raise Misconfigured(f"{one.key} is not set, and MODEL_PROVIDERS names it as the key of {one.name}.")
        if not re.fullmatch(r"[\x21-\x7e]{1,4096}", key.get_secret_value()):
            raise Misconfigured(f"{one.key} holds what cannot be sent as a key: spaces, or letters beyond ASCII.")
        yield one.name, key


def may_call(provider: Provider, settings: Settings) -> frozenset[str]:
    """Which addresses may be private or plain http for a provider: its own when it runs inside, else those listed for all."""
    if provider.reach == "internal":
        return frozenset({provider.own_address})
    return settings.outbound_hosts()
