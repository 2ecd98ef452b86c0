"""`mission-root approvals …`: see what waits, decide on exactly what was seen."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import approval_screen, show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment
from app.cli.signing import sign

app = typer.Typer(help="What waits for a human, and the decision on it.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The approval's id.")]


class Decision(StrEnum):
    approve = "approve"
    reject = "reject"


@app.command("list")
def listed(
    state: Annotated[str, typer.Option(help="pending, approved, rejected, ...; empty for all.")] = "pending",
    mission: Annotated[str, typer.Option(help="Only those of this mission.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Approvals, those that wait unless told otherwise."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/approvals", limit, state=state, mission=mission)
    emit({"items": items}) if as_json else approval_screen.approvals(items)


@app.command("show")
def shown(approval: Id, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """What would be changed, why, and the hash that a decision has to name."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/approvals/{segment(approval)}").body
        emit(found) if as_json else approval_screen.approval(client, found)


@app.command()
def review(
    signing_key: Annotated[
        Path | None, typer.Option(help="Your private key, where a rule counts signed approvals only.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 200,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Decide what waits, one after the other, most urgent first. With --json: the queue in that order."""
    from app.cli import review as reviewing

    with Client(url, api_key) as client:
        queue, environment = reviewing.begin(client, limit)
        if as_json:
            return emit({"items": queue})
        if not queue:
            return approval_screen.approvals([])
        if not reviewing.at_a_terminal():
            raise Failed("A review needs a terminal; for scripts: mission-root approvals list, and decide.", 2)
        reviewing.Review(client, queue, environment, signing_key).run()


@app.command()
def decide(
    approval: Id,
    decision: Annotated[Decision, typer.Argument(help="What you decide.")],
    payload_sha256: Annotated[str, typer.Option(help="The hash you saw; required where nobody can be asked.")] = "",
    comment: Annotated[str, typer.Option(help="A word on why; it is recorded.")] = "",
    signing_key: Annotated[
        Path | None, typer.Option(help="Your private key, where the rule counts signed approvals only.")
    ] = None,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Approve or reject. Without --payload-sha256 it shows the change and asks first."""
    if decision is Decision.reject and not comment:
        raise Failed("A rejection needs a reason: give it with --comment.", 2)
    path = f"/v1/approvals/{segment(approval)}"
    with Client(url, api_key) as client:
        seen = client.get(path)
        if not payload_sha256:
            if as_json or not sys.stdin.isatty():
                raise Failed(
                    f"Say what you saw with --payload-sha256; `mission-root approvals show {approval}` shows it.", 2
                )
            approval_screen.approval(client, seen.body)
            if not typer.confirm(f"{decision.value.capitalize()} exactly this?"):
                raise Failed("Nothing was decided.", 1)
            payload_sha256 = seen.body["payload_sha256"]
        body = {"decision": decision.value, "payload_sha256": payload_sha256, "comment": comment or None}
        if signing_key is not None:
            body["signature"] = sign(signing_key, seen.body, decision.value, payload_sha256)
        decided = client.post(f"{path}/decisions", body, if_match=seen.etag).body
    emit(decided) if as_json else approval_screen.decided(decided)


Sha256 = Annotated[str, typer.Option("--payload-sha256", help="The hash you saw; required where nobody can be asked.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in your words; kept with the approval.")]


def seen(
    client: Client, approval: str, payload_sha256: str, ask: str, as_json: bool
) -> tuple[dict[str, Any], str, str]:
    """The approval, its ETag, and the hash that was seen: given, or confirmed on the screen."""
    found = client.get(f"/v1/approvals/{segment(approval)}")
    if payload_sha256:
        return found.body, found.etag, payload_sha256
    if as_json or not sys.stdin.isatty():
        raise Failed(f"Say what you saw with --payload-sha256; `mission-root approvals show {approval}` shows it.", 2)
    approval_screen.approval(client, found.body)
    if not typer.confirm(ask):
        raise Failed("Nothing was done.", 1)
    return found.body, found.etag, found.body["payload_sha256"]


def as_it_is(url: str, api_key: str, approval: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Something done to an approval as it is at this moment; what was answered."""
    path = f"/v1/approvals/{segment(approval)}"
    with Client(url, api_key) as client:
        done: dict[str, Any] = client.post(f"{path}/{verb}", body, if_match=client.get(path).etag).body
    return done


@app.command("break-glass")
def break_glass(
    approval: Id,
    reason: Reason,
    payload_sha256: Sha256 = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Move it under the break-glass rule: two holders of that role, at most 15 minutes. Every admin is told."""
    with Client(url, api_key) as client:
        _, etag, sha256 = seen(client, approval, payload_sha256, "Break the glass for exactly this?", as_json)
        body = {"payload_sha256": sha256, "reason": reason}
        done = client.post(f"/v1/approvals/{segment(approval)}/break-glass", body, if_match=etag).body
    if as_json:
        emit(done)
    elif done["state"] == "approved":
        approval_screen.decided(done)
    else:
        show.line(
            f"The glass is broken; another holder of break_glass has until {done['expires_at']} to approve it too."
        )


@app.command()
def cancel(approval: Id, reason: Reason, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """Take back what is pending, or approved and not yet claimed."""
    done = as_it_is(url, api_key, approval, "cancel", {"reason": reason})
    emit(done) if as_json else show.line(f"The approval is {done['state']}; nothing of it leaves.")


@app.command()
def reassign(
    approval: Id,
    role: Annotated[str, typer.Argument(help="The role that is asked instead; its rule has to name it.")],
    reason: Reason,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Hand a pending approval to another role. Votes of who may no longer decide do not count."""
    done = as_it_is(url, api_key, approval, "reassign", {"role": role, "reason": reason})
    emit(done) if as_json else show.line(f"The approval is with {', '.join(done['may_decide'])} now.")


@app.command()
def escalate(
    approval: Id,
    role: Annotated[str, typer.Option(help="The role that is asked as well; its rule has to name it.")],
    reason: Reason,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Ask another role as well, now instead of when the ladder would. Votes, time and quorum stay."""
    done = as_it_is(url, api_key, approval, "escalate", {"role": role, "reason": reason})
    emit(done) if as_json else show.line(f"It may be decided by {', '.join(done['may_decide'])} now.")


@app.command()
def ask(
    approval: Id,
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    to: Annotated[str, typer.Option(help="Whom, by name or id; the requester unless you say so.")] = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Ask about a pending approval. Nothing of it changes, and nobody has to wait for the answer."""
    path = f"/v1/approvals/{segment(approval)}"
    with Client(url, api_key) as client:
        body = {"question": question} | ({"to": addressee(client, path, to)} if to else {})
        asked = client.post(f"{path}/questions", body).body
    emit(asked) if as_json else show.line(
        f"Asked; the answer will be a notice of yours. The question's id: {asked['id']}"
    )


def addressee(client: Client, path: str, to: str) -> str:
    """Somebody who can answer, by name or id."""
    known = client.get(f"{path}/briefing").body["may_be_asked"]
    for one in known:
        if to in (one["id"], one["name"]):
            return str(one["id"])
    names = ", ".join(one["name"] for one in known) or "nobody"
    raise Failed(f"{to} is nobody who can answer; those who can: {names}.", 2)


@app.command()
def answer(
    approval: Id,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="The question's id, or its number on the approval.")
    ],
    words: Annotated[str, typer.Argument(metavar="ANSWER", help="Your answer; it is given once.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Answer a question about an approval, also when it has been decided meanwhile."""
    path = f"/v1/approvals/{segment(approval)}"
    with Client(url, api_key) as client:
        if question.isdecimal():
            asked = client.get(path).body["questions"]
            if not 1 <= int(question) <= len(asked):
                raise Failed(f"The approval has {len(asked)} questions, numbered from 1.", 3)
            question = asked[int(question) - 1]["id"]
        done = client.post(f"{path}/questions/{segment(question)}/answer", {"answer": words}).body
    emit(done) if as_json else show.line("Answered; whoever asked is told.")


@app.command()
def revise(
    approval: Id,
    changes: Annotated[str, typer.Option(help="The changes to ask about instead, as a JSON object.")],
    reason: Reason,
    payload_sha256: Sha256 = "",
    expected_version: Annotated[str, typer.Option(help="The record's version it is meant for; else the old one.")] = "",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Ask about other changes to the same record instead. You may not approve them yourself."""
    try:
        wanted = json.loads(changes)
    except ValueError as problem:
        raise Failed(f"--changes is no JSON: {problem}", 2) from problem
    with Client(url, api_key) as client:
        _, etag, sha256 = seen(client, approval, payload_sha256, "Replace exactly this?", as_json)
        body = {"payload_sha256": sha256, "changes": wanted, "reason": reason}
        if expected_version:
            body["expected_version"] = expected_version
        done = client.post(f"/v1/approvals/{segment(approval)}/revisions", body, if_match=etag).body
    emit(done) if as_json else show.line(f"Asked about instead: mission-root approvals show {done['approval_id']}")
