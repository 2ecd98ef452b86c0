"""`mission-root policies …`: the rules in force, what they would say, and changing a tenant's own."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment

app = typer.Typer(help="The rules: read them, ask them before acting, change your tenant's own.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The policy's name; `baseline` is what the product ships.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A file of Cedar rules; - reads standard input.")]
Facts = Annotated[
    list[str] | None, typer.Option("--fact", "-f", help="name=value, such as mode=autonomous; repeat it.")
]


@app.command("list")
def listed(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """The policies in force, shipped ones first."""
    with Client(url, api_key) as client:
        found = client.get("/v1/policies").body
    if as_json:
        emit({"items": found})
        return
    for policy in found:
        show.line(f"{policy['name']}  version {str(policy['version'])[:12]}  {len(policy['rules'])} rules")
        for rule in policy["rules"]:
            show.line(f"  {rule['effect']:6}  {rule['id']}: {rule['reason']}")


@app.command("show")
def shown(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """One policy's text and its versions."""
    with Client(url, api_key) as client:
        found = client.get(f"/v1/policies/{segment(name)}").body
    if as_json:
        emit(found)
        return
    for version in found["history"]:
        retired = ", retired" if version["retired"] else ""
        show.line(f"// version {version['version']}{retired}, {version['created_at']}, by {version['created_by']}")
    typer.echo(found["text"], nl=False)


@app.command()
def put(
    name: Name,
    file: File,
    check: Annotated[bool, typer.Option("--check", help="Make every check and change nothing.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Add a policy or change it; in force at once."""
    text = read(file)
    with Client(url, api_key) as client:
        done = change(client, "PUT", name, {"text": text}, validate_only="true" if check else "")
    emit(done) if as_json else show.line(f"{name} is {'fine' if check else 'in force'}: version {done['version']}.")


@app.command()
def retire(name: Name, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """End a policy; its versions stay readable."""
    with Client(url, api_key) as client:
        done = change(client, "DELETE", name, None)
    emit(done) if as_json else show.line(f"{name} is retired: version {done['version']}.")


@app.command()
def evaluate(
    action: Annotated[str, typer.Argument(help="Such as mission.create.")],
    resource: Annotated[str, typer.Argument(help="Such as oracle_advisory.")],
    fact: Facts = None,
    role: Annotated[list[str] | None, typer.Option(help="Ask as somebody with this role; repeat it.")] = None,
    against: Annotated[str, typer.Option(help="Ask the rules of an earlier decision's policy_version.")] = "",
    proposed: Annotated[
        list[Path] | None, typer.Option(help="Ask as if this file were in force under its name.")
    ] = None,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """What the rules would say, which of them, and what would change it."""
    asked: dict[str, Any] = {"action": action, "resource": resource, "context": facts(fact or [])}
    if role:
        asked["principal"] = {"roles": role}
    if against:
        asked["against"] = against
    if proposed:
        asked["policies"] = [{"name": file.stem, "text": read(file)} for file in proposed]
    with Client(url, api_key) as client:
        said = client.post("/v1/policies/evaluate", asked).body
    if as_json:
        emit(said)
        return
    show.line(f"{said['effect']}: {said['reason']} ({said['rule']})")
    for name, value in said["obligations"].items():
        show.line(f"  @{name} {value}")
    for rule in [*said["forbids"], *said["permits"]]:
        if rule["id"] != said["rule"]:
            show.line(f"  also {rule['effect']} {rule['id']}: {rule['reason']}")
    for turn in said["changes"]:
        show.line(f"  {turn['fact']} {turn['from']} -> {turn['to']}: {turn['effect']} ({turn['rule']})")


@app.command()
def preview(
    name: Name,
    file: File,
    last: Annotated[int, typer.Option(min=1, max=1000, help="How many of the newest decisions to look at.")] = 500,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Which of the newest decisions a changed policy would have made otherwise."""
    with Client(url, api_key) as client:
        said = client.post(f"/v1/policies/{segment(name)}/preview", {"text": read(file), "last": last}).body
    if as_json:
        emit(said)
        return
    show.line(f"{len(said['changed'])} of {said['examined']} decisions would differ.")
    for one in said["changed"]:
        now, then = one["now"], one["then"]
        show.line(
            f"  {one['at']} {one['action']} {one['resource']}: {now['effect']} -> {then['effect']} ({then['rule']})"
        )


@app.command()
def vocabulary(url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """What rules can speak of: actions with their facts, obligations, roles."""
    with Client(url, api_key) as client:
        said = client.get("/v1/policy-vocabulary").body
    if as_json:
        emit(said)
        return
    show.line(json.dumps({name: said[name] for name in said if name != "cedar_schema"}, indent=2, ensure_ascii=False))


@app.command("set")
def set_(
    version: Annotated[str, typer.Argument(help="The policy_version that a decision names.")],
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """All rules as they were when a decision was made."""
    with Client(url, api_key) as client:
        said = client.get(f"/v1/policy-sets/{segment(version)}").body
    if as_json:
        emit(said)
        return
    show.line(f"// policy set {said['version']}{'' if said['in_force'] else ', no longer in force'}")
    for one in said["policies"]:
        show.line(f"// {one['name']}\n{one['text']}")


def change(client: Client, method: str, name: str, body: dict[str, Any] | None, **parameters: Any) -> dict[str, Any]:
    """Sends a change of what is there now: the version is looked up just before."""
    path, etag = f"/v1/policies/{segment(name)}", ""
    try:
        etag = client.get(path).etag
    except Failed as failed:
        if failed.exit_code != 3 or method == "DELETE":
            raise
    content = None if body is None else json.dumps(body).encode()
    headers = {"If-Match": etag} | ({"Content-Type": "application/json"} if content else {})
    done: dict[str, Any] = client.call(method, path, content, headers, parameters).body
    return done


def read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise Failed(f"{file} cannot be read: {problem}.", 2) from problem


def facts(given: list[str]) -> dict[str, Any]:
    """name=value pairs; true and false are what they say."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise Failed(f"{one!r} is no fact: write name=value.", 2)
        found[name] = {"true": True, "false": False}.get(value, value)
    return found
