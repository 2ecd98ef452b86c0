"""The kinds of connectors there are, and how a process gets a reader or a writer from a tenant's definition of one.

A definition says where a target is and how it is spoken to. It holds no secret: credentials are looked up in the process's
environment, under the name that the database gave the connector (`account`), with `_READ` or `_WRITE` at its end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import SecretStr, ValidationError

from app import outbound
from app.writebacks.connectors import NotConfigured, NoWriteCredential, Reader, Writer
from app.writebacks.connectors.definitions import (
    BadDefinition,
    Capabilities,
    Common,
    Drill,
    SampleCrm,
    Tryton,
    joined,
    place,
)
from app.writebacks.connectors.definitions.http_json import HttpJson
from app.writebacks.connectors.definitions.postgresql import PostgreSql
from app.writebacks.connectors.drill import DrillTarget
from app.writebacks.connectors.http_json import HttpJsonReader, HttpJsonWriter
from app.writebacks.connectors.postgresql import PostgreSqlReader, PostgreSqlWriter
from app.writebacks.connectors.sample_crm import SampleCrmReader, SampleCrmWriter
from app.writebacks.connectors.tryton import TrytonReader, TrytonWriter


class ConnectorSettings(Protocol):
    """The part of the settings that connectors need; only the executor's environment fills the write credentials."""

    @property
    def crm_base_url(self) -> str | None: ...
    @property
    def crm_read_token(self) -> SecretStr | str | None: ...
    @property
    def crm_write_token(self) -> SecretStr | str | None: ...
    @property
    def connector_credentials(self) -> Mapping[str, SecretStr]: ...
    def outbound_hosts(self) -> frozenset[str]: ...


@dataclass(frozen=True)
class Definition:
    """One version of a tenant's connector, as the table `connector` holds it."""

    name: str
    version: int
    kind: str
    body: Mapping[str, Any] = field(repr=False)
    account: str

    @property
    def read_by_executor(self) -> bool:
        return self.body.get("read_by") == "executor"


@dataclass(frozen=True)
class Kind:
    """What a kind's definitions look like, and how they become readers and writers."""

    model: type[Common]
    host: Callable[[Any, ConnectorSettings], tuple[str, str] | None]  # where in the definition, and `host:port`
    reader: Callable[[Definition, Any, ConnectorSettings, str], Reader]
    writer: Callable[[Definition, Any, ConnectorSettings, str], Writer]
    credentials: bool = True  # whether its target has to be entered


def parse(kind: str, body: Mapping[str, Any]) -> Any:
    """The definition as its kind's model. Raises BadDefinition."""
    known = KINDS.get(kind)
    if known is None:
        raise BadDefinition([{"pointer": "/kind", "detail": f"must be one of {', '.join(KINDS)}"}])
    try:
        return known.model.model_validate(body)
    except ValidationError as refused:
        raise BadDefinition.of(refused) from None


def check(kind: str, body: Mapping[str, Any], settings: ConnectorSettings) -> Any:
    """Likewise, and that this deployment lets its host be called."""
    model = parse(kind, body)
    found = KINDS[kind].host(model, settings)
    if found is not None:
        pointer, place = found
        host, _, port = place.rpartition(":")
        if not outbound.listed(_allowed(model, settings), host.strip("[]"), int(port)):
            raise BadDefinition([{"pointer": pointer, "detail": f"{place} is not in OUTBOUND_ALLOWED_HOSTS"}])
    return model


def hosts(kind: str, body: Mapping[str, Any], settings: ConnectorSettings) -> list[str]:
    try:
        found = KINDS[kind].host(parse(kind, body), settings)
    except BadDefinition:
        return []
    return [found[1]] if found else []


def capabilities(kind: str, body: Mapping[str, Any]) -> Capabilities | None:
    """None for a definition that this release cannot read any more."""
    try:
        found: Capabilities = parse(kind, body).capabilities()
        return found
    except BadDefinition:
        return None


def reader(definition: Definition, settings: ConnectorSettings) -> Reader:
    """Raises NotConfigured when this process lacks the address, the host's permission or the read credential."""
    model = _usable(definition, settings)
    if definition.read_by_executor:
        raise NotConfigured(f"{definition.name} is read by the executor alone.")
    name, credential = _credential(definition, settings, "READ")
    if not credential and KINDS[definition.kind].credentials:
        raise NotConfigured(f"{name} is not set, so {definition.name} cannot be read here.")
    return KINDS[definition.kind].reader(definition, model, settings, credential)


def writer(definition: Definition, settings: ConnectorSettings) -> Writer:
    """Raises NoWriteCredential in every process that was not given the write credential, which is all but the executor."""
    model = _usable(definition, settings)
    name, credential = _credential(definition, settings, "WRITE")
    if not credential and KINDS[definition.kind].credentials:
        raise NoWriteCredential(f"{name} is not set: this process may not change {definition.name}.")
    return KINDS[definition.kind].writer(definition, model, settings, credential)


def reading_writer(definition: Definition, settings: ConnectorSettings) -> Writer:
    """What the executor reads with for others: only where the definition says that nobody else can."""
    if not definition.read_by_executor:
        raise NotConfigured(f"{definition.name} is not read by the executor.")
    return writer(definition, settings)


