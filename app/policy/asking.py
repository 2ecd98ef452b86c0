"""What rules are asked, and which rules: checked here, before anything is decided or kept by them."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from app.caller import Caller
from app.db import ReadSession
from app.errors import Problem
from app.identity import ROLES
from app.policy import queries
from app.policy.check import MAX_RULES_TOGETHER, Finding, check
from app.policy.engine import Asker, PolicySet, compiled
from app.policy.text import statements
from app.policy.vocabulary import ACTIONS, Action, faults

DESK = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policies")
Text = tuple[str, str]  # a policy's name and its rules


def known_action(name: str, context: Mapping[str, Any], roles: Sequence[str]) -> Action:
    """The action asked about. Raises Problem when it, a fact or a role is none that rules know."""
    action = ACTIONS.get(name)
    if action is None:
        found = [{"pointer": "/action", "detail": f"must be one of {', '.join(ACTIONS)}"}]
        raise Problem("validation", f"/action: there is no action {name[:100]}", errors=found)
    found = [
        {"pointer": "/context/" + fact.replace("~", "~0").replace("/", "~1"), "detail": detail}
        for fact, detail in faults(action, context)
    ]
    for number, role in enumerate(roles):
        if role not in ROLES:
            found.append({"pointer": f"/principal/roles/{number}", "detail": f"must be one of {', '.join(ROLES)}"})
    refuse(found)
    return action


class Somebody(Protocol):
    """Whom a question may be asked as."""

    @property
    def kind(self) -> str: ...
    @property
    def roles(self) -> Collection[str]: ...


def asked_as(caller: Caller, action: Action, other: Somebody | None) -> Asker:
    """As whom the rules are asked: as the caller when nobody else is named."""
    if action.principal != "Principal":
        return Asker(str(caller.principal))
    if other is not None:
        return Asker(str(caller.principal), other.kind, frozenset(other.roles))
    return Asker(str(caller.principal), caller.kind, caller.roles)


async def rules_for(session: ReadSession, against: str | None, given: Sequence[Text]) -> tuple[PolicySet, bool]:
    """The rules a question is about, and whether they are in force: those of then, those given, or those of now."""
    if given and against:
        found = [{"pointer": "/against", "detail": "leave it out, or leave out policies"}]
        raise Problem("validation", "/against: asks about one set, policies about another", errors=found)
    if given:
        return await proposed_rules(session, given), False
    current = await queries.in_force(session)
    if against is None:
        return current, True
    then = await queries.set_of(session, against)
    if then is None:
        found = [{"pointer": "/against", "detail": "must be the policy_version of a decision of this tenant"}]
        raise Problem("validation", "/against: no decision was made by that version", errors=found)
    return then, then.version == current.version


async def proposed_rules(session: ReadSession, given: Sequence[Text]) -> PolicySet:
    """The set as it would be. Raises Problem for every fault of a text, by its place in the list."""
    current = await queries.in_force(session)
    await session.connection.close()  # what follows needs the database no more
    rules = sum(len(statements(text)) for _, text in given)
    if rules > MAX_RULES_TOGETHER:
        found = [{"pointer": "/policies", "detail": f"at most {MAX_RULES_TOGETHER} rules in all, and here are {rules}"}]
        refuse(found)
    found = [
        {**finding, "pointer": f"/policies/{number}{finding['pointer']}"}
        for number, (name, text) in enumerate(given)
        for finding in await aside(check, name, text, without_broken(current))
    ]
    names = [name for name, _ in given]
    found += [
        {"pointer": f"/policies/{number}/name", "detail": "each name once"}
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    refuse(found)
    made: PolicySet = await aside(queries.replaced, current, dict(given))
    return made


async def aside(work: Callable[..., Any], *given: Any) -> Any:
    """What may take a while, in a thread of its own and one after the other: nobody's question holds up the others."""
    return await asyncio.get_running_loop().run_in_executor(DESK, work, *given)


def without_broken(policies: PolicySet) -> PolicySet:
    """The rules a text is checked beside. Those of a set that cannot be read are no help: the shipped ones are."""
    return compiled(()) if policies.broken else policies


async def sound(session: ReadSession, name: str, text: str) -> PolicySet:
    """The set in force, beside which the text has no fault. Raises Problem validation for what it has."""
    current = await queries.in_force(session)
    refuse(named(await aside(check, name, text, without_broken(current))))
    return current


def named(found: list[Finding]) -> list[Finding]:
    """The same where the name stands in the address and not in the body."""
    return [{"parameter": "name", "detail": one["detail"]} if one["pointer"] == "/name" else one for one in found]


def refuse(found: list[Finding]) -> None:
    if found:
        place = found[0].get("pointer") or found[0]["parameter"]
        raise Problem("validation", f"{place}: {found[0]['detail']}", errors=found[:20])
