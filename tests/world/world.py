"""The root in a test: its apps, its people, its worker and its executor."""

import asyncio
import base64
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app import identity, work
from app.db import Database
from app.executor import Executor
from app.http.serving import opened
from app.ledger.keys import public_text, signer
from app.main import Root, internal_app, public_app
from app.registrar import Registrar, registrar_app
from app.settings import Settings
from app.worker import VERBS, Worker
from colony_client.client import ColonyClient
from tests.world.colony import ScriptedColony

KEYS = tuple(identity.DEMO_PRINCIPALS)
COLONY_KEY = "local:colony-secret-of-the-tests"
SIGNING_KEY = "one:signing-secret-of-the-tests"
REGISTRAR_KEY = "one:registrar-secret-of-the-tests"
TRANSFER_KEY = f"tests:{base64.b64encode(b't' * 32).decode()}"
RELEASE_KEYS = {
    name: f"{name}-1:{base64.b64encode(name[0].encode() * 32).decode()}" for name in ("local", "staging", "production")
}
READ_TOKEN, WRITE_TOKEN = "crm-read-token-of-tests", "crm-write-token-of-tests"


@dataclass(frozen=True)
class Person:
    """A principal of the demo tenant, with a client that speaks with their key."""

    name: str
    key: str
    http: httpx.AsyncClient


