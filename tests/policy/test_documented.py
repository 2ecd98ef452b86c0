"""docs/policies.md: its vocabulary is the one in force, and its examples answer what it says they do."""

import re
from pathlib import Path
from typing import Any

from app.policy.vocabulary import ACTIONS
from tests.policy.test_changing import put
from tests.world import World

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def vocabulary() -> str:
    """The table of actions and facts as the page shows it."""
    rows = [
        "| action | principal, resource | facts (the first value, or the one in brackets, is assumed) |",
        "|---|---|---|",
    ]
    for action in ACTIONS.values():
        facts = []
        for name, fact in action.facts.items():
            assumed = str(fact.assumed).lower() if isinstance(fact.assumed, bool) else fact.assumed
            values = [str(value).lower() if isinstance(value, bool) else value for value in fact.values]
            said = " · ".join([assumed, *(value for value in values if value != assumed)]) if values else f"[{assumed}]"
            facts.append(f"`{fact.place}.{name}` {said}")
        rows.append(f"| `{action.name}` | {action.principal}, {action.resource} | {'; '.join(facts)} |")
    return "\n".join(rows)


def blocks(kind: str) -> dict[str, str]:
    return dict(re.findall(rf"```{kind} (\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL))


def test_the_page_has_the_vocabulary_in_force() -> None:
    assert vocabulary() in PAGE.read_text(), "put this into docs/policies.md:\n" + vocabulary()


async def test_the_examples_answer_what_the_page_says(world: World) -> None:
    texts, answers = blocks("cedar"), blocks("answers")
    assert set(texts) == set(answers) and len(texts) >= 2
    for name, text in texts.items():
        proposed = {"policies": [{"name": name, "text": text}]}
        for line in answers[name].strip().splitlines():
            asked, wanted = line.split(" -> ")
            assert await answer(world, asked, proposed) == wanted, line
        assert (await put(world, text, name=name)).status_code == 201
        for line in answers[name].strip().splitlines():
            asked, wanted = line.split(" -> ")
            assert await answer(world, asked, {}) == wanted, line
        gone = await world.policy_owner.delete(f"/v1/policies/{name}", headers={"If-Match": '"v1"'})
        assert gone.status_code == 200


async def answer(world: World, line: str, more: dict[str, Any]) -> str:
    """One line of the page, asked: effect, rule and obligations."""
    action, resource, *facts = line.split()
    pairs = [fact.split("=") for fact in facts]
    roles = [value for name, value in pairs if name == "role"]
    context = {name: {"true": True, "false": False}.get(value, value) for name, value in pairs if name != "role"}
    body = {"action": action, "resource": resource, "context": context, **more}
    if roles:
        body["principal"] = {"roles": roles}
    said = await world.submitter.post("/v1/policies/evaluate", json=body)
    assert said.status_code == 200, said.text
    found = said.json()
    obligations = [f"{name}={value}" for name, value in sorted(found["obligations"].items())]
    return " ".join([found["effect"], found["rule"], *obligations])
