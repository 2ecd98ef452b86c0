"""Drops the wall's guards one at a time, each in a copy of the schema, and asks whether any test of this folder notices.

    python -m tests.walls.mutate [--only TEXT] [--jobs N]

Whoever noticed a mutation last time is asked first: noticed.txt remembers, and a whole run writes it anew. It only saves
time; a wrong line costs one test more.

Exits 0 when at least 95 % were noticed and every survivor is written down in REDUNDANT with the layer that backs it: with both
gone, somebody noticed.
"""

import argparse
import asyncio
import importlib
import inspect
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import asyncpg

from app.bootstrap import LOGIN_ROLES, bootstrap
from app.embedded import ephemeral
from app.migrate import upgrade
from tests.conftest import PREFIX, TEMPLATE, Cluster
from tests.walls.conftest import copy, drop
from tests.walls.ground import Ground, laid
from tests.walls.test_constraints import WALL

MODULES = (
    "walls.test_what_is_approved", "walls.test_who_decides", "walls.test_execution", "walls.test_immutable",
    "walls.test_constraints", "walls.test_tenants", "walls.test_proof", "walls.test_delegation",
    "walls.test_policies", "walls.test_webhooks", "walls.test_connectors", "ledger.test_facts", "budgets.test_guards",
    "walls.test_ladder", "walls.test_interventions", "walls.test_intake", "walls.test_tool_layers", "walls.test_models",
    "walls.test_questions", "walls.test_console", "walls.test_release", "walls.test_retention",
    "walls.test_vouching",
)  # fmt: skip
CATALOG = ("walls.test_catalog", "walls.test_roles")
# A list of what there is notices everything and proves nothing.
LISTS = {"test_every_constraint_of_the_wall_has_its_row_above"}
# Functions that guard: their refusals, forced values, conditions, checks and locks are taken away one by one.
GUARDS = (
    "guard_role_grant", "guard_delegation", "guard_tenant", "guard_principal", "guard_api_key", "guard_session", "guard_oidc_identity",
    "principal_of_subject", "taking_part", "took_part", "chain_fact", "guard_mission", "guard_writeback", "guard_approval",
    "guard_decision", "guard_execution", "require_present", "require_tenant", "entitled", "owns", "principal_of", "authenticate", "decide",
    "close_approval", "claim", "settle", "vouch", "finish_executor_work", "order_switch", "take_work",
    "refuse_unproved", "guard_approver_key", "presenter", "request_approver_key", "confirm_approver_key",
    "revoke_approver_key", "approver_keys", "put_risk_floor", "waive_signatures", "raised_risk", "standing_risk", "signed_decisions",
    "guard_rule",
    "restore_executor_work", "put_connector", "switch_connector", "connector_account", "ask_connector_read", "connector_read_of",
    "answer_connector_read", "put_tool_layer", "switch_tool_layer", "note_tool_layer", "guard_tool_layer_state",
    "switch_model_provider", "note_model_use",
    "guard_budget_reservation", "guard_budget_account", "move_budget", "reserve_budget", "end_budget", "settle_budget", "release_budget",
    "spend_budget", "hold_for_mission", "let_go_of_missions", "put_budget_limits", "take_tokens", "put_policy",
    "guard_webhook", "guard_webhook_secret", "guard_webhook_delivery", "waiting_webhooks",
    "is_ladder", "guard_notice", "entitled_to", "votes", "stands_for", "lay_ladder", "give_notice", "next_step", "climb",
    "restore_approval_timers", "see_notice", "break_glass", "withdraw", "ask_again", "revise", "renew", "stricter", "put_rule", "take_in",
    "hand_on", "has_a_say", "guard_question", "ask_question", "answer_question", "tell_of_question", "line_of", "live_line", "handed_by",
    "holders", "deciders", "answerers",
    "guard_connector", "guard_bytes", "guard_taped", "guard_blob", "guard_hold", "require_kept", "guard_drill_run", "guard_mission_repair",
    "guard_rung", "guard_attestation", "read_verdict", "guard_console_link", "refuse_change",
    "put_retention", "place_hold", "lift_hold", "retention_in_turn", "keep_blob", "attest", "enable_rung", "note_gates", "broken_rule",
    "hold_ladder", "note_look", "link_of",
)  # fmt: skip
# Who is likeliest to notice, so that a run need not ask everybody.
ASK_FIRST = {
    **dict.fromkeys(("climb", "lay_ladder", "give_notice", "next_step", "restore_approval_timers", "see_notice", "guard_notice"),
                    ("walls.test_ladder",)),
    **dict.fromkeys(("is_ladder", "guard_rule", "put_rule", "break_glass", "withdraw", "ask_again", "revise", "renew", "stricter", "votes",
                     "entitled_to", "taking_part", "took_part"), ("walls.test_interventions", "walls.test_ladder")),
    **dict.fromkeys(("hand_on", "has_a_say", "guard_question", "ask_question", "answer_question", "tell_of_question", "line_of",
                     "live_line", "handed_by", "holders", "deciders", "answerers"), ("walls.test_questions",)),
}  # fmt: skip
# The same by a word in the mutation's name; the first that fits.
LIKELY = (
    ("not always", CATALOG),
    (r"budget|hold_for_mission|let_go_of_missions|mission_(holds|lets_go)|take_tokens|rate_bucket", ("budgets.test_guards",)),
    ("webhook", ("walls.test_webhooks",)),
    ("^vouch", ("walls.test_vouching",)),
    (r"rung|attest|verdict|note_gates|hold_ladder|broken_rule", ("walls.test_release",)),
    (r"console_link|note_look|^link_of", ("walls.test_console",)),
    (r"model_provider|model_use|model_switch", ("walls.test_models",)),
    (r"drill_run|mission_repair|guard_mission|mission_guard", ("walls.test_immutable", "walls.test_retention")),
    (r"blob|_kept|(hold|retention)_(guard|in_turn)|guard_(hold|bytes|taped)|put_retention|(place|lift)_hold", ("walls.test_retention",)),
    (r"tool_layer", ("walls.test_tool_layers",)),
    (r"connector", ("walls.test_connectors", "walls.test_execution")),
    (r"put_policy|policy_set|\bpolicy\b(?! of)", ("walls.test_policies",)),
    (r"approver_key|session|refuse_unproved|mission_proof|presenter|risk_floor|waive|raised_risk|standing_risk|signed_decisions|walled|executor_work",
     ("walls.test_proof",)),
    (r"role_grant|delegation|oidc|principal|tenant_guard|guard_tenant", ("walls.test_delegation", "walls.test_who_decides")),
    (r"notice|ladder|climb", ("walls.test_ladder",)),
    (r"approval_rule|glass|revise|renew|withdraw", ("walls.test_interventions",)),
    (r"chain_fact|ledger|anchors", ("ledger.test_facts",)),
    (r"^(claim|settle|guard_execution|order_switch|finish_executor)|execution", ("walls.test_execution",)),
    (r"^(guard_approval)", ("walls.test_what_is_approved", "walls.test_interventions", "walls.test_ladder", "walls.test_questions")),
    (r"^(decide|guard_decision|entitled|owns|authenticate|close_approval)",
     ("walls.test_who_decides", "walls.test_execution")),
    (r"^(guard_writeback)", ("walls.test_what_is_approved",)),
    (r"^take_in", ("walls.test_intake",)),
    (r"^constraint|^unique", ("walls.test_constraints",)),
    (r"row security|open$", ("walls.test_tenants",)),
)  # fmt: skip
PIECES = {
    "refusal": r"RAISE EXCEPTION [^;]+;",
    "forced value": r"NEW\.\w+ := [^;]+;",
    "condition": r"(?<=WHEN )(?!SQLSTATE|[a-z_]+_violation|')(?:(?!\bWHEN\b|\bTHEN\b|;).)+(?= THEN)",
    "check": r"PERFORM (?:public\.)?(?:require_tenant|require_present)\([^;]*;",
    "early end": r"(?<=IF )(?:(?!\bIF\b|\bTHEN\b|;).)+(?= THEN RETURN)",
    "durability": r"PERFORM set_config\([^;]*;",
    "lock": r"FOR (?:NO KEY )?(?:SHARE|UPDATE)\b(?! SKIP)",
    "live": r"AND (?:p|t|k|g|s|d|i)\.(?:suspended_at|revoked_at|unlinked_at) IS NULL",
    "in time": r"AND (?:\(\w\.expires_at IS NULL OR \w\.expires_at > clock_timestamp\(\)\)|s\.expires_at > clock_timestamp\(\))",
    "bound": r"LEAST\(p_lease, interval '15 minutes'\)",
}
NOTICED = Path(__file__).with_name("noticed.txt")
INSTEAD = {"condition": "false", "early end": "false", "lock": "", "live": "", "in time": "", "bound": "p_lease"}

