"""Every error is a whole problem document, and every problem has a page that a person can read."""

import ast
import asyncio
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import structlog

from app import errors
from app.errors import KINDS
from app.http.serving import server
from app.reference import CAUSES
from tests.world import World
from tests.world.checks import census, problem

APP = Path(errors.__file__).parent


async def test_every_problem_type_has_a_page(world: World) -> None:
    for app in (world.anybody, world.inside):
        for code, kind in KINDS.items():
            page = await app.get(f"/problems/{code}")
            assert page.status_code == 200, code
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
            for said in (
                kind.title,
                kind.meaning,
                str(kind.status),
                *kind.next_actions,
                CAUSES[code],
                f'"code": "{code}"',
            ):
                assert said.replace("`", "") in re.sub(r"</?code>|`", "", html.unescape(page.text)), (code, said)
        problem(await app.get("/problems/no_such_problem"), "not_found")
        problem(await app.get("/problems/%3Cscript%3E"), "not_found")


def test_the_drawn_tree_is_the_table() -> None:
    drawing = (errors.__doc__ or "").split("\n\n")[1]
    drawn = [name for line in drawing.splitlines() for name in re.findall(r"[a-z_]+", line)[1:]]
    assert sorted(drawn) == sorted(KINDS)


def test_no_problem_is_answered_that_is_not_drawn_and_none_is_drawn_for_nothing() -> None:
    used: set[str] = set()
    for file in APP.rglob("*.py"):
        if file.name != "errors.py":
            used |= {
                node.value for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }  # fmt: skip
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Problem":
                    code = node.args[0]
                    assert not isinstance(code, ast.Constant) or code.value in KINDS, f"{file}:{node.lineno}"
    assert set(KINDS) <= used


async def test_unknown_paths_and_wrong_methods(world: World) -> None:
    for client in (world.anybody, world.submitter):
        for path in (
            "/",
            "/v1",
            "/v1/nothing",
            "/v2/missions",
            "/v1/missions/",
            "/v1/../etc/passwd",
            "/%00",
            "/v1/%ff",
        ):
            for method in ("GET", "POST", "DELETE"):
                problem(await client.request(method, path), "not_found")
        allowed = {"/v1/missions": "GET, POST", "/livez": "GET", "/v1/events": "GET"}
        allowed |= {"/v1/workspaces/a/documents": "DELETE, GET, PUT", "/v1/mission-types/abc": "GET, PUT"}
        allowed |= {"/v1/policies/abc": "DELETE, GET, PUT", "/v1/policies/abc/preview": "POST"}
        for path, methods in allowed.items():
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - set(methods.split(", ")):
                answer = await client.request(method, path)
                problem(answer, "method_not_allowed")
                assert answer.headers["allow"] == methods, path
    problem(await world.inside.get("/internal/v1/nothing"), "not_found")


async def test_a_bug_says_nothing_but_its_id(world: World) -> None:
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    for app, client in ((world.public, world.submitter), (world.internal, world.inside)):
        app.add_api_route("/v1/broken", broken, methods=["GET"])
        with structlog.testing.capture_logs() as logs:
            answer = await client.get("/v1/broken")
        said = problem(answer, "internal")
        for secret in ("hunter2", "RuntimeError", "Traceback", "broken()"):
            assert secret not in str(said["detail"]) + str(answer.headers)
        [line] = [line for line in logs if line["event"] == "uncaught"]
        assert line["log_level"] == "error"


async def test_request_ids_come_back_or_are_made(world: World) -> None:
    mine = "my-request.42_" + "x" * 100
    for path in ("/v1/missions", "/livez", "/v1/nothing", "/problems/stale"):
        answer = await world.submitter.get(path, headers={"Request-Id": mine})
        assert answer.headers["request-id"] == mine
    made = set()
    for bad in (None, "", "with space", "x" * 129, "semi;colon", "\u00e9".encode("latin-1"), "<script>"):
        headers: dict[str, Any] = {} if bad is None else {"Request-Id": bad}
        answer = await world.submitter.get("/v1/missions?limit=0", headers=headers)
        problem(answer, "validation")
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["request-id"])
        made.add(answer.headers["request-id"])
    assert len(made) == 7
    said = problem(await world.submitter.get("/v1/nothing", headers={"Request-Id": mine}), "not_found")
    assert said["request_id"] == mine


async def test_nothing_of_a_refused_request_is_kept(world: World) -> None:
    before = await census(world)
    for method, path in (("GET", "/v1/nothing"), ("DELETE", "/v1/missions"), ("POST", "/livez")):
        assert (await world.submitter.request(method, path)).status_code in (404, 405)
    assert await census(world) == before


async def test_links_and_locations_are_answered_as_given(world: World) -> None:
    """Next links name the host the client spoke to, locations only a path."""
    for _ in range(2):
        made = await world.create()
    answer = await world.submitter.get("/v1/missions?limit=1&state=accepted")
    link = httpx.URL(answer.links["next"]["url"])
    assert (link.host, link.path, link.params["state"], link.params["limit"]) == (
        "root.test",
        "/v1/missions",
        "accepted",
        "1",
    )
    assert made["links"]["self"] == f"/v1/missions/{made['id']}"


async def test_bytes_that_are_no_text_are_no_fault_of_ours(world: World) -> None:
    """Tracing reads a query as UTF-8; what is not must not come that far, or do no harm there."""
    key = world.auditor.headers["authorization"].encode()
    for app in (world.public, world.internal):
        async with served_as_ever(app) as address:
            for path in (b"/v1/missions", b"/v1/whoami", b"/livez", b"/nothing"):
                for behind in (b"?limit=\xff\xfe", b"?x=%FF%FE", b"\xff?x=\xc3", b"?\xff", b"?x=\xed\xa0\x80"):
                    reader, writer = await asyncio.open_connection(*address)
                    head = b"GET " + path + behind + b" HTTP/1.1\r\nHost: root\r\nConnection: close\r\n"
                    writer.write(head + b"Authorization: " + key + b"\r\n\r\n")
                    status = int((await reader.read()).split()[1])
                    assert status == 200 or 400 <= status < 500, (path + behind, status)
                    writer.close()


@asynccontextmanager
async def served_as_ever(app: Any) -> AsyncIterator[Any]:
    """The server that a process runs, on a port of its own."""
    one = server(app, "127.0.0.1", 0)
    running = asyncio.create_task(one.serve())
    while not one.started:
        await asyncio.sleep(0.01)
    yield one.servers[0].sockets[0].getsockname()
    one.should_exit = True
    await running
