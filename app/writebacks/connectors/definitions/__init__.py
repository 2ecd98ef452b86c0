"""What a tenant says about a connector: what every definition shares, and the two that need little more than an address."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app import outbound
from app.http.edge import entry


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class BadDefinition(Exception):
    """The definition is none of its kind. errors: pointers into it, with what is wrong there."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(f"{errors[0]['pointer']}: {errors[0]['detail']}")
        self.errors = errors

    @classmethod
    def of(cls, refused: ValidationError) -> "BadDefinition":
        return cls([entry(("body", *one["loc"]), one["msg"]) for one in refused.errors()[:20]])


def endpoint(value: str) -> str:
    """A URL with nothing behind its path; whether its host may be called is asked later."""
    try:
        host = (urlsplit(value).hostname or "").lower()
        problem = outbound.unfit(value, frozenset({host}))
    except ValueError:
        problem = "is not a URL"
    if problem is not None:
        raise ValueError(problem)
    if "?" in value or "#" in value:
        raise ValueError("must have no query and no fragment")
    return value


def address(value: str) -> str:
    """A base URL: scheme, host and perhaps a path, and nothing that would end up in the middle of a request's URL."""
    return endpoint(value).rstrip("/")


def place(url: str) -> str:
    """`host:port` of a URL."""
    parts = urlsplit(url)
    return joined(parts.hostname or "", parts.port or outbound.PORTS.get(parts.scheme, 0))


def joined(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


BaseUrl = Annotated[str, Field(min_length=8, max_length=500), AfterValidator(address)]
ReadBy = Annotated[
    Literal["api", "executor"],
    Field(description="Who may read: api has a read-only credential; executor, when the target has no such account."),
]
VERIFY = "every changed field is read back after the change and compared byte for byte"
KindName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]


class Capabilities(BaseModel):
    """What a connector does, so that people can judge it before they rely on it."""

    read: str
    lists: bool
    version: str
    idempotency: str
    verify: str
    operations: dict[str, list[str]]


class Common(Strict):
    """description: words for people; changing them changes nothing about where bytes go."""

    description: str | None = Field(None, max_length=500)
    read_by: ReadBy = "api"

    def capabilities(self) -> Capabilities:
        raise NotImplementedError


class SampleCrm(Common):
    """The sample CRM. Without a base_url it is the one at CRM_BASE_URL."""

    base_url: BaseUrl | None = None

    def capabilities(self) -> Capabilities:
        return Capabilities(
            read=self.read_by,
            lists=True,
            version="an integer; If-Match guards every change",
            idempotency="Idempotency-Key; the target keeps a receipt for each key",
            verify=VERIFY,
            operations={"lead": ["update"], "activity": ["update"]},
        )


class Drill(Common):
    """The built-in target of drills, which calls nobody. Only the drills' own tenant may have it."""

    read_by: Literal["api"] = "api"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            read=self.read_by,
            lists=True,
            version="an integer; a change made for another is stale",
            idempotency="a receipt for each key, while the process lives",
            verify=VERIFY,
            operations={"drill": ["update"]},
        )


class Tryton(Common):
    """A Tryton server and the name of its database. Credentials are `login:password`."""

    base_url: BaseUrl
    database: str = Field(min_length=1, max_length=63)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            read=self.read_by,
            lists=True,
            version="_timestamp; Tryton refuses a change made for another",
            idempotency="none; Tryton's history tells whether the next revision is ours",
            verify=VERIFY,
            operations={"opportunity": ["update", "transition"], "party": []},
        )
