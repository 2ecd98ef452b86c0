"""What identity is asked and answers over HTTP."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
Kind = Literal["human", "service", "agent"]
State = Literal["active", "suspended"]


def in_reach(moment: datetime) -> datetime:
    if not EARLIEST <= moment <= LATEST:
        raise ValueError("must lie between the years 2000 and 2200")
    return moment


Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Moment = Annotated[AwareDatetime, AfterValidator(in_reach)]
RoleName = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern="^[a-z_]+$")]


def example(**body: JsonValue) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [body]})


class TenantAsk(BaseModel):
    """A tenant, and the human who will be its first admin."""

    model_config = example(name="acme", admin="Ada Admin")
    name: Name
    admin: Name


class TenantView(BaseModel):
    id: UUID
    name: str
    operator: bool
    state: State
    version: int
    suspended_at: str | None
    created_at: str


class NewTenant(TenantView):
    """A tenant with its first admin, whose key is shown in this answer only."""

    admin_id: UUID
    key_id: UUID
    secret: str | None = Field(None, description="Absent in a replay.")
    secret_already_shown: bool = False


class PrincipalAsk(BaseModel):
    """A human, or a service or agent with the principal that answers for it."""

    model_config = example(name="Olga Operator", kind="human")
    name: Name
    kind: Kind
    owner: UUID | None = Field(
        None, description="Who answers for a service or agent, and may not approve what it asks."
    )


class PrincipalView(BaseModel):
    id: UUID
    kind: Kind
    name: str
    owner: UUID | None
    state: State
    version: int
    suspended_at: str | None
    created_at: str


class GrantAsk(BaseModel):
    """A role, for good or for a time."""

    model_config = example(role="operator", expires_at="2099-12-31T00:00:00Z")
    role: RoleName
    starts_at: Moment | None = None
    expires_at: Moment | None = None


class DelegationAsk(BaseModel):
    """A role that the caller holds, passed on until expires_at, 31 days at most."""

    model_config = example(role="operator", expires_at="2099-12-31T00:00:00Z")
    role: RoleName
    starts_at: Moment | None = None
    expires_at: Moment


class GrantView(BaseModel):
    """delegated_from is the grant it was passed on from; when that one ends, so does this."""

    id: UUID
    principal_id: UUID
    role: str
    state: Literal["pending", "live", "expired", "revoked"]
    granted_by: UUID | None
    delegated_from: UUID | None
    granted_at: str
    starts_at: str
    expires_at: str | None
    revoked_at: str | None


class LinkAsk(BaseModel):
    """Who somebody is at the identity provider: iss and sub of their tokens, letter by letter."""

    model_config = example(issuer="https://id.example.com", subject="248289761001")
    issuer: Annotated[str, StringConstraints(min_length=8, max_length=500, pattern=r"^https?://[\x21-\x7e]+$")]
    subject: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class LinkView(BaseModel):
    id: UUID
    principal_id: UUID
    issuer: str
    subject: str
    linked_at: str
    unlinked_at: str | None


class KeyAsk(BaseModel):
    """A key for the caller, or for another principal when an admin asks."""

    model_config = example(expires_at="2099-12-31T00:00:00Z")
    principal_id: UUID | None = None
    expires_at: Moment | None = None


class RotateAsk(BaseModel):
    """How long the old key lives on beside the new one."""

    model_config = example(overlap_s=3600)
    overlap_s: int = Field(3600, ge=0, le=30 * 86_400)


class KeyView(BaseModel):
    """A key as lists show it: by its prefix. Nothing else of the secret is kept."""

    id: UUID
    principal_id: UUID
    prefix: str
    state: Literal["live", "expired", "revoked"]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class NewKeyView(KeyView):
    """A key at the only moment its secret is shown."""

    secret: str | None = Field(None, description="Absent in a replay.")
    secret_already_shown: bool = False


class SessionView(BaseModel):
    """A session at the only moment its secret is shown."""

    id: UUID
    tenant_id: UUID
    principal_id: UUID
    expires_at: str
    secret: str


class EndedView(BaseModel):
    """How many live sessions were ended."""

    ended: int


class CredentialView(BaseModel):
    id: UUID
    kind: Literal["api_key", "session"]
    expires_at: str | None


class WhoView(BaseModel):
    """Who the presented credential is, and what that principal may do now."""

    tenant_id: UUID
    principal_id: UUID
    name: str
    kind: Kind
    roles: list[str]
    actions: list[str]
    credential: CredentialView
    grants: list[GrantView]
