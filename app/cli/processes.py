"""Commands that run things here: the whole instance, one process of it, or a step on its database."""

import asyncio
import gc
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from app.cli import show
from app.cli.client import AsJson, Failed, emit

if TYPE_CHECKING:
    from app.settings import Settings

DataDir = Annotated[Path, typer.Option("--data-dir", help="Where everything is kept between two runs.")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port of the public API.")]


def up(
    port: Port = None,
    data_dir: DataDir = Path(".data"),
    colony_url: Annotated[
        str, typer.Option("--colony", metavar="URL", help="A colony of your own, instead of the reference colony.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine: PostgreSQL, root, worker, executor, colony and a sample CRM. Ctrl-C ends it."""
    with for_good():
        from app import supervisor

    elsewhere = _base_url(colony_url) if colony_url else None

    async def keep_up() -> None:
        async with supervisor.running(data_dir, port, show.aside, elsewhere) as instance:
            if as_json:
                emit(instance.describe())
            else:
                show.instance(instance.describe())
                show.line(f"Into the console, once and within five minutes: {await first_link(instance)}")
            await asyncio.Event().wait()

    supervisor.until_signalled(keep_up())


async def first_link(instance: Any) -> str:
    """A link into the console as the operator; `mission-root console-link` makes others."""
    from app.cli import console

    registrar = instance.folder.database_url("registrar")
    made = await asyncio.to_thread(console.make, registrar, instance.describe()["base_url"], "demo", "operator")
    return made["link"]


def serve() -> None:
    """The root's HTTP APIs: public, internal and metrics."""
    _run("app.main")


def worker() -> None:
    """Dispatches missions, watches leases, reviews: everything the root does in the background."""
    _run("app.worker")


def registrar() -> None:
    """Serves and writes who may act: tenants, principals, roles, keys, sessions. On a private address."""
    _run("app.registrar")


def executor() -> None:
    """Executes approved writebacks; the only process that may hold write credentials."""
    _run("app.executor")


def colony() -> None:
    """The reference colony."""
    _run("colony.main")


def crm() -> None:
    """The sample CRM that the demo reads and writes."""
    _run("sample_crm.main")


def bootstrap(as_json: AsJson = False) -> None:
    """Create or refresh the database roles; their passwords come from the role URLs in the environment."""
    from app.bootstrap import LOGIN_ROLES
    from app.bootstrap import bootstrap as make_roles

    with database_errors() as settings:
        admin = settings.secret("admin_database_url")
        # A role whose URL is not given here gets a password that nobody knows, until it is.
        passwords = {role: secrets.token_urlsafe(24) for role in LOGIN_ROLES}
        for role in LOGIN_ROLES:
            field = "database_url" if role == "api" else f"{role}_database_url"
            if getattr(settings, field, None) is not None:
                passwords[role] = unquote(urlsplit(settings.secret(field)).password or "") or passwords[role]
        database = urlsplit(admin).path.lstrip("/")
        asyncio.run(make_roles(admin, settings.database_role_prefix, passwords, database))
    roles = [f"{settings.database_role_prefix}_{role}" for role in ("owner", *LOGIN_ROLES)]
    emit({"roles": roles}) if as_json else show.line(f"Roles are up to date: {', '.join(roles)}.")


def migrate(as_json: AsJson = False) -> None:
    """Bring the database of ADMIN_DATABASE_URL to the newest schema."""
    from app.migrate import Unfit, upgrade

    with database_errors() as settings:
        try:
            at = upgrade(settings.secret("admin_database_url"), settings.database_role_prefix)
        except Unfit as other:
            raise Failed(f"{other}.", 1) from other
    emit({"head": at}) if as_json else show.line(f"The schema is up to date at {at}.")


def _base_url(text: str) -> str:
    from colony_client.contract import url_origin

    try:
        url_origin(text)
    except ValueError as wrong:
        raise Failed(f"--colony {wrong}.", 2) from None
    return text.rstrip("/")


def _run(module: str) -> None:
    from importlib import import_module

    with for_good():
        run: Callable[[], None] = import_module(module).run
    run()


@contextmanager
def for_good() -> Iterator[None]:
    """For the imports of a process that stays: nobody looks for garbage among them, neither now nor when it ends."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def database_errors(whose: str = "ADMIN_DATABASE_URL") -> Iterator["Settings"]:
    """The settings; what goes wrong with them or with the database leaves as one sentence."""
    import asyncpg
    from sqlalchemy.exc import DBAPIError

    from app.settings import Misconfigured, load

    try:
        yield load()
    except Misconfigured as problem:
        raise Failed(str(problem), 2) from problem
    except (OSError, TimeoutError) as problem:
        raise Failed(f"The database of {whose} cannot be reached: {problem}.", 7) from problem
    except (asyncpg.PostgresError, DBAPIError) as problem:
        raise Failed(f"PostgreSQL refused: {str(problem).splitlines()[0]}.", 1) from problem
