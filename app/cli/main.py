"""`mission-root`: the commands, and how every failure leaves: one sentence on stderr and an exit code.

Exit codes: 0 ok · 1 failed · 2 usage · 3 not found · 4 refused by policy · 5 conflict · 6 timeout · 7 unavailable
"""

import json
import os
import sys
from typing import NoReturn

import typer

from app.cli import (
    approvals,
    approvers,
    artifacts,
    budgets,
    connectors,
    console,
    demo,
    drills,
    explain,
    identity,
    keys,
    kits,
    ledger,
    mission_types,
    missions,
    models,
    notices,
    operations,
    policies,
    principals,
    processes,
    release,
    replay,
    retention,
    rules,
    tenants,
    tool_layers,
    webhooks,
    workspace,
    writebacks,
)
from app.cli.client import Failed
from app.embedded import CannotStart

app = typer.Typer(
    name="mission-root",
    help="Missions for an agent colony: evidence checked, changes approved by humans, one ledger.",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused, 5 conflict, 6 timeout, 7 unavailable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(processes.up)
app.command()(demo.demo)
app.command()(console.console_link)
app.command()(explain.explain)
app.command("wait")(missions.wait)
app.add_typer(missions.app, name="missions")
app.add_typer(mission_types.app, name="mission-types")
app.add_typer(approvals.app, name="approvals")
app.add_typer(writebacks.app, name="writebacks")
app.add_typer(notices.app, name="notices")
app.add_typer(rules.app, name="rules")
app.add_typer(approvers.app, name="approvers")
app.add_typer(policies.app, name="policies")
app.add_typer(connectors.app, name="connectors")
app.add_typer(tool_layers.app, name="tool-layers")
app.add_typer(models.app, name="models")
app.add_typer(workspace.app, name="workspace")
app.add_typer(budgets.app, name="budgets")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(retention.app, name="retention")
app.add_typer(retention.holds, name="holds")
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(ledger.app, name="ledger")
app.add_typer(replay.app, name="replay")
app.add_typer(drills.app, name="drills")
app.add_typer(release.app, name="release")
app.add_typer(identity.app, name="identity")
app.add_typer(tenants.app, name="tenants")
app.add_typer(principals.app, name="principals")
app.add_typer(keys.app, name="keys")
app.command()(principals.whoami)
app.command()(operations.status)
app.command()(operations.doctor)
for kit in (kits.colony_kit, kits.root_kit):
    app.command(rich_help_panel="Conformance")(kit)
for process in (
    processes.serve,
    processes.registrar,
    processes.worker,
    processes.executor,
    processes.colony,
    processes.crm,
):
    app.command(rich_help_panel="Single processes")(process)
for step in (processes.bootstrap, processes.migrate):
    app.command(rich_help_panel="Database")(step)


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
