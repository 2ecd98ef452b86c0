"""The client half of every command: one HTTP connection to the root, answers as dicts, refusals as sentences."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

Url = Annotated[
    str, typer.Option("--url", envvar="MISSION_ROOT_URL", help="The root's address; else the one `up` runs here.")
]
ApiKey = Annotated[
    str, typer.Option("--api-key", envvar="MISSION_ROOT_API_KEY", help="Who you are; `up` prints one per role.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, and failures as JSON on stderr.")]

LONG_POLL_S = 25
RESTART_S = 30
ENDED = ("completed", "failed", "cancelled", "denied")

# Exit codes of problem documents: by code where it says more than the status does.
BY_CODE = {"idempotency_mismatch": 5, "too_slow": 6, "denied_by_policy": 4, "rung_not_ready": 4, "verdict_refused": 4}
BY_STATUS = {
    400: 2,
    401: 4,
    403: 4,
    404: 3,
    405: 2,
    406: 2,
    408: 6,
    409: 5,
    410: 5,
    412: 5,
    413: 2,
    415: 2,
    422: 2,
    428: 2,
    429: 7,
    502: 7,
    503: 7,
    504: 6,
}


class Failed(Exception):
    """A command that cannot end well: a sentence, an exit code, and the problem document when there is one."""

    def __init__(self, sentence: str, exit_code: int = 1, document: dict[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.document = document


@dataclass(frozen=True)
class Answer:
    """A 2xx answer. `etag` is empty where the resource has none."""

    status: int
    body: Any
    etag: str


class Client:
    """Calls as one person. Raises Failed for everything but 2xx."""

    def __init__(self, url: str, api_key: str) -> None:
        import httpx

        self.url = (url or url_of_up()).rstrip("/")
        if not api_key:
            raise Failed(
                "No API key: give --api-key or set MISSION_ROOT_API_KEY; `mission-root up` prints one per role.", 2
            )
        headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}
        timeout = httpx.Timeout(30, read=LONG_POLL_S + 30)
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Answer:
        return self.call("GET", path, parameters=parameters)

    def get_patiently(self, path: str, until: float, **parameters: Any) -> Answer:
        """The same, through a restart of the root: asked again for a while, at most to the monotonic time `until`."""
        until = min(until, time.monotonic() + RESTART_S)
        while True:
            try:
                return self.get(path, **parameters)
            except Failed as failed:
                if failed.exit_code not in (6, 7) or time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def post(
        self, path: str, body: Any = None, *, if_match: str = "", idempotency_key: str = "", **parameters: Any
    ) -> Answer:
        headers = {"If-Match": if_match, "Idempotency-Key": idempotency_key}
        content = json.dumps({} if body is None else body).encode()
        return self.call("POST", path, content, headers | {"Content-Type": "application/json"}, parameters)

    def call(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> Answer:
        import httpx

        given = {name: value for name, value in (headers or {}).items() if value}
        asked = {name: value for name, value in (parameters or {}).items() if value not in (None, "")}
        try:
            answer = self._http.request(method, path, content=content, headers=given, params=asked)
        except httpx.TimeoutException as problem:
            raise Failed(f"{self.url} did not answer in time.", 6) from problem
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            hint = "is it running? `mission-root up` starts it, --url names another"
            raise Failed(f"{self.url} cannot be reached: {problem}; {hint}.", 7) from problem
        try:
            body = answer.json()
        except ValueError:
            body = answer.text
        if answer.is_success:
            return Answer(answer.status_code, body, answer.headers.get("ETag", ""))
        raise refused(answer.status_code, body, f"{method} {path}")

    def download(self, path: str, out: Path, **parameters: Any) -> int:
        """Streams an answer into a file that appears only when it is whole. Answers its size."""
        import httpx

        asked = {name: value for name, value in parameters.items() if value}
        partial = out.with_name(out.name + ".partial")
        try:
            with self._http.stream("GET", path, params=asked, headers={"Accept": "*/*"}) as answer:
                if not answer.is_success:
                    answer.read()
                    try:
                        body = answer.json()
                    except ValueError:
                        body = answer.text
                    raise refused(answer.status_code, body, f"GET {path}")
                with partial.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
            partial.replace(out)
        except httpx.HTTPError as problem:
            raise Failed(f"{self.url} broke off: {problem}.", 7) from problem
        except OSError as problem:
            raise Failed(f"{out} cannot be written: {problem}.", 1) from problem
        finally:
            partial.unlink(missing_ok=True)
        return out.stat().st_size

    def events(self, mission: str, wait_s: float) -> Iterator[dict[str, Any]]:
        """The mission's events from its first on, as they happen; ends when `wait_s` are over.

        A root that is being restarted is waited for: the cursor says where to go on.
        """
        deadline, cursor = time.monotonic() + wait_s, ""
        while (left := deadline - time.monotonic()) > 0:
            wait = max(1, min(LONG_POLL_S, int(left)))
            path = f"/v1/missions/{mission}/events"
            page = self.get_patiently(path, deadline, wait=wait, cursor=cursor, limit=200).body
            yield from page["items"]
            cursor = page["next_cursor"]

    def pages(self, path: str, most: int, **parameters: Any) -> list[dict[str, Any]]:
        """Up to `most` items of a list."""
        items: list[dict[str, Any]] = []
        cursor: str | None = ""
        while len(items) < most and cursor is not None:
            page = self.get(path, cursor=cursor, limit=min(200, most - len(items)), **parameters).body
            items += page["items"]
            cursor = page["next_cursor"] if page["has_more"] else None
        return items


def refused(status: int, body: Any, asked: str) -> Failed:
    """A problem document as one sentence that ends with what to do next."""
    if not isinstance(body, dict) or "title" not in body:
        return Failed(f"{asked} was answered {status} without a problem document; is --url the root?", 1)
    detail = str(body.get("detail") or "")
    found = [f"{_where(error)}: {error.get('detail', '')}" for error in body.get("errors") or []]
    wrong = "; ".join(one for one in found if one not in detail)  # the first of them often is the detail
    said = " ".join([f"{body['title']}: {detail}", *([f"({wrong})"] if wrong else [])])
    next_actions = body.get("next_actions") or []
    sentence = " ".join([said, *([f"Next: {next_actions[0]}"] if next_actions else [])])
    code = str(body.get("code", ""))
    return Failed(sentence, BY_CODE.get(code, BY_STATUS.get(status, 1)), body)


def _where(error: dict[str, Any]) -> str:
    return str(error.get("pointer") or error.get("parameter") or error.get("header") or "request")


def url_of_up() -> str:
    """Where the instance of this folder answers, if one runs."""
    try:
        return str(json.loads(Path(".data/up.json").read_text())["base_url"])
    except (OSError, ValueError, KeyError):
        return "http://127.0.0.1:8080"


def segment(text: str) -> str:
    """A path segment, whatever someone typed as an id."""
    return quote(text, safe="")


def emit(body: Any) -> None:
    """One JSON document on one line of stdout."""
    sys.stdout.write(json.dumps(body, ensure_ascii=False) + os.linesep)
    sys.stdout.flush()
