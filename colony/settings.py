"""The colony's environment contract. Every value is checked at start; a wrong one stops it with one sentence."""

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from colony_client.contract import url_origin
from colony_client.signing import Keys, parse_keys

Port = Annotated[int, Field(ge=1, le=65535)]
Milliseconds = Annotated[int, Field(ge=100, le=7 * 24 * 3600 * 1000)]


class Misconfigured(Exception):
    """A setting is missing or wrong; the message is one sentence for the person who starts the process."""


def _origins(value: str) -> str:
    for url in value.split(","):
        try:
            url_origin(url.strip())
        except ValueError as wrong:
            raise ValueError(f"{url.strip()!r} {wrong}") from None
    return value


def _keys(value: SecretStr) -> SecretStr:
    parse_keys(value.get_secret_value(), "ROOT_API_KEY")
    return value


def _otlp(value: str) -> str:
    url_origin(value)
    return value.rstrip("/")


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """One field per environment variable, the same name in lower case."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    environment: Literal["local", "staging", "production"] = "local"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    host: str = "127.0.0.1"
    port: Port
    root_api_base_url: Annotated[str, AfterValidator(_origins)]  # comma-separated; only their origins are called back
    root_api_key: Annotated[SecretStr, AfterValidator(_keys)]
    default_model_route: str = "deterministic"  # | root:<model> | https://host/v1#model
    model_api_key: SecretStr | None = None  # only for a direct model route
    research_provider: Literal["none"] = "none"
    browser_provider: Literal["disabled"] = "disabled"
    max_concurrent_missions: Annotated[int, Field(ge=1, le=1000)] = 8
    max_workers_per_mission: Annotated[int, Field(ge=1, le=64)] = 4
    mission_timeout_ms: Milliseconds = 300_000
    task_timeout_ms: Milliseconds = 60_000
    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(_otlp)] | None = None

    @model_validator(mode="after")
    def _hangs_together(self) -> "Settings":
        if self.task_timeout_ms > self.mission_timeout_ms:
            raise ValueError("TASK_TIMEOUT_MS must not be larger than MISSION_TIMEOUT_MS")
        _check_route(self.default_model_route, self.environment)
        return self

    def keys(self) -> Keys:
        return parse_keys(self.root_api_key.get_secret_value(), "ROOT_API_KEY")

    def may_call_back(self, url: str) -> bool:
        """Is this one of the roots we were told about, or, outside production, something on this machine?"""
        known = {url_origin(origin.strip()) for origin in self.root_api_base_url.split(",")}
        return url_origin(url) in known or (self.environment != "production" and is_loopback(url))

    @property
    def direct_model(self) -> tuple[str, str] | None:
        """Base URL and model name of a direct route, None for any other."""
        url, _, model = self.default_model_route.partition("#")
        return (url, model) if model and self.root_model is None else None

    @property
    def root_model(self) -> str | None:
        """The model's name when it is asked through the root, None for any other route."""
        kind, _, model = self.default_model_route.partition(":")
        return model if kind == "root" else None


def _check_route(route: str, environment: str) -> None:
    if route == "deterministic":
        return
    if route.startswith("root:"):
        if not re.fullmatch(r"root:[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}", route):
            raise ValueError("DEFAULT_MODEL_ROUTE must name a model after root:, as the root's gateway lists it")
        return
    url, _, model = route.partition("#")
    if not model or not (url.startswith("https://") or (url.startswith("http://") and is_loopback(url))):
        raise ValueError("DEFAULT_MODEL_ROUTE must be deterministic, root:<model> or https://host/path#model")
    if environment != "local":
        raise ValueError(f"DEFAULT_MODEL_ROUTE must not go directly to a model when ENVIRONMENT is {environment}")


@lru_cache(maxsize=1)
def load() -> Settings:
    """The settings of this process, read once. Raises Misconfigured."""
    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as refused:
        raise Misconfigured(one_sentence(refused)) from None


def one_sentence(refused: ValidationError) -> str:
    first = refused.errors(include_input=False, include_url=False)[0]
    name = str(first["loc"][0]).upper() if first["loc"] else ""
    said = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "missing":
        said = "is not set, and the colony cannot start without it"
    elif first["type"] == "literal_error":
        said = said.replace("Input should be", "must be")
    return f"{said if not name or name in said else f'{name} {said[:1].lower()}{said[1:]}'}."