class Given(Settings):
    """Settings of what a test gives, and of nothing else: the environment is not searched for two hundred names each time."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class World:
    """Everything a test needs, closed in the right order."""

    def __init__(self, url: Callable[[str], str], **settings: Any) -> None:
        self.url = url
        self.more = settings
        self.stack = AsyncExitStack()
        self.people: dict[str, Person] = {}
        self.crm_base_url: str | None = None

    def settings(self, **more: Any) -> Settings:
        environment = (self.more | more).get("environment", "local")
        values: dict[str, Any] = {
            "_env_file": None,
            "database_url": self.url("api"),
            "worker_database_url": self.url("worker"),
            "reader_database_url": self.url("reader"),
            "colony_service_api_key": COLONY_KEY,
            "root_signing_key": SIGNING_KEY,
            "registrar_key": REGISTRAR_KEY,
            "callback_base_url": "http://root",
            "colony_service_base_url": "http://colony",
            "crm_base_url": self.crm_base_url,
            "crm_read_token": READ_TOKEN,
            "webhook_sealing_key": "one:sealing-secret-of-the-tests",
            "transfer_signing_key": TRANSFER_KEY,
            "release_signing_key": RELEASE_KEYS[environment],
            "release_trusted_keys": ",".join(
                public_text(signer(key).public()) for place, key in RELEASE_KEYS.items() if place != environment
            ),
            "outbound_allowed_hosts": "127.0.0.1",
            "database_pool_size": 5,
            "component_look_s": 3600,  # a test that wants a look takes it
            "auth_failures_per_minute": 1_000_000,  # a test that guesses on purpose sets its own
        }
        return Given(**(values | self.more | more))

    async def open(self, keys: dict[str, str] | None = None) -> None:
        """keys are those of the demo tenant's people where it is there already."""
        if keys is None:
            keys = await identity.seed_demo(self.url("registrar"))
        self.root = Root(self.settings())
        self.public, self.internal = public_app(self.root), internal_app(self.root)
        await self.stack.enter_async_context(opened(self.root, self.public))
        await self.with_registrar()
        self.colony = ScriptedColony(self.root.colony_keys)
        self.colony.connect(self.internal)
        self.worker = Worker(self.settings())
        self.worker.colony.client = ColonyClient(
            "http://colony", self.root.colony_keys, timeout_s=2, transport=httpx.ASGITransport(self.colony.app)
        )
        self.root.colony = self.worker.colony.client
        for app in (self.public, self.internal):
            app.state.colony = self.worker.colony.client
        self.worker.root = httpx.AsyncClient(transport=httpx.ASGITransport(self.public))
        self.worker.colony.component.stays_open = type(self.worker.colony.component.stays_open)(0)
        for name, key in keys.items():
            self.people[name] = Person(name, key, self.client(key))
        self.anybody = self.client(None)
        self.inside = httpx.AsyncClient(transport=httpx.ASGITransport(self.internal), base_url="http://root")

    async def with_registrar(self, **more: Any) -> Registrar:
        """The registrar behind the public API, in this process; called again, another one takes its place."""
        settings = self.settings(registrar_database_url=self.url("registrar"), **more)
        self.registrar = Registrar(settings)
        app = registrar_app(self.registrar)
        await self.stack.enter_async_context(opened(self.registrar, app))
        self.registrar_app = app
        self.root.upstream.http = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False))
        return self.registrar

    def client(self, key: str | None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.public, raise_app_exceptions=False),
            base_url="http://root.test",
            headers=headers,
        )

    async def close(self) -> None:
        for person in self.people.values():
            await person.http.aclose()
        await self.worker.database.close()
        await self.stack.aclose()

    def __getattr__(self, name: str) -> httpx.AsyncClient:
        """world.submitter, world.operator, … are clients with that person's key."""
        people = self.__dict__.get("people", {})
        if name in people:
            return people[name].http
        raise AttributeError(name)

    async def connect(self, role: str) -> asyncpg.Connection:
        """A plain connection as a database role (`admin` is the superuser), closed with the world."""
        connection = await asyncpg.connect(self.url(role))
        self.stack.push_async_callback(connection.close)
        return connection

    async def tenant(self) -> UUID:
        connection = await self.connect("admin")
        found: UUID = await connection.fetchval("SELECT id FROM tenant WHERE name = 'demo'")
        return found

    async def another_tenant(self, name: str = "other") -> Person:
        """A second tenant with one person who is submitter and operator there."""
        database = Database(self.url("registrar"), pool_size=2)
        async with database.write() as session:
            await identity.create_tenant(session, name)
            principal = await identity.create_principal(session, "stranger", "human")
            for role in (
                "submitter", "operator", "auditor", "product_owner", "policy_owner", "release_owner", "admin", "break_glass",
            ):  # fmt: skip
                await identity.grant_role(session, principal, role)
            key = await identity.issue_key(session, principal)
        await database.close()
        person = Person(name, key.secret, self.client(key.secret))
        self.people[name] = person
        return person

    async def run_work(self, *kinds: str, rounds: int = 20) -> int:
        """Does all worker work that is due, until nothing is; answers how many items that were. kinds keeps to some."""
        wanted, done = list(kinds or (*VERBS, "dispatch", "replay", "review", "attempt_timer", "colony_cancel")), 0
        for _ in range(rounds):
            items, _ = await work.turn(self.worker.database, wanted, 32, self.root_lease())
            if not items:
                return done
            done += len(items)
            dispatches = [item for item in items if item.kind == "dispatch"]
            if dispatches:
                await self.worker.dispatch(dispatches)
            reviews = [item for item in items if item.kind == "review"]
            if reviews:
                await self.worker.review(reviews)
                await self.worker.looked()
            for item in items:
                if item.kind in VERBS:
                    await self.worker.guarded(self.worker.verb, item)
                elif item.kind == "replay":
                    await self.worker.guarded(self.worker.play, item)
                elif item.kind == "liveness":
                    await self.worker.guarded(self.worker.reconcile, item)
                elif item.kind == "release_check":
                    await self.worker.guarded(self.worker.check_release, item)
                elif item.kind == "tool_check":
                    await self.worker.guarded(self.worker.check_tools, item)
                elif item.kind not in ("dispatch", "review"):
                    await self.worker.guarded(self.worker.call, item)
        return done

    @staticmethod
    def root_lease() -> Any:
        from datetime import timedelta

        return timedelta(seconds=30)

    async def make_due(self, kind: str | None = None) -> None:
        """Time passes for work rows: everything waiting is due now."""
        connection = await self.connect("admin")
        await connection.execute(
            "UPDATE work SET next_at = now(), lease_until = NULL WHERE $1::text IS NULL OR kind = $1", kind
        )

    async def create(self, **ask: Any) -> dict[str, Any]:
        """A mission of the submitter, accepted."""
        body = {"mission_type": "oracle_advisory", "user_goal": "What does the release still need?"} | ask
        answer = await self.submitter.post("/v1/missions", json=body)
        assert answer.status_code == 202, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def dispatch(self, **ask: Any) -> Any:
        """A mission that the scripted colony has taken; answers its dispatch."""
        made = await self.create(**ask)
        await self.run_work("dispatch")
        found = self.colony.last()
        assert str(found.mission_id) == made["id"]
        return found

    async def mission(self, id: Any) -> dict[str, Any]:
        answer = await self.submitter.get(f"/v1/missions/{id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def facts(self, id: Any) -> list[dict[str, Any]]:
        """All facts of a subject, whatever the horizon."""
        connection = await self.connect("admin")
        rows = await connection.fetch("SELECT seq, type, actor, convert_from(body, 'UTF8')::json::text AS body FROM ledger "
                                      "WHERE subject = $1 ORDER BY seq", UUID(str(id)))  # fmt: skip
        return [dict(row) for row in rows]

    async def with_crm(self, failures: Any = None) -> str:
        """Starts a real sample CRM in this process (its own port) and connects the root and an executor to it.

        failures: a sample_crm.service.Failures through which a test makes it misbehave.
        """
        from sample_crm.service import create_app
        from sample_crm.settings import Settings as CrmSettings

        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        app = create_app(
            CrmSettings(port=1, data=Path(folder) / "crm.sqlite", read_token=READ_TOKEN, write_token=WRITE_TOKEN),  # type: ignore[call-arg]
            failures,
        )
        self.crm_base_url = await self.stack.enter_async_context(served(app))
        settings = self.settings()
        for public in (self.public, self.internal):
            public.state.settings = settings
        self.worker.settings = settings
        return self.crm_base_url

    def executor(self, **more: Any) -> Executor:
        """An executor that holds the write credential; tests call its execute() for each item. more: other settings."""
        values: dict[str, Any] = {
            "executor_database_url": SecretStr(self.url("executor")),
            "crm_base_url": self.crm_base_url,
            "crm_write_token": SecretStr(WRITE_TOKEN),
        }
        made = Executor(Given(_env_file=None, **(values | more)))
        self.stack.push_async_callback(made.database.close)
        return made

    async def run_executor(self, executor: Executor | None = None) -> int:
        """Carries out everything that is due for the executor."""
        executor = executor or self.executor()
        done = 0
        while items := await work.take(executor.database, "execute", 8, self.root_lease()):
            for item in items:
                await executor.guarded(item)
            done += len(items)
        return done

    async def no_undo_window(self) -> None:
        """New approvals of this tenant run at once after the decision."""
        connection = await self.connect("admin")
        await connection.execute(
            """INSERT INTO approval_rule (tenant, id, version, subject, connector, operation, risk, required, life, undo_window)
               SELECT tenant, id, max(version) + 1, subject, connector, operation, risk, required, life, '0' FROM approval_rule
               WHERE NOT break_glass GROUP BY tenant, id, subject, connector, operation, risk, required, life"""
        )


@asynccontextmanager
async def lifespan(app: FastAPI) -> Any:
    async with app.router.lifespan_context(app):
        yield


@asynccontextmanager
async def served(app: Any) -> Any:
    """Serves an app on a free port of 127.0.0.1 while the block runs; gives its base URL."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False))
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task
