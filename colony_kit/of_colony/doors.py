"""Probes, signatures and bodies: what a colony says to whom before any mission is worked on."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from colony_client.contract import MAX_BODY_BYTES, Health, Ready
from colony_client.signing import Keys, parse_keys
from colony_kit.line import Reply
from colony_kit.of_colony.play import Play, batch
from colony_kit.report import Failed

FOREIGN = parse_keys("stranger:" + "not-the-key-of-anybody", "KIT")
NOT_TAKEN = (0, 401, 403)
UNREADABLE = (400, 413, 422)


async def health(play: Play) -> str:
    reply = await play.line.ask("GET", "/health")
    said = reply.model(Health)
    return f"{said.service}, {said.status}"


async def versions(play: Play) -> str:
    for path, statuses in (("/health", (200,)), ("/ready", (200, 503))):
        reply = await play.line.ask("GET", path)
        if reply.status not in statuses:
            raise Failed(f"{reply.evidence}; expected: {' or '.join(map(str, statuses))}")
        said = _object(reply).get("contract_version")
        if not isinstance(said, str) or not said.startswith("1.") or not said[2:].isdigit():
            raise Failed(f"{reply.evidence}; expected: a contract_version 1.x")
        play.versions.append((path, said))
    if len({version for _, version in play.versions}) > 1:
        raise Failed(
            "not everywhere the same: " + ", ".join(f"{version} in {where}" for where, version in play.versions)
        )
    return f"{play.versions[0][1]} in {len(play.versions)} answers"


async def ready(play: Play) -> str:
    reply = await play.line.ask("GET", "/ready")
    said = reply.model(Ready, 200, 503)
    if said.ready != (reply.status == 200):
        raise Failed(f"{reply.evidence}; expected: 200 when ready is true and 503 when it is not")
    return f"{reply.status}, ready {str(said.ready).lower()}, {len(said.providers)} providers"


async def right_signature(play: Play) -> str:
    """Asked with each configured key, the first and those that are about to replace it."""
    for kid in play.keys.by_kid:
        await taken(play, kid)
    return f"taken with {len(play.keys.by_kid)} configured key{'s' if len(play.keys.by_kid) > 1 else ''}"


async def taken(play: Play, kid: str) -> None:
    """Raises Failed unless a request that is signed with this key is taken."""
    path, secret = f"/v1/missions/{uuid4()}", play.keys.by_kid[kid]
    signed = play.line.headers("GET", path, b"", keys=Keys({kid: secret}))
    reply = await play.line.ask("GET", path, headers=signed, telling=f"signed with key {kid}")
    if reply.status in NOT_TAKEN or reply.status >= 500:
        raise Failed(f"{reply.evidence}; expected: 404, for no such mission is known")


async def unsigned(play: Play) -> str:
    attempt = play.attempt()
    play.refused(await play.line.ask("POST", "/v1/missions", batch(attempt), headers={}, telling="unsigned"), 401)
    path = f"/v1/missions/{attempt.mission_id}"
    play.refused(await play.line.ask("GET", path, headers={}, telling="unsigned"), 401)
    play.refused(await play.line.ask("POST", f"{path}/cancel", b'{"reason": "x"}', headers={}, telling="unsigned"), 401)
    return await _nothing_done(play, path, "dispatch, status and cancel refused")


async def wrong_signature(play: Play) -> str:
    attempt = play.attempt()
    path, body = f"/v1/missions/{attempt.mission_id}", batch(attempt)
    right = play.line.headers("POST", "/v1/missions", body)
    ours = next(iter(play.keys.by_kid))
    same_kid = Keys({ours: b"another-secret-under-the-same-kid"})
    cases = {
        "signed with another secret": play.line.headers("POST", "/v1/missions", body, keys=same_kid),
        "signed with an unknown key": play.line.headers("POST", "/v1/missions", body, keys=FOREIGN),
        "signed for another body": play.line.headers("POST", "/v1/missions", body + b" "),
        "signed for another path": play.line.headers("POST", "/v1/missions?x=1", body),
        "signed for another method": play.line.headers("PUT", "/v1/missions", body),
        "the signature cut short": right | {"X-Colony-Signature": right["X-Colony-Signature"][:-1]},
    }
    for telling, headers in cases.items():
        play.refused(await play.line.ask("POST", "/v1/missions", body, headers=headers, telling=telling), 401)
    return await _nothing_done(play, path, f"{len(cases)} forgeries refused")


async def expired(play: Play) -> str:
    path = f"/v1/missions/{uuid4()}"
    for minutes in (-6, 6):
        signed = play.line.headers("GET", path, b"", now=datetime.now(UTC) + timedelta(minutes=minutes))
        telling = f"signed {abs(minutes)} minutes {'ago' if minutes < 0 else 'ahead of time'}"
        play.refused(await play.line.ask("GET", path, headers=signed, telling=telling), 401)
    return "six minutes ago and six minutes ahead refused"


async def replayed(play: Play) -> str:
    path = f"/v1/missions/{uuid4()}"
    signed = play.line.headers("GET", path, b"")
    first = await play.line.ask("GET", path, headers=signed)
    if first.status in NOT_TAKEN:
        raise Failed(f"{first.evidence}; expected: 404, for no such mission is known")
    play.refused(await play.line.ask("GET", path, headers=signed, telling="the same request again"), 401)
    return "the second of two equal requests refused"


async def other_audience(play: Play) -> str:
    path = f"/v1/missions/{uuid4()}"
    signed = play.line.headers("GET", path, b"", audience="root")
    play.refused(await play.line.ask("GET", path, headers=signed, telling="signed for the audience root"), 401)
    return "refused"


async def malformed(play: Play) -> str:
    bodies = {
        "not JSON": b"{mission: 1}",
        "JSON that ends in the middle": batch(play.attempt())[:-40],
        "nothing at all": b" ",
        "a list instead of an object": b"[]",
        "an object nested 5,000 deep": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        "bytes that are not UTF-8": b'{"contract_version": "\xff\xfe"}',
    }
    for telling, body in bodies.items():
        play.refused(await play.line.ask("POST", "/v1/missions", body, telling=telling), *UNREADABLE)
    return f"{len(bodies)} bodies refused"


async def unknown_field(play: Play) -> str:
    first, second = play.attempt(), play.attempt()
    whole = json.loads(batch(first))
    whole["kit_unknown"] = 1
    inner = json.loads(batch(second))
    inner["missions"][0]["kit_unknown"] = {"a": 1}
    for document in (whole, inner):
        reply = await play.line.ask(
            "POST", "/v1/missions", json.dumps(document).encode(), telling="with a member kit_unknown"
        )
        _names(play.refused(reply, *UNREADABLE), "kit_unknown")
    return await _nothing_done(play, f"/v1/missions/{second.mission_id}", "refused, and the member named")


async def wrong_value(play: Play) -> str:
    cases: dict[str, Callable[[dict[str, Any]], object]] = {
        "attempt": lambda one: one.update(attempt=0),
        "mission_id": lambda one: one.update(mission_id="no-uuid"),
        "budgets": lambda one: one.pop("budgets"),
        "risk_level": lambda one: one["envelope"].update(risk_level="none"),
    }
    for field, spoil in cases.items():
        document = json.loads(batch(play.attempt()))
        spoil(document["missions"][0])
        reply = await play.line.ask(
            "POST", "/v1/missions", json.dumps(document).encode(), telling=f"with a wrong {field}"
        )
        _names(play.refused(reply, *UNREADABLE), field)
    return f"refused and named: {', '.join(cases)}"


async def oversized(play: Play) -> str:
    document = json.loads(batch(play.attempt()))
    document["missions"][0]["envelope"]["inputs"] = {"text": "x" * (MAX_BODY_BYTES + 1_000)}
    body = json.dumps(document).encode()
    reply = await play.line.ask("POST", "/v1/missions", body, telling=f"{len(body)} bytes")
    if reply.status not in (0, *UNREADABLE):  # 0: a server may close the connection before it has read everything
        raise Failed(f"{reply.evidence}; expected: 413")
    alive = await play.line.ask("GET", "/health")
    if alive.status != 200:
        raise Failed(f"{reply.evidence}; afterwards {alive.evidence}; expected: a colony that is still alive")
    return f"refused ({reply.status or 'connection closed'}), and alive afterwards"


async def too_many(play: Play) -> str:
    attempts = [play.attempt() for _ in range(65)]
    reply = await play.line.ask("POST", "/v1/missions", batch(*attempts), telling="a dispatch of 65")
    play.refused(reply, *UNREADABLE)
    return await _nothing_done(play, f"/v1/missions/{attempts[0].mission_id}", "refused whole")


async def unknown_mission(play: Play) -> str:
    path = f"/v1/missions/{uuid4()}"
    play.refused(await play.line.ask("GET", path), 404)
    play.refused(await play.line.ask("POST", f"{path}/cancel", b'{"reason": "x"}', telling="a cancel"), 404)
    return "404 for status and cancel"


async def problems(play: Play) -> str:
    if not play.replies:
        await unknown_mission(play)
        await unsigned(play)
    for reply in play.replies:
        said = reply.problem
        if (
            said.get("status") != reply.status
            or not isinstance(said.get("code"), str)
            or not (said.get("detail") or said.get("title"))
        ):
            kind = reply.headers.get("content-type", "no content type")
            raise Failed(f"{reply.evidence} as {kind}; expected: application/problem+json with status, code and detail")
    return f"{len(play.replies)} refusals looked at"


async def _nothing_done(play: Play, path: str, found: str) -> str:
    reply = await play.line.ask("GET", path)
    if reply.status != 404:
        raise Failed(f"the dispatch was refused, but then {reply.evidence}; expected: 404, for nothing was taken")
    return found


def _names(reply: Reply, field: str) -> None:
    if field not in reply.body.decode(errors="replace"):
        raise Failed(f"{reply.evidence}; expected: a problem that names the field {field}")


def _object(reply: Reply) -> dict[str, Any]:
    try:
        found = json.loads(reply.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Failed(f"{reply.evidence}; expected: a JSON object")
    return found