def readable(definition: Definition, settings: ConnectorSettings) -> bool:
    """Whether this process has what reading takes; not whether the target answers."""
    if definition.read_by_executor:
        return True
    try:
        _usable(definition, settings)
    except NotConfigured:
        return False
    return not KINDS[definition.kind].credentials or bool(_credential(definition, settings, "READ")[1])


def _usable(definition: Definition, settings: ConnectorSettings) -> Any:
    try:
        return check(definition.kind, definition.body, settings)
    except BadDefinition as bad:
        raise NotConfigured(f"The definition of {definition.name} cannot be used: {bad}.") from bad


def _credential(definition: Definition, settings: ConnectorSettings, use: str) -> tuple[str, str]:
    """The variable that holds a credential, and what it holds."""
    name = f"{definition.account}_{use}"
    found = settings.connector_credentials.get(name)
    if found is None and definition.kind == "sample_crm" and definition.body.get("base_url") is None:
        # the deployment's own sample CRM, with the deployment's own tokens: never sent to an address that a tenant chose
        return f"CRM_{use}_TOKEN", _plain(settings.crm_read_token if use == "READ" else settings.crm_write_token)
    return name, _plain(found)


def _plain(token: SecretStr | str | None) -> str:
    return token.get_secret_value() if isinstance(token, SecretStr) else token or ""


# --- the kinds


def _crm_address(model: SampleCrm, settings: ConnectorSettings) -> str:
    address = model.base_url or settings.crm_base_url
    if not address:
        raise NotConfigured("CRM_BASE_URL is not set.")
    return address


def _crm_host(model: SampleCrm, settings: ConnectorSettings) -> tuple[str, str] | None:
    address = model.base_url or settings.crm_base_url
    try:
        return ("/base_url", place(address)) if address else None
    except ValueError as bad:
        raise NotConfigured("CRM_BASE_URL is not an http or https address.") from bad


def _base_host(model: HttpJson | Tryton, _: ConnectorSettings) -> tuple[str, str]:
    return "/base_url", place(model.base_url)


def _postgres_host(model: PostgreSql, _: ConnectorSettings) -> tuple[str, str]:
    return "/host", joined(model.host, model.port)


def _allowed(model: Any, settings: ConnectorSettings) -> frozenset[str]:
    """The hosts that a connector may call. The sample CRM of the deployment is one by being set."""
    if isinstance(model, SampleCrm) and model.base_url is None and settings.crm_base_url:
        host, _, port = place(settings.crm_base_url).rpartition(":")
        return frozenset({f"{host.strip('[]')}:{port}"})
    return settings.outbound_hosts()


def _read_crm(definition: Definition, model: SampleCrm, settings: ConnectorSettings, token: str) -> Reader:
    return SampleCrmReader(_crm_address(model, settings), token, name=definition.name)


def _write_crm(definition: Definition, model: SampleCrm, settings: ConnectorSettings, token: str) -> Writer:
    return SampleCrmWriter(_crm_address(model, settings), token, name=definition.name)


def _read_tryton(definition: Definition, model: Tryton, settings: ConnectorSettings, credential: str) -> Reader:
    allowed = settings.outbound_hosts()
    return TrytonReader(definition.name, model.base_url, model.database, credential, allowed=allowed)


def _write_tryton(definition: Definition, model: Tryton, settings: ConnectorSettings, credential: str) -> Writer:
    allowed = settings.outbound_hosts()
    return TrytonWriter(definition.name, model.base_url, model.database, credential, allowed=allowed)


def _read_http(definition: Definition, model: HttpJson, settings: ConnectorSettings, credential: str) -> Reader:
    return HttpJsonReader(definition.name, model, credential, allowed=settings.outbound_hosts())


def _write_http(definition: Definition, model: HttpJson, settings: ConnectorSettings, credential: str) -> Writer:
    return HttpJsonWriter(definition.name, model, credential, allowed=settings.outbound_hosts())


def _read_postgres(definition: Definition, model: PostgreSql, settings: ConnectorSettings, dsn: str) -> Reader:
    return PostgreSqlReader(definition.name, model, dsn)


def _write_postgres(definition: Definition, model: PostgreSql, settings: ConnectorSettings, dsn: str) -> Writer:
    return PostgreSqlWriter(definition.name, model, dsn)


def _nowhere(_model: Drill, _settings: ConnectorSettings) -> None:
    """It calls nobody."""


def _drill(definition: Definition, _model: Drill, _settings: ConnectorSettings, _credential: str) -> DrillTarget:
    return DrillTarget(definition.name)


KINDS: dict[str, Kind] = {
    "sample_crm": Kind(SampleCrm, _crm_host, _read_crm, _write_crm),
    "http_json": Kind(HttpJson, _base_host, _read_http, _write_http),
    "tryton": Kind(Tryton, _base_host, _read_tryton, _write_tryton),
    "postgresql": Kind(PostgreSql, _postgres_host, _read_postgres, _write_postgres),
    "drill": Kind(Drill, _nowhere, _drill, _drill, credentials=False),  # the database keeps it to the drills' tenant
}