# survivor: what holds when it is gone; the pieces that hold, by what their names begin with, or what drops them. It is taken away
# once more without those, and then it has to be missed: or they were not what held.
REDUNDANT: dict[str, tuple[str, ...]] = {
    "take_in, durability 1: PERFORM set_config('lock_timeout', '500ms', true);":
        ("patience, no guard; tests/missions looks at it",),
    "climb, early end 1: a.id IS NULL": ("of no approval there is no next step",),
    "note_tool_layer, early end 1: s.layer IS NULL": ("of a version that is not there nothing is news, and nothing is written",),
    "restore_approval_timers, durability 1: PERFORM set_config('app.tenant', t::text, true);":
        ("its owner sees the approvals of all tenants, since their sums are shown", "DROP POLICY gauges ON approval"),
    "restore_executor_work, durability 1: PERFORM set_config('app.tenant', t::text, true);":
        ("likewise, and their executions", "DROP POLICY gauges ON approval", "DROP POLICY gauges ON execution"),
    "put_rule, lock 1: FOR NO KEY UPDATE":
        ("a rule's version is unique, and whoever comes second is answered stale all the same", "constraint approval_rule_pkey gone"),
    "trigger connector_switch_order gone":
        ("switch_connector(), the only writer of the table, takes the tenant's row itself", "switch_connector, lock 1:"),
    "order_switch, lock 1: FOR NO KEY UPDATE": ("likewise", "switch_connector, lock 1:"),
    "break_glass, condition 3: clock_timestamp() >= a.expires_at":
        ("guard_approval() breaks no glass late, and no vote is taken; the answer is the same",
         "guard_approval, refusal 6:", "decide, condition 4:", "guard_decision, refusal 1:"),
    "break_glass, condition 8: COALESCE(p_reason, '') !~ '[^[:space:]]'":
        ("decide() wants its vote's reason, and all is undone", "decide, condition 10:"),
    "break_glass, condition 9: a.payload_sha256 IS DISTINCT FROM p_sha256":
        ("decide() compares the hash too, and all is undone", "decide, condition 7:"),
    "guard_question, lock 1: FOR UPDATE":
        ("ask_question() and answer_question(), the only writers, hold the approval already", "ask_question, lock 2:"),
    "claim, condition 6: clock_timestamp() >= a.expires_at":
        ("guard_execution() refuses it too, and claim() answers the same", "guard_execution, refusal 4:"),
    "decide, condition 4: clock_timestamp() >= a.expires_at":
        ("guard_decision() refuses it too, and no approval is approved late; decide() answers the same",
         "guard_decision, refusal 1:", "guard_approval, refusal 18:"),
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One guard less: its name, the statement that takes it away, the modules to ask first, and what is gone already."""

    name: str
    statement: str
    first: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


async def mutations(admin: asyncpg.Connection) -> list[Mutation]:
    found: list[Mutation] = []
    walls = list(WALL)
    for table, trigger in await admin.fetch(
        """SELECT tgrelid::regclass::text, tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
           WHERE NOT tgisinternal AND tgenabled = 'A' AND c.relnamespace = 'public'::regnamespace ORDER BY 1, 2"""
    ):
        found.append(
            Mutation(f"trigger {trigger} gone", f"DROP TRIGGER {trigger} ON {table}", ("walls.test_immutable",))
        )
        found.append(
            Mutation(
                f"trigger {trigger} not always",
                f"ALTER TABLE {table} ENABLE TRIGGER {trigger}",
                ("walls.test_immutable",),
            )
        )
    for table, constraint in await admin.fetch(
        """SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE conrelid = ANY ($1::text[]::regclass[])
             AND contype IN ('c', 'f', 'p', 'u') ORDER BY 1, 2""",
        walls,
    ):
        gone = f"ALTER TABLE {table} DROP CONSTRAINT {constraint} CASCADE"
        found.append(Mutation(f"constraint {constraint} gone", gone, ("walls.test_constraints",)))
    for (index,) in await admin.fetch(
        """SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique AND indrelid = ANY ($1::text[]::regclass[])
             AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid) ORDER BY 1""",
        walls,
    ):
        found.append(Mutation(f"unique index {index} gone", f"DROP INDEX {index}", ("walls.test_constraints",)))
    for (table,) in await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relrowsecurity ORDER BY 1"
    ):
        first = ("walls.test_tenants",)
        found.append(Mutation(f"row security of {table} off", f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY", first))
        unforced = f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"
        found.append(Mutation(f"row security of {table} not forced", unforced, ("walls.test_catalog",)))
        found.append(Mutation(f"policy of {table} open", f"ALTER POLICY own_tenant ON {table} USING (true)", first))
    for table, policy in await admin.fetch(
        "SELECT tablename, policyname FROM pg_policies WHERE schemaname = 'public' AND permissive = 'RESTRICTIVE' ORDER BY 1, 2"
    ):
        found.append(
            Mutation(f"policy {policy} of {table} gone", f"DROP POLICY {policy} ON {table}", ("walls.test_proof",))
        )
    for function, definer in await admin.fetch(
        """SELECT p.oid::regprocedure::text, p.prosecdef FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
             AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e') ORDER BY 1"""
    ):
        found.append(Mutation(f"{function} for everybody", f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC", CATALOG))
        if definer:
            gone = f"ALTER FUNCTION {function} RESET search_path"
            found.append(Mutation(f"search path of {function} gone", gone, ("walls.test_catalog",)))
    for table in walls:
        for may in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            if not await admin.fetchval("SELECT has_table_privilege($1, $2, $3)", f"{PREFIX}_api", table, may):
                granted = f"GRANT {may} ON {table} TO {PREFIX}_api"
                found.append(Mutation(f"{may} on {table} for api", granted, ("walls.test_roles",)))
        found.append(
            Mutation(
                f"SELECT on {table} for executor",
                f"GRANT SELECT ON {table} TO {PREFIX}_executor",
                ("walls.test_roles",),
            )
        )
    for name, source in await admin.fetch(
        """SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
             AND proname = ANY ($1) ORDER BY 1""",
        list(GUARDS),
    ):
        found.extend(pieces(name, source))
    return found + list(unbacked(found))


def pieces(name: str, source: str) -> Iterator[Mutation]:
    """The function with one of its pieces taken away."""
    for kind, pattern in PIECES.items():
        for number, piece in enumerate(re.finditer(pattern, source, re.DOTALL), 1):
            less = source[: piece.start()] + INSTEAD.get(kind, "NULL;") + source[piece.end() :]
            said = " ".join(piece.group().split())[:90]
            yield Mutation(f"{name}, {kind} {number}: {said}", less, ASK_FIRST.get(name, ()))


def unbacked(found: list[Mutation]) -> Iterator[Mutation]:
    """Each redundant guard once more, where what holds without it is gone already."""
    for name, (_, *layers) in REDUNDANT.items():
        one, *gone = (only(start, found) for start in (name, *layers))
        if gone:
            but = "; ".join(layer.name.partition(":")[0] for layer in gone)
            without = tuple(layer.statement for layer in gone)
            yield Mutation(f"{name} (without {but})", one.statement, likely(one), without)


def only(start: str, found: list[Mutation]) -> Mutation:
    """The one mutation whose name begins so, or a statement of its own."""
    if start.startswith("DROP "):
        return Mutation(start, start)
    named = [one for one in found if one.name.startswith(start)]
    if len(named) != 1:
        raise SystemExit(f"There is not exactly one: {start}")
    return named[0]


Check = tuple[str, Callable[[Ground], Awaitable[None]]]


def checks(first: tuple[str, ...], likeliest: str = "") -> list[Check]:
    """Every test of this folder that takes a ground, parametrized ones once per value; the named modules, or one test, first."""
    order = [*first, *(module for module in MODULES + CATALOG if module not in first)]
    found: list[Check] = []
    for module in order:
        folder = importlib.import_module(f"tests.{module}")
        for name, function in inspect.getmembers(folder, inspect.iscoroutinefunction):
            if not name.startswith("test_") or function.__module__ != folder.__name__ or name in LISTS:
                continue
            marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
            given = {name for mark in marks for name in mark.args[0].split(",")}
            if set(inspect.signature(function).parameters) - given != {"ground"}:
                raise SystemExit(
                    f"{name} of tests.{module} takes something besides a ground, which is all that is here."
                )
            if not marks:
                found.append((name, function))
            for value in marks[0].args[1] if marks else ():
                found.append((f"{name}[{value}]", with_value(function, marks[0].args[0], value)))
    return sorted(found, key=lambda check: check[0] != likeliest)


def with_value(function: Any, parameter: str, value: Any) -> Callable[[Ground], Awaitable[None]]:
    return lambda ground: function(ground, **{parameter: value})


Url = Callable[[str], str]  # of one database, for a role


async def noticed_by(url: Url, first: tuple[str, ...] = (), likeliest: str = "", but: Url | None = None) -> str | None:
    """The first check that fails on a database (but not on another, if one is given); None when none does."""
    for name, check in checks(first, likeliest):
        failed = await failure(check, url)
        if failed and not (but and await failure(check, but)):
            return f"{name}: {failed}"
    return None


async def failure(check: Callable[[Ground], Awaitable[None]], url: Url) -> str | None:
    """What a check fails by."""
    try:
        async with laid(url) as ground:
            await check(ground)
    except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
        raise
    except BaseException as noticed:  # pytest's own failures are no Exceptions
        return type(noticed).__name__
    return None


def likely(mutation: Mutation) -> tuple[str, ...]:
    """Which modules to ask first."""
    guessed = next((modules for pattern, modules in LIKELY if re.search(pattern, mutation.name)), ())
    return tuple(dict.fromkeys((*guessed, *mutation.first)))


@lru_cache(maxsize=1)
def remembered() -> dict[str, str]:
    """Which test noticed a mutation last time."""
    lines = NOTICED.read_text().splitlines() if NOTICED.exists() else []
    return dict(line.rsplit("\t", 1) for line in lines)  # type: ignore[misc]


def remember(found: dict[str, str]) -> None:
    NOTICED.write_text("".join(f"{name}\t{test}\n" for name, test in sorted(found.items())))


def judge(task: tuple[Cluster, Mutation, int]) -> tuple[Mutation, str | None]:
    cluster, mutation, number = task

    @asynccontextmanager
    async def without(name: str, *statements: str) -> AsyncIterator[Url]:
        await copy(cluster.admin_url, name, TEMPLATE)
        try:
            admin = await asyncpg.connect(cluster.url("admin", name))
            try:
                # a loop that has lost its end would run for ever, and whoever waits for the oldest transaction with it
                await admin.execute(f"ALTER DATABASE {name} SET statement_timeout = '60s'")
                for statement in statements:
                    await admin.execute(statement)
            except asyncpg.PostgresError as refused:
                raise ValueError(f"Not a mutation: {mutation.name}: {refused}") from None
            finally:
                await admin.close()
            yield lambda role: cluster.url(role, name)
        finally:
            await drop(cluster.admin_url, name)

    async def run() -> str | None:
        last = remembered().get(mutation.name, "")
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(without(f"mutant_{number}", *mutation.gone, mutation.statement))
            less = without(f"mutant_{number}_before", *mutation.gone)
            but = await stack.enter_async_context(less) if mutation.gone else None
            return await noticed_by(url, likely(mutation), last, but)

    return mutation, asyncio.run(run())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutations whose name holds this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    asked = parser.parse_args()
    began = time.monotonic()
    with ephemeral() as server:
        cluster = Cluster(
            server.url("postgres", server.password(), "postgres"), dict.fromkeys(LOGIN_ROLES, "of-the-mutants")
        )
        planned = [one for one in asyncio.run(plan(cluster)) if asked.only in one.name]
        survivors, found = [], {}
        with ProcessPoolExecutor(asked.jobs) as pool:
            for mutation, noticed in pool.map(judge, [(cluster, one, number) for number, one in enumerate(planned)]):
                print(
                    f"{'noticed ' if noticed else 'SURVIVED'}  {mutation.name}  {noticed or ''}",
                    file=sys.stderr,
                    flush=True,
                )
                if noticed is None:
                    survivors.append(mutation.name)
                else:
                    found[mutation.name] = noticed.rsplit(": ", 1)[0]
    if not asked.only:
        remember(found)
    unexplained = [name for name in survivors if name not in REDUNDANT]
    share = 1 - len(survivors) / max(len(planned), 1)
    said = {
        "mutations": len(planned),
        "noticed": len(planned) - len(survivors),
        "share": round(share, 4),
        "survivors": {name: REDUNDANT.get(name, ("UNEXPLAINED",))[0] for name in survivors},
        "elapsed_s": round(time.monotonic() - began, 1),
    }
    print(json.dumps(said, indent=None if asked.json else 2))
    return 0 if share >= 0.95 and not unexplained else 1


async def plan(cluster: Cluster) -> list[Mutation]:
    """Makes the template, checks that it passes as it is, and lists what can be taken from it."""
    admin = await asyncpg.connect(cluster.admin_url)
    await admin.execute(f"CREATE DATABASE {TEMPLATE}")
    await admin.close()
    await bootstrap(cluster.url("admin", TEMPLATE), PREFIX, cluster.passwords, TEMPLATE)
    await asyncio.to_thread(upgrade, cluster.url("admin", TEMPLATE), PREFIX)
    await copy(cluster.admin_url, "whole", TEMPLATE)
    failed = await noticed_by(lambda role: cluster.url(role, "whole"))
    if failed:
        raise SystemExit(f"The schema as it is fails {failed}.")
    admin = await asyncpg.connect(cluster.url("admin", "whole"))
    found = await mutations(admin)
    await admin.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
