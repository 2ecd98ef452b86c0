"""The root's environment contract. Every value is validated at start; a wrong one stops the process with one sentence."""

import sys
from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from colony_client.contract import url_origin
from colony_client.signing import Keys, parse_keys

Port = Annotated[int, Field(ge=1, le=65535)]
Milliseconds = Annotated[int, Field(ge=1, le=7 * 24 * 3600 * 1000)]


def postgres_url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        usable = parts.scheme in ("postgresql", "postgres") and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise ValueError("must be a postgresql:// URL")
    return value


def http_url(value: str) -> str:
    url_origin(value)
    return value.rstrip("/")


def some_keys(name: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        parse_keys(value.get_secret_value(), name)
        return value

    return AfterValidator(check)


PostgresUrl = Annotated[SecretStr, AfterValidator(postgres_url)]
HttpUrl = Annotated[str, AfterValidator(http_url)]


class Settings(BaseSettings):
    """One field per environment variable, the same name in lower case. `.env.example` lists them all."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    environment: Literal["local", "staging", "production"] = "local"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    host: str = "127.0.0.1"
    port: Port = 8080
    internal_port: Port = 8081
    metrics_port: Port = 9400
    worker_metrics_port: Port = 9401
    executor_metrics_port: Port = 9402

    database_url: PostgresUrl | None = None  # role api
    worker_database_url: PostgresUrl | None = None
    reader_database_url: PostgresUrl | None = None
    executor_database_url: PostgresUrl | None = None
    registrar_database_url: PostgresUrl | None = None  # only for commands that create tenants, principals and keys
    admin_database_url: PostgresUrl | None = None  # only for bootstrap and migrate
    database_role_prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = "mission_root"
    database_pool_size: Annotated[int, Field(ge=2, le=100)] = 10
    database_pool_wait_ms: Milliseconds = 1000

    colony_enabled: bool = True
    colony_service_base_url: HttpUrl = "http://127.0.0.1:8090"
    colony_service_api_key: Annotated[SecretStr, some_keys("COLONY_SERVICE_API_KEY")] | None = None
    colony_timeout_ms: Milliseconds = 10_000
    colony_default_time_budget_ms: Milliseconds = 600_000
    colony_default_token_budget: Annotated[int, Field(ge=0, le=100_000_000)] = 200_000
    callback_base_url: HttpUrl = "http://127.0.0.1:8081"  # where the colony reaches INTERNAL_PORT
    root_signing_key: Annotated[SecretStr, some_keys("ROOT_SIGNING_KEY")] | None = None  # mission tokens, cursors

    mission_lease_ms: Annotated[int, Field(ge=1000, le=3_600_000)] = 15_000
    mission_max_attempts: Annotated[int, Field(ge=1, le=20)] = 4
    execution_lease_ms: Annotated[int, Field(ge=1000, le=600_000)] = 30_000
    max_body_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 262_144
    max_document_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 25 * 1024 * 1024
    body_timeout_ms: Milliseconds = 15_000

    crm_base_url: HttpUrl | None = None
    crm_read_token: SecretStr | None = None
    crm_write_token: SecretStr | None = (
        None  # the executor's alone: a process that serves HTTP refuses to start with it
    )

    otel_exporter_otlp_endpoint: HttpUrl | None = None
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    def secret(self, field: str) -> str:
        """The value of a secret that this process cannot do without."""
        value = getattr(self, field)
        if value is None:
            raise Misconfigured(f"{field.upper()} is not set, and this process needs it.")
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    def colony_keys(self) -> Keys:
        return parse_keys(self.secret("colony_service_api_key"), "COLONY_SERVICE_API_KEY")

    def signing_keys(self) -> Keys:
        return parse_keys(self.secret("root_signing_key"), "ROOT_SIGNING_KEY")

    def callback_origin(self) -> str:
        return url_origin(self.callback_base_url)


class Misconfigured(Exception):
    """A setting is missing or wrong; the message is one sentence for the person who starts the process."""


@lru_cache(maxsize=1)
def load() -> Settings:
    """The settings of this process, read once. Raises Misconfigured."""
    try:
        return Settings()
    except ValidationError as refused:
        raise Misconfigured(one_sentence(refused)) from None


def one_sentence(refused: ValidationError) -> str:
    first = refused.errors(include_input=False, include_url=False)[0]
    name = str(first["loc"][0]).upper() if first["loc"] else "The environment"
    said = first["msg"].removeprefix("Value error, ").rstrip(".")
    more = f" ({refused.error_count() - 1} more settings are wrong)" if refused.error_count() > 1 else ""
    return f"{said if name in said else f'{name}: {said}'}{more}."


def stop(refused: Misconfigured) -> None:
    """Ends the process the way a misconfiguration should: one sentence, exit code 2."""
    print(f"mission-root: {refused}", file=sys.stderr)
    raise SystemExit(2)
