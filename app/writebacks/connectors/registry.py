"""Which connectors exist, and how a process gets a reader or a writer for one from its settings."""

from typing import Protocol

from pydantic import SecretStr

from app.writebacks.connectors import NotConfigured, NoWriteCredential, Reader, Writer
from app.writebacks.connectors.sample_crm import SampleCrmReader, SampleCrmWriter

NAMES = (SampleCrmReader.name,)


class ConnectorSettings(Protocol):
    """The part of the settings that connectors need; only the executor's environment fills the write token."""

    @property
    def crm_base_url(self) -> str | None: ...
    @property
    def crm_read_token(self) -> SecretStr | str | None: ...
    @property
    def crm_write_token(self) -> SecretStr | str | None: ...


def reader(name: str, settings: ConnectorSettings) -> Reader:
    """Raises NotConfigured when the connector is unknown or its address or read token is missing."""
    base_url = _address(name, settings)
    token = _plain(settings.crm_read_token)
    if not token:
        raise NotConfigured("CRM_READ_TOKEN is not set, so the CRM cannot be read.")
    return SampleCrmReader(base_url, token)


def writer(name: str, settings: ConnectorSettings) -> Writer:
    """Raises NoWriteCredential in every process that was not given the write token, which is all but the executor."""
    base_url = _address(name, settings)
    token = _plain(settings.crm_write_token)
    if not token:
        raise NoWriteCredential("CRM_WRITE_TOKEN is not set: this process may not change the CRM.")
    return SampleCrmWriter(base_url, token)


def _address(name: str, settings: ConnectorSettings) -> str:
    if name not in NAMES:
        raise NotConfigured(f"There is no connector {name!r}; there is {', '.join(NAMES)}.")
    if not settings.crm_base_url:
        raise NotConfigured("CRM_BASE_URL is not set.")
    return settings.crm_base_url


def _plain(token: SecretStr | str | None) -> str:
    return token.get_secret_value() if isinstance(token, SecretStr) else token or ""
