"""A tenant of its own in a walled database, its people, and the few verbs that put something before the wall."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.signed import public_bytes

OWNER = "mission_root_owner"
DENIED = "42501"  # insufficient_privilege: no grant, or row-level security says no
LEASE = timedelta(seconds=20)
SWITCH = "SELECT outcome FROM switch_connector($1, $2, $3, $4, 'as the test says')"

# name: kind, roles, owner
PEOPLE: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "anna": ("human", ("operator",), None),
    "ben": ("human", ("operator",), None),
    "cora": ("human", ("operator",), None),
    "adam": ("human", ("admin", "auditor", "submitter", "policy_owner"), None),
    "asker": ("service", ("submitter",), None),
    "agent": ("agent", ("submitter",), "anna"),
    "subagent": ("agent", ("submitter",), "agent"),
    "machine": ("service", ("operator",), None),
    "robot": ("agent", ("operator",), None),
    "gwen": ("human", ("break_glass",), None),
    "gus": ("human", ("break_glass", "operator"), None),
    "paul": ("human", ("product_owner", "operator"), None),
    "rita": ("human", ("release_owner",), None),
}
# connector: (required, deny_threshold, life, undo_window); any other connector has the rules every tenant is born with
RULES = {
    "crm": (1, 1, "1 hour", "0"),
    "two": (2, 1, "1 hour", "0"),
    "veto": (2, 2, "1 hour", "0"),
    "brief": (1, 1, "1 second", "0"),
    "slow": (1, 1, "1 hour", "1 hour"),
}


@dataclass(frozen=True)
class Asked:
    """A writeback that waits for humans."""

    mission: UUID
    writeback: UUID
    approval: UUID
    payload: bytes
    sha256: bytes
    requested_by: UUID


class Ground:
    """url(role) reaches one database as a role; `admin` is the superuser."""

    def __init__(self, url: Callable[[str], str]) -> None:
        self.url = url
        self.stack = AsyncExitStack()
        self.held: dict[str, asyncpg.Connection] = {}
        self.tenant = uuid4()
        self.connectors: dict[str, int] = {}  # name: version
        self.ids = {name: uuid4() for name in PEOPLE}
        self.secrets = {name: f"secret-of-{name}-{uuid4()}" for name in PEOPLE}

    async def connect(self, role: str) -> asyncpg.Connection:
        """A connection of its own, closed with the ground."""
        connection = await asyncpg.connect(self.url(role))
        self.stack.push_async_callback(connection.close, timeout=2)
        return connection

    async def of(self, role: str) -> asyncpg.Connection:
        """The ground's connection as a role."""
        if role not in self.held:
            self.held[role] = await self.connect(role)
        return self.held[role]

    @asynccontextmanager
    async def within(
        self, role: str, tenant: UUID | None = None, isolation: Any = None, connection: asyncpg.Connection | None = None
    ) -> AsyncIterator[asyncpg.Connection]:
        """A transaction of a role that has entered a tenant (this ground's when none is named)."""
        connection = connection or await self.of("admin" if role == "owner" else role)
        async with connection.transaction(isolation=isolation):
            if role == "owner":
                await connection.execute(f"SET LOCAL ROLE {OWNER}")
            await connection.execute("SELECT set_config('app.tenant', $1, true)", str(tenant or self.tenant))
            yield connection

    async def run(self, role: str, statement: str, *args: Any, tenant: UUID | None = None) -> list[asyncpg.Record]:
        async with self.within(role, tenant) as connection:
            return await connection.fetch(statement, *args)

    async def value(self, role: str, statement: str, *args: Any, tenant: UUID | None = None) -> Any:
        [row] = await self.run(role, statement, *args, tenant=tenant)
        return row[0]

    async def refused(self, why: str, role: str, statement: str, *args: Any, tenant: UUID | None = None) -> str:
        """Checks that a statement fails for a reason: an SQLSTATE, or the name of a constraint. Answers the message."""
        try:
            await self.run(role, statement, *args, tenant=tenant)
        except asyncpg.PostgresError as error:
            assert why in (error.sqlstate, getattr(error, "constraint_name", None)), f"{error.sqlstate} {error}"
            return str(error)
        raise AssertionError(f"nothing refused role {role}: {statement}")

    async def lay(self) -> None:
        """Makes the tenant, its people and its further rules, as the registrar would."""
        async with self.within("registrar") as registrar:
            await registrar.execute("INSERT INTO tenant (id, name) VALUES ($1, $2)", self.tenant, f"t-{self.tenant}")
            ids = self.ids
            await registrar.executemany(
                "INSERT INTO principal (tenant, id, kind, name, owner) VALUES ($1, $2, $3, $4, $5)",
                [(self.tenant, ids[n], kind, n, ids[o] if o else None) for n, (kind, _, o) in PEOPLE.items()],
            )
            await registrar.executemany(
                "INSERT INTO role_grant (tenant, principal, role) VALUES ($1, $2, $3)",
                [(self.tenant, ids[name], role) for name, (_, roles, _) in PEOPLE.items() for role in roles],
            )
            await registrar.executemany(
                "INSERT INTO api_key (tenant, principal, prefix, secret_sha256) VALUES ($1, $2, 'mr_prefix', $3)",
                [(self.tenant, ids[n], hashlib.sha256(s.encode()).digest()) for n, s in self.secrets.items()],
            )
        for connector, (required, deny_threshold, life, undo_window) in RULES.items():
            await self.rule(
                connector, required=required, deny_threshold=deny_threshold, life=life, undo_window=undo_window
            )

    async def rule(self, connector: str, rule: UUID | None = None, version: int | None = None, **more: Any) -> UUID:
        """A rule for a connector, or the version after one, as its policy owner writes it."""
        rule = rule or uuid4()
        body = {
            "subject": "writeback", "connector": connector, "operation": "*", "risk": "*", "required": 1, "deny_threshold": 1,
            "approver_role": "operator", "life": "1 hour", "undo_window": "0", "comment_required": False,
            "may_escalate_to": [], "hops": [], "break_glass": False,
        } | more  # fmt: skip
        [row] = await self.run(
            "api", "SELECT * FROM put_rule($1, $2, $3, $4, $5)",
            self.tenant, self.secrets["adam"], rule, version, json.dumps(body),
        )  # fmt: skip
        assert row["outcome"] in ("created", "changed"), dict(row)
        return rule

    async def key(self, who: str) -> None:
        """An API key for a principal that was made later, with the secret the ground knows it by."""
        await self.run(
            "registrar", "INSERT INTO api_key (tenant, principal, prefix, secret_sha256) VALUES ($1, $2, 'mr_prefix', $3)",
            self.tenant, self.ids[who], hashlib.sha256(self.secrets[who].encode()).digest(),
        )  # fmt: skip

    async def mission(self, by: str = "asker", risk: str = "low", **more: Any) -> UUID:
        mission = uuid4()
        columns = {
            "tenant": self.tenant, "id": mission, "mission_type": "oracle_advisory", "type_version": 1, "mode": "assisted",
            "state": "awaiting_approval", "origin_surface": "test", "risk_level": risk, "sensitivity_class": "internal",
            "requested_by": self.ids[by], "workspace": "default", "contract_hash": bytes(32),
            "budget_time_ms": 1000, "budget_tokens": 1, "budget_cost_usd": 1, "labels": '{"laid": "ground"}',
        } | more  # fmt: skip
        await self.run(
            "owner", insert("mission", columns), *columns.values()
        )  # as take_in() does, which has its rights
        return mission

    async def proposal(self, mission: UUID, schema: str = "writeback_proposal") -> UUID:
        artifact = uuid4()
        await self.run(
            "api",
            """INSERT INTO artifact (tenant, id, mission, attempt, schema_name, schema_version, producer, bytes)
               VALUES ($1, $2, $3, 1, $4, '1', 'test', $5)""",
            self.tenant, artifact, mission, schema, f'{{"a":"{artifact}"}}'.encode(),
        )  # fmt: skip
        return artifact

    async def connector(self, name: str, **definition: Any) -> int:
        """A connector of the tenant, or its next version when something is said of it; answers which version there is."""
        if name not in self.connectors or definition:
            [row] = await self.run(
                "api", "SELECT * FROM put_connector($1, $2, $3, $4, 'sample_crm', $5)",
                self.tenant, self.secrets["adam"], name, self.connectors.get(name), json.dumps(definition),
            )  # fmt: skip
            assert row["outcome"] in ("created", "changed"), dict(row)
            self.connectors[name] = row["version"]
        return self.connectors[name]

    async def propose(self, **more: Any) -> tuple[UUID, dict[str, Any]]:
        """A mission and its writeback, not yet before anybody; more replaces columns. Answers id and columns.

        judged: the risk that policy was asked about; empty when it was not asked.
        """
        requested_by, judged = more.pop("by", "asker"), more.pop("judged", "high")
        payload_of = more.pop("connector", "crm")
        await self.connector(payload_of)
        mission = more.pop("mission", None) or await self.mission(requested_by, more.pop("mission_risk", "low"))
        writeback = uuid4()
        columns: dict[str, Any] = {
            "tenant": self.tenant, "id": writeback, "mission": mission, "requested_by": self.ids[requested_by],
            "risk": "low", "payload": payload(payload_of),
        } | more  # fmt: skip
        columns["proposal"] = more.get("proposal") or await self.proposal(mission)
        await self.run("api", insert("writeback", columns), *columns.values())
        if judged:
            await self.judge(mission, columns["payload"], judged)
        return writeback, columns

    async def judge(self, mission: UUID, about: bytes, risk: str, effect: str = "allow") -> None:
        """Policy is asked about a payload, as the worker asks it, and says so."""
        document = json.loads(about)
        inputs = json.dumps({"context": {"risk_level": risk}}).encode()
        columns = {
            "tenant": self.tenant, "id": uuid4(), "mission": mission, "principal": self.ids["asker"], "action": "writeback.propose",
            "resource": f"{document.get('connector')}.{document.get('operation')}", "effect": effect, "rule": "test",
            "policy_version": "test", "reason": "as the test says", "inputs": inputs,
        }  # fmt: skip
        await self.run("api", insert("policy_decision", columns), *columns.values())

    async def ask(self, connector: str = "crm", by: str = "asker", **more: Any) -> Asked:
        """A writeback with its approval open."""
        writeback, columns = await self.propose(connector=connector, by=by, **more)
        digest = hashlib.sha256(columns["payload"]).digest()
        asked = Asked(columns["mission"], writeback, uuid4(), columns["payload"], digest, columns["requested_by"])
        await self.open(asked)
        return asked

    async def open(self, asked: Asked, **more: Any) -> None:
        columns = {
            "tenant": self.tenant, "id": asked.approval, "mission": asked.mission, "subject": "writeback",
            "writeback": asked.writeback, "requested_by": asked.requested_by, "payload_sha256": asked.sha256,
        } | more  # fmt: skip
        await self.run("api", insert("approval", columns), *columns.values())

    async def decide(
        self, asked: Asked, who: str | None, verdict: str | None = "approve", comment: str | None = "seen", **more: Any
    ) -> str:
        """A decision as the api role hands it over; answers the outcome."""
        values = {"approval": asked.approval, "version": await self.version(asked), "sha256": asked.sha256} | more
        outcome: str = await self.value(
            "api", "SELECT outcome FROM decide($1, $2, $3, $4, $5, $6, $7, $8)", self.tenant, values["approval"],
            self.secrets.get(who, who) if who else None, values["version"], values["sha256"], verdict, comment,
            values.get("signature"),
        )  # fmt: skip
        return outcome

    async def version(self, asked: Asked) -> int:
        return await self.value("admin", "SELECT version FROM approval WHERE id = $1", asked.approval)

    async def approved(self, connector: str = "crm", by: str = "asker", **more: Any) -> Asked:
        """A writeback that may be claimed at once."""
        asked = await self.ask(connector, by, **more)
        assert await self.decide(asked, "cora") == "approved"
        return asked

    async def claim(self, asked: Asked, lease: timedelta | None = LEASE) -> asyncpg.Record:
        [row] = await self.run("executor", "SELECT * FROM claim($1, $2, $3)", self.tenant, asked.writeback, lease)
        return row

    async def settle(
        self, asked: Asked, fence: int | None, state: str | None, observed: bytes | None = None, receipt: bytes = b"{}"
    ) -> bool:
        return await self.value(
            "executor", "SELECT settle($1, $2, $3, $4, $5, $6)", self.tenant, asked.writeback, fence, state, receipt, observed
        )  # fmt: skip

    async def close(self, asked: Asked, state: str | None = "cancelled", who: str | None = "cora") -> str | None:
        return await self.value(
            "api", "SELECT close_approval($1, $2, $3, $4)", self.tenant, asked.approval, state,
            self.secrets.get(who, who) if who else None,
        )  # fmt: skip

    async def state(self, asked: Asked) -> str:
        return await self.value("admin", "SELECT state FROM writeback_state WHERE id = $1", asked.writeback)

    async def halt(self, connector: str = "crm", halted: bool = True) -> None:
        if connector != "*":
            await self.connector(connector)
        said = await self.value("api", SWITCH, self.tenant, self.secrets["adam"], connector, halted)
        assert said in ("halted", "resumed", "unchanged"), said

    async def session(self, who: str, ends: timedelta = timedelta(hours=1)) -> str:
        """A session of somebody, as the registrar opens it; answers its secret."""
        secret = f"session-of-{who}-{uuid4()}"
        await self.run(
            "registrar",
            """INSERT INTO session (tenant, principal, secret_sha256, origin, expires_at)
               VALUES ($1, $2, $3, 'oidc', clock_timestamp() + $4)""",
            self.tenant, self.ids[who], hashlib.sha256(secret.encode()).digest(), ends,
        )  # fmt: skip
        return secret

    async def approver_key(self, who: str, confirmed: bool = True) -> tuple[UUID, Ed25519PrivateKey]:
        """A signing key of somebody, asked for by them and confirmed by an admin."""
        private = Ed25519PrivateKey.generate()
        key: UUID = await self.value(
            "registrar", "SELECT request_approver_key($1, $2, $3, $4)",
            self.tenant, self.secrets[who], self.ids[who], public_bytes(private),
        )  # fmt: skip
        if confirmed:
            confirm = "SELECT confirm_approver_key($1, $2, $3)"
            assert await self.value("registrar", confirm, self.tenant, self.secrets["adam"], key) is True
        return key, private

    async def risk_floor(self, connector: str, operation: str, risk: str, who: str = "adam") -> int:
        return await self.value(
            "registrar", "SELECT put_risk_floor($1, $2, $3, $4, $5)",
            self.tenant, self.secrets[who], connector, operation, risk,
        )  # fmt: skip

    async def webhook(self) -> UUID:
        """A webhook with one secret."""
        webhook = uuid4()
        await self.run("api", """INSERT INTO webhook (tenant, id, url, types, created_by, after_xid, after_id)
                       VALUES ($1, $2, 'https://example.com', '{*}', $3, '0', 0)""", self.tenant, webhook, self.ids["adam"])  # fmt: skip
        await self.run("api", "INSERT INTO webhook_secret (tenant, id, webhook, kind, sealed) VALUES ($1, $2, $3, 'v1', $4)",
                       self.tenant, uuid4(), webhook, bytes(60))  # fmt: skip
        return webhook

    async def drills(self) -> UUID:
        """The tenant of the drills, of which a database has one; made when it is not there."""
        admin = await self.of("admin")
        there: UUID | None = await admin.fetchval("SELECT id FROM tenant WHERE drills")
        if there is None:
            there = uuid4()
            insert_it = "INSERT INTO tenant (id, name, drills) VALUES ($1, 'drills', true)"
            await self.run("admin", insert_it, there, tenant=there)
        return there

    async def revoke(self, who: str, role: str = "operator") -> None:
        await self.run(
            "registrar",
            """UPDATE role_grant SET revoked_at = clock_timestamp()
               WHERE tenant = $1 AND principal = $2 AND role = $3 AND revoked_at IS NULL""",
            self.tenant, self.ids[who], role,
        )  # fmt: skip

    async def end_mission(self, asked: Asked, state: str) -> None:
        await self.run(
            "api",
            "UPDATE mission SET state = $3, closed_at = clock_timestamp() WHERE tenant = $1 AND id = $2",
            self.tenant, asked.mission, state,
        )  # fmt: skip

    async def overtaken(self, first: tuple[str, str, tuple[Any, ...]], then: Coroutine[Any, Any, Any]) -> Any:
        """What `then` answers when it starts while a first statement (role, statement, args) is not committed, and waits.

        `then` works on other connections than the first statement's.
        """
        role, statement, args = first
        async with self.within(role, connection=await self.connect("admin" if role == "owner" else role)) as connection:
            await connection.execute(statement, *args)
            waiting = asyncio.create_task(then)
            await self.somebody_waits()
        return await waiting

    async def somebody_waits(self) -> None:
        """Until a session of this database waits for another's lock."""
        admin = await self.connect("admin")  # its own: the ground's may be in use by what is waited for
        waiting = """SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'"""
        for _ in range(200):
            if await admin.fetchval(waiting):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("nothing waits")


def payload(connector: str = "crm", **more: Any) -> bytes:
    """The canonical bytes of a change."""
    document = {
        "changes": {"priority": "high"},
        "connector": connector,
        "expected_version": "1",
        "operation": "update",
        "target": {"id": "L-1", "kind": "lead"},
    } | more
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def insert(table: str, columns: dict[str, Any]) -> str:
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"


@asynccontextmanager
async def laid(url: Callable[[str], str]) -> AsyncIterator[Ground]:
    """A ground to test on, closed afterwards."""
    made = Ground(url)
    async with made.stack:
        await made.lay()
        yield made
