"""The root's environment contract. Every value is validated at start; a wrong one stops the process with one sentence."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from app.outbound import allowed_hosts
from colony_client.contract import url_origin
from colony_client.signing import Keys, parse_keys

CREDENTIAL = re.compile(
    r"CONNECTOR_[A-Z0-9_]{1,200}_(READ|WRITE)"
)  # more than any connector is told: see connector.account
TOOL_KEY = re.compile(r"TOOL_[A-Z0-9_]{1,200}_KEY")
MODEL_KEY = re.compile(r"MODEL_KEY_[A-Z0-9_]{1,60}")  # what a provider's key may be called: nothing else is sent to one
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


@dataclass(frozen=True)
class Address:
    """Where PostgreSQL is reached, and where it is listened to. Through a pooler nothing outlives a transaction."""

    url: str = field(repr=False)
    direct_url: str = field(repr=False)
    pooled: bool = False

    @classmethod
    def of(cls, where: "Address | str") -> "Address":
        """An address, or that of a server that is reached directly."""
        return where if isinstance(where, Address) else cls(where, where)


def host_and_port(value: str) -> str:
    try:
        parts = urlsplit(f"//{value}")
        usable = bool(parts.hostname) and bool(parts.port) and parts.netloc == value and "@" not in value
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be host:port")
    return value


def http_url(value: str) -> str:
    url_origin(value)
    return value.rstrip("/")


def proxy_list(value: str) -> str:
    for one in value.split(","):
        if one.strip():
            ip_network(one.strip())
    return value


def some_keys(name: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        parse_keys(value.get_secret_value(), name)
        return value

    return AfterValidator(check)


def host_list(value: str) -> str:
    allowed_hosts(value)
    return value


def exact_url(value: str) -> str:
    """A URL that is compared letter by letter: nothing is cut off."""
    url_origin(value.split("?")[0])
    return value


ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def algorithms(value: str) -> str:
    wrong = [one for one in value.split(",") if one.strip() not in ASYMMETRIC]
    if wrong:
        raise ValueError(f"must list algorithms out of {', '.join(ASYMMETRIC)}")
    return value


def bus_urls(value: SecretStr) -> SecretStr:
    for one in value.get_secret_value().split(","):
        try:
            parts = urlsplit(one.strip())
            usable = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("must be a nats:// or tls:// URL, or several, comma-separated")
    return value


PostgresUrl = Annotated[SecretStr, AfterValidator(postgres_url)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
OidcUrl = Annotated[str, AfterValidator(exact_url)]


class Settings(BaseSettings):
    """One field per environment variable, the same name in lower case. `.env.example` lists them all."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    environment: Literal["local", "staging", "production"] = "local"
    build: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,60}$")] | None = (
        None  # what this was made from, as a commit's id
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    host: str = "127.0.0.1"
    port: Port = 8080
    internal_port: Port = 8081
    metrics_port: Port = 9400
    worker_metrics_port: Port = 9401
    executor_metrics_port: Port = 9402
    registrar_port: Port = 8082
    registrar_metrics_port: Port = 9403

    database_url: PostgresUrl | None = None  # role api
    worker_database_url: PostgresUrl | None = None
    reader_database_url: PostgresUrl | None = None
    executor_database_url: PostgresUrl | None = None
    registrar_database_url: PostgresUrl | None = None  # the registrar, and the commands that create tenants and people
    admin_database_url: PostgresUrl | None = None  # only for bootstrap and migrate
    database_role_prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = "mission_root"
    database_pool_size: Annotated[int, Field(ge=2, le=100)] = 10
    database_pool_wait_ms: Milliseconds = 1000
    database_pooled: bool = False  # the URLs above lead to a pooler that gives a server away after each transaction
    database_direct_address: Annotated[str, AfterValidator(host_and_port)] | None = (
        None  # PostgreSQL itself, for LISTEN
    )

    colony_enabled: bool = True
    colony_service_base_url: HttpUrl = "http://127.0.0.1:8090"
    colony_service_api_key: Annotated[SecretStr, some_keys("COLONY_SERVICE_API_KEY")] | None = None
    colony_timeout_ms: Annotated[int, Field(ge=1, le=300_000)] = 10_000
    colony_default_time_budget_ms: Milliseconds = 600_000
    colony_default_token_budget: Annotated[int, Field(ge=0, le=100_000_000)] = 200_000
    callback_base_url: HttpUrl = "http://127.0.0.1:8081"  # where the colony reaches INTERNAL_PORT
    root_signing_key: Annotated[SecretStr, some_keys("ROOT_SIGNING_KEY")] | None = None  # mission tokens, cursors

    registrar_base_url: HttpUrl = "http://127.0.0.1:8082"  # where serve reaches REGISTRAR_PORT
    # kid:secret[,kid:secret]; serve proves with it whose request it hands on, the registrar seals its cursors with it
    registrar_key: Annotated[SecretStr, some_keys("REGISTRAR_KEY")] | None = None
    oidc_issuer: OidcUrl | None = None  # exactly as tokens and discovery document spell it
    oidc_audience: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    oidc_jwks_url: OidcUrl | None = None  # unset: what the discovery document says
    oidc_algorithms: Annotated[str, AfterValidator(algorithms)] = "RS256,ES256,EdDSA"
    oidc_token_types: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+(,[A-Za-z0-9.+-]+)*$")] = "at+jwt,JWT"  # noqa: S105  # names of kinds
    oidc_authorized_parties: str = ""  # clients (azp or client_id) whose tokens are taken; empty: any
    # Signing in to the console at the same provider (docs/console.md). Only serve needs them.
    oidc_client_id: Annotated[str, Field(min_length=1, max_length=500)] | None = None  # unset: one-time links only
    oidc_client_secret: SecretStr | None = None  # unset: a public client, with PKCE alone
    console_base_url: HttpUrl | None = None  # as browsers reach this service, without /console

    # missions that could ask humans for a change wait while so many approvals of their tenant are pending; 0: no limit
    approval_queue_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    component_look_s: Annotated[float, Field(ge=0.1, le=3600)] = 5  # how often serve looks at what it depends on
    # Drills (docs/operations.md): whoever prepares their tenant and the worker that runs them make their people's keys of this
    drill_key: Annotated[SecretStr, some_keys("DRILL_KEY")] | None = None  # unset: no drills
    drill_interval_s: Annotated[float, Field(ge=0, le=604_800)] = (
        21_600  # between two runs of a drill; 0: only when asked
    )
    liveness_interval_s: Annotated[float, Field(ge=1, le=3600)] = 15  # how often open missions are looked at
    mission_lease_ms: Annotated[int, Field(ge=1000, le=3_600_000)] = 15_000
    mission_max_attempts: Annotated[int, Field(ge=1, le=20)] = 4
    execution_lease_ms: Annotated[int, Field(ge=1000, le=600_000)] = 30_000
    max_body_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 262_144
    max_document_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 25 * 1024 * 1024
    body_timeout_ms: Milliseconds = 15_000

    # requests a second, across all processes; 0: no limit
    rate_limit_key_per_s: Annotated[float, Field(ge=0, le=1e6)] = 1000
    rate_limit_principal_per_s: Annotated[float, Field(ge=0, le=1e6)] = 1000
    rate_limit_tenant_per_s: Annotated[float, Field(ge=0, le=1e6)] = 5000
    rate_limit_mission_per_s: Annotated[float, Field(ge=0, le=1e6)] = 100  # tool calls of one mission
    rate_limit_burst_s: Annotated[float, Field(ge=1, le=3600)] = 10  # how many seconds' worth may come at once
    auth_failures_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 30  # of one address with one key prefix
    trusted_proxies: Annotated[str, AfterValidator(proxy_list)] = ""  # networks whose X-Forwarded-For is believed

    crm_base_url: HttpUrl | None = None
    crm_read_token: SecretStr | None = None
    crm_write_token: SecretStr | None = (
        None  # the executor's alone: a process that serves HTTP refuses to start with it
    )

    # host[:port],...: the only hosts connectors may call, and the only ones that may be private or plain http
    outbound_allowed_hosts: Annotated[str, AfterValidator(host_list)] = ""
    # kid:secret[,kid:secret]; seals the secrets webhooks are signed with, first seals, any opens. serve and worker.
    webhook_sealing_key: Annotated[SecretStr, some_keys("WEBHOOK_SEALING_KEY")] | None = None

    # Missions from one environment to another (docs/replay.md): who signs what leaves, and whose files are believed.
    transfer_signing_key: SecretStr | None = None  # kid:base64 seed[,kid:base64 seed]; the first signs
    transfer_trusted_keys: str = ""  # kid:base64[,kid:base64]
    # Verdicts of release gates between environments (docs/release.md). The id of a key begins with the environment it speaks for.
    release_signing_key: SecretStr | None = None  # kid:base64 seed[,kid:base64 seed]; the first signs; serve alone
    release_trusted_keys: str = ""  # kid:base64[,kid:base64]
    release_check_interval_s: Annotated[float, Field(ge=1, le=600)] = 60  # how often the worker computes the gates
    # where the worker finds the public API (PORT of serve): its drills go there, and it looks whether it is well
    root_base_url: HttpUrl = "http://127.0.0.1:8080"
    # Tool layers (docs/tools.md). serve and worker.
    tool_servers_file: Annotated[str, Field(max_length=1000)] | None = (
        None  # JSON: the stdio servers run here; unset: none
    )
    tool_check_interval_s: Annotated[float, Field(ge=1, le=86_400)] = 300  # how often a layer's server is looked at
    # the file that lists the providers of models (docs/models.md), for serve alone; unset: there are none
    model_providers: Annotated[str, Field(max_length=1000)] | None = None

    # Ledger anchors (docs/ledger.md). Only the worker signs; serve reads the store and verifies.
    anchor_store: Annotated[str, Field(max_length=1000)] | None = None  # a folder, or s3://bucket/prefix; unset: off
    anchor_signing_key: SecretStr | None = None  # kid:base64 seed[,kid:base64 seed]; the first signs
    anchor_public_keys: str = ""  # kid:base64[,kid:base64]: whose anchors are believed
    anchor_revoked_keys: str = ""  # kid[,kid]: whose are no longer
    anchor_interval_s: Annotated[float, Field(ge=0.01, le=86_400)] = 60
    anchor_max_facts: Annotated[int, Field(ge=1, le=10_000)] = 1000  # this many new facts do not wait for the interval

    # Large sources outside the database (docs/retention.md); serve and worker
    artifact_store: Annotated[str, Field(max_length=1000)] | None = None  # as ANCHOR_STORE; unset: all in the database
    artifact_store_from_bytes: Annotated[int, Field(ge=4096, le=256 * 1024 * 1024)] = 1024 * 1024
    retention_interval_s: Annotated[float, Field(ge=0.01, le=86_400)] = 3600  # between two sweeps of a tenant

    # Facts to a stream of NATS JetStream (docs/bus.md). Only the worker connects; it then needs READER_DATABASE_URL, too.
    bus_url: Annotated[SecretStr, AfterValidator(bus_urls)] | None = None  # unset: off
    bus_credentials: SecretStr | None = None  # a NATS credentials file, or the path of one
    bus_stream: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")] = (
        "mission_root"  # its subjects begin so
    )
    # of a stream that is made here: its copies, and how long it keeps a fact; 0: for ever
    bus_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    bus_max_age_s: Annotated[float, Field(ge=0, le=1e9)] = 604_800

    otel_exporter_otlp_endpoint: HttpUrl | None = None
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    gauges_interval_s: Annotated[float, Field(ge=0.1, le=300)] = 15  # how often the worker counts what is open

    _credentials: dict[str, SecretStr] = PrivateAttr(default_factory=dict)
    _tool_keys: dict[str, SecretStr] = PrivateAttr(default_factory=dict)
    _model_keys: dict[str, SecretStr] = PrivateAttr(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        """connector_credentials, tool_keys: instead of those that the environment and the file hold."""
        given, keys = values.pop("connector_credentials", None), values.pop("tool_keys", None)
        super().__init__(**values)
        file = values.get("_env_file", self.model_config.get("env_file"))
        in_file = DotEnvSettingsSource(type(self), env_file=file, case_sensitive=True).env_vars if file else {}
        everything = {**in_file, **os.environ}
        self._credentials = secrets_named(CREDENTIAL, everything if given is None else given)
        self._tool_keys = secrets_named(TOOL_KEY, everything if keys is None else keys)
        self._model_keys = secrets_named(MODEL_KEY, everything)

    @property
    def connector_credentials(self) -> dict[str, SecretStr]:
        """CONNECTOR_<TENANT>__<NAME>_READ and _WRITE: what connectors enter their targets with (docs/connectors.md)."""
        return self._credentials

    @property
    def tool_keys(self) -> dict[str, SecretStr]:
        """TOOL_<TENANT>__<LAYER>_KEY: what is shown to the servers of tool layers (docs/tools.md)."""
        return self._tool_keys

    @property
    def model_keys(self) -> dict[str, SecretStr]:
        """MODEL_KEY_...: what providers of models are asked with (docs/models.md)."""
        return self._model_keys

    def write_credentials(self) -> list[str]:
        """The names of all write credentials this process was given, which only the executor may be."""
        found = sorted(name for name in self._credentials if name.endswith("_WRITE"))
        return ["CRM_WRITE_TOKEN", *found] if self.crm_write_token is not None else found

    def database(self, field: str) -> Address:
        """How this process reaches PostgreSQL as the role of a setting."""
        url = self.secret(field)
        if not self.database_pooled:
            return Address(url, url)
        if self.database_direct_address is None:
            raise Misconfigured(
                "DATABASE_POOLED is true, and DATABASE_DIRECT_ADDRESS is not set: notifications do not pass through a pooler, "
                "so it has to name the host and port of PostgreSQL itself."
            )
        parts = urlsplit(url)
        who = parts.netloc.rpartition("@")[0]
        direct = parts._replace(netloc=f"{who}@{self.database_direct_address}" if who else self.database_direct_address)
        return Address(url, urlunsplit(direct), pooled=True)

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

    def webhook_keys(self) -> Keys | None:
        """None when this deployment has no webhooks."""
        if self.webhook_sealing_key is None:
            return None
        return parse_keys(self.webhook_sealing_key.get_secret_value(), "WEBHOOK_SEALING_KEY")

    def drill_keys(self) -> Keys | None:
        """None when this deployment has no drills."""
        if self.drill_key is None:
            return None
        return parse_keys(self.drill_key.get_secret_value(), "DRILL_KEY")

    def outbound_hosts(self) -> frozenset[str]:
        return allowed_hosts(self.outbound_allowed_hosts)

    def registrar_keys(self) -> Keys:
        return parse_keys(self.secret("registrar_key"), "REGISTRAR_KEY")

    def oidc_algorithm_list(self) -> tuple[str, ...]:
        return tuple(one.strip() for one in self.oidc_algorithms.split(","))


def secrets_named(pattern: re.Pattern[str], said: Mapping[str, str | None]) -> dict[str, SecretStr]:
    return {name: SecretStr(value) for name, value in said.items() if value and pattern.fullmatch(name)}


def check_console(settings: Settings) -> None:
    """Signing in takes a provider and an address that it may send browsers back to."""
    if settings.oidc_client_id is None:
        return
    for name in ("oidc_issuer", "console_base_url"):
        if getattr(settings, name) is None:
            raise Misconfigured(
                f"OIDC_CLIENT_ID is set, and {name.upper()} is not: the console signs people in with both."
            )
    for name in ("oidc_issuer", "console_base_url"):
        if settings.environment != "local" and urlsplit(getattr(settings, name)).scheme != "https":
            raise Misconfigured(f"{name.upper()} must begin with https:// outside ENVIRONMENT=local.")


class Misconfigured(Exception):
    """A setting is missing or wrong; the message is one sentence for the person who starts the process."""


def refuse_write_credentials(settings: Settings) -> None:
    """What serves HTTP, or works beside it, must not be able to change a business system, whatever happens to it."""
    for name in settings.write_credentials():
        raise Misconfigured(f"{name} is set, but only the executor may hold a write credential: remove it here.")
    if settings.executor_database_url is not None:
        raise Misconfigured("EXECUTOR_DATABASE_URL is set, but only the executor may hold it: remove it here.")


def refuse_the_registrars_place(settings: Settings) -> None:
    """Whoever serves missions must not be able to make the people who approve."""
    if settings.registrar_database_url is not None:
        raise Misconfigured("REGISTRAR_DATABASE_URL is set, but only the registrar may hold it: remove it here.")


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
