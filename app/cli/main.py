"""`mission-root`: the commands, and how every failure leaves: one sentence on stderr and an exit code.

Exit codes: 0 ok · 1 failed · 2 usage · 3 not found · 4 refused by policy · 5 conflict · 6 timeout · 7 unavailable
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_group

from app.cli.refusals import Failed
from app.embedded import CannotStart

# What is typed, and the function or group of commands in app/cli behind it, in the order of the help.
COMMANDS = {
    "up": "processes.up",
    "demo": "demo.demo",
    "console-link": "console.console_link",
    "explain": "explain.explain",
    "wait": "missions.wait",
    "whoami": "principals.whoami",
    "status": "operations.status",
    "doctor": "operations.doctor",
    "colony-kit": "kits.colony_kit",
    "root-kit": "kits.root_kit",
    "serve": "processes.serve",
    "registrar": "processes.registrar",
    "worker": "processes.worker",
    "executor": "processes.executor",
    "colony": "processes.colony",
    "crm": "processes.crm",
    "bootstrap": "processes.bootstrap",
    "migrate": "processes.migrate",
    "missions": "missions.app",
    "mission-types": "mission_types.app",
    "approvals": "approvals.app",
    "writebacks": "writebacks.app",
    "notices": "notices.app",
    "rules": "rules.app",
    "approvers": "approvers.app",
    "policies": "policies.app",
    "connectors": "connectors.app",
    "tool-layers": "tool_layers.app",
    "models": "models.app",
    "workspace": "workspace.app",
    "budgets": "budgets.app",
    "webhooks": "webhooks.app",
    "retention": "retention.app",
    "holds": "retention.holds",
    "artifacts": "artifacts.app",
    "ledger": "ledger.app",
    "replay": "replay.app",
    "drills": "drills.app",
    "release": "release.app",
    "identity": "identity.app",
    "tenants": "tenants.app",
    "principals": "principals.app",
    "keys": "keys.app",
}
PANELS = {
    **dict.fromkeys(("colony-kit", "root-kit"), "Conformance"),
    **dict.fromkeys(("serve", "registrar", "worker", "executor", "colony", "crm"), "Single processes"),
    **dict.fromkeys(("bootstrap", "migrate"), "Database"),
}


class Commands(Mapping[str, Any]):
    """COMMANDS by name, each imported and built when it is asked for: all of them take longer than most answers."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(".")
        found = getattr(import_module(f"app.cli.{module}"), attribute)
        alone = typer.Typer()
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=name)
        else:
            alone.command(name, rich_help_panel=PANELS.get(name))(found)
        return get_group(alone).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Group(TyperGroup):
    """The command `mission-root`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": Commands()})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


app = typer.Typer(
    cls=Group,
    name="mission-root",
    help="Missions for an agent colony: evidence checked, changes approved by humans, one ledger.",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused, 5 conflict, 6 timeout, 7 unavailable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def say_version(wanted: bool) -> None:
    if wanted:
        from app.build import name_of

        print(f"mission-root {name_of(os.environ.get('BUILD') or None)}")
        raise typer.Exit


@app.callback()
def everything(
    version: Annotated[
        bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say which build this is, and end.")
    ] = False,
) -> None:
    """Nothing by itself: it makes a group of `app`."""


def run() -> None:
    """The entry point of the script."""
    try:
        app()
    except Failed as failed:
        leave(failed.exit_code, str(failed), failed.document)
    except CannotStart as failed:
        leave(failed.exit_code, str(failed))
    except KeyboardInterrupt:
        leave(130)
    except BrokenPipeError:  # `mission-root … | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        leave(1)


def leave(code: int, sentence: str = "", document: dict[str, object] | None = None) -> NoReturn:
    """With --json the reason is a JSON document too, on stderr like the sentence it replaces."""
    if sentence and "--json" in sys.argv:
        sentence = json.dumps(document or {"title": sentence, "exit_code": code})
    elif sentence:
        sentence = f"mission-root: {sentence}"
    if sentence:
        print(sentence, file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    run()
