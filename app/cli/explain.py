"""`mission-root explain ID`: what is behind an id, on one screen."""

from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit

MOST_STEPS = 15  # so that the whole story stays within 25 lines
FIRST, FOUND = 5, 5  # of them: how it began, and what was asked for or is broken, wherever that is
MARKS = {"anchored": "✓", "chained": "·", "broken": "✗", None: " "}
WORTH = {
    "ok": "signed outside the database",
    "none": "no anchor yet: their chain speaks for them",
    "off": "no anchors here: their chain speaks for them",
    "unavailable": "the store of anchors does not answer: their chain speaks for them",
    "failed": "the anchors do not hold",
}


def explain(
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A mission, approval, writeback, artifact, SHA-256, fact, request id, or a record such as lead/L-1001.",
        ),
    ],
    verify: Annotated[bool, typer.Option(help="Recompute the chains, look up the anchors, and mark each step.")] = True,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """The whole story of any id: asked, decided, written, read back; exit code 1 when it does not verify.

    ✓ signed outside the database · the chain holds ✗ not what it was; ▸ what was asked for.
    """
    with Client(url, api_key) as client:
        found = client.get("/v1/explain", id=id, verify="true" if verify else "").body
    emit(found) if as_json else story(found)
    if found["proof"] and not found["proof"]["verified"]:
        raise Failed("The story does not verify; mission-root ledger verify says where.", 1)


def story(found: dict[str, Any]) -> None:
    """At most 25 lines, each cut to the terminal's width: the head, the steps, what they are worth, and where to go on."""
    head = [mission(one) for one in found["missions"][-2:]] + changes(found["changes"])
    for line in [f"{found['kind'].replace('_', ' ')} {found['asked']}", *head]:
        put(line)
    for told in picked(found["steps"]):
        put(told if isinstance(told, str) else step(told), bad=not isinstance(told, str) and told["proof"] == "broken")
    if found["left_out"]:
        put(f"   {found['left_out']} facts in between are not told")
    if found["proof"]:
        put(proof(found["proof"]), bad=not found["proof"]["verified"])
    if found["missions"]:
        put(
            f"Next: mission-root missions packet {found['missions'][-1]['id']} --zip FILE proves it to anybody, offline"
        )


def put(words: str, *, bad: bool = False) -> None:
    """One line of the screen, whatever it holds."""
    show.out.print(
        show.visible(" ".join(words.split("\n"))),
        no_wrap=True,
        overflow="ellipsis",
        crop=True,
        style="red" if bad else "",
    )


def mission(one: dict[str, Any]) -> str:
    ended = f" ({one['reason']})" if one["reason"] else ""
    name = one["requested_by"]["name"] or one["requested_by"]["id"]
    return f"mission {one['id']}  {one['mission_type']}  {one['state']}{ended}  by {name}: “{one['user_goal'] or ''}”"


def changes(items: list[dict[str, Any]]) -> list[str]:
    """One line each of a few; of many, how many are in which state."""
    if len(items) <= 3:
        return [
            f"change  {one['operation']} {one['connector']}/{one['target']}: {', '.join(one['fields'])}  {one['state']}"
            + (f", read back {one['read_back'].replace('_', ' ')}" if one["read_back"] else "")
            for one in items
        ]
    states = [one["state"] for one in items]
    return [f"changes {len(items)}: {', '.join(f'{states.count(name)} {name}' for name in sorted(set(states)))}"]


def picked(steps: list[dict[str, Any]]) -> list[dict[str, Any] | str]:
    """All of them, or the first and the last, what was asked for or is broken, and how many are left out.

    From where a chain is broken on every step of it is: the first says where, the others come after what was asked for."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    broken = [n for n, one in enumerate(steps) if one["proof"] == "broken"]
    asked = [n for n, one in enumerate(steps) if one["marked"]]
    wanted = list(dict.fromkeys([*broken[:1], *asked, *broken]))[:FOUND]
    keep = {*range(FIRST), *wanted}
    for n in reversed(range(len(steps))):
        if len(keep) == MOST_STEPS - 1:
            break
        keep.add(n)
    shown: list[dict[str, Any] | str] = [steps[n] for n in sorted(keep)]
    return [*shown[:FIRST], f"   {len(steps) - len(shown)} steps in between: --json", *shown[FIRST:]]


def step(one: dict[str, Any]) -> str:
    asked = "▸" if one["marked"] else " "
    place = one["facts"][0] if one["count"] == 1 else f"{one['facts'][0]} and {one['count'] - 1} more"
    return f"{MARKS[one['proof']]}{asked} {one['at'][:10]} {one['at'][11:23]}  {one['sentence']}  [{place}]"


def proof(found: dict[str, Any]) -> str:
    if not found["verified"]:
        bad = found["first_bad"] or {}
        return f"Not what it was: {found['finding'] or ' '.join([str(bad.get('position')), str(bad.get('finding'))])}"
    signed = f"{found['anchored']} of {found['facts']} facts" if found["anchored"] else f"{found['facts']} facts"
    return f"Every link of the chain recomputed; {signed}: {WORTH[found['anchors']]}."
