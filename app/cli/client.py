"""The client half of every command: one HTTP connection to the root, answers as dicts, refusals as sentences."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from app.cli import show
from app.cli.refusals import Failed, refused

if TYPE_CHECKING:
    import httpx

Url = Annotated[
    str, typer.Option("--url", envvar="MISSION_ROOT_URL", help="The root's address; else the one `up` runs here.")
]
ApiKey = Annotated[
    str,
    typer.Option(
        "--api-key",
        envvar="MISSION_ROOT_API_KEY",
        help="Who you are; `up` prints one per role, and in its folder the role's name will do.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, and failures as JSON on stderr.")]

JSON = "application/json"
DEFAULT_URL = "http://127.0.0.1:8080"
NEEDLESS = ("httpx._main", "h2")  # what httpx loads where it can: its own command line with pygments, and HTTP/2
LONG_POLL_S = 25
RESTART_S = 30
ENDED = ("completed", "failed", "cancelled", "denied")


@dataclass(frozen=True)
class Answer:
    """A 2xx answer. `etag` is empty where the resource has none."""

    status: int
    body: Any
    etag: str


class Client:
    """Calls as one person. Raises Failed for everything but 2xx."""

    def __init__(self, url: str, api_key: str) -> None:
        here = of_up()
        self.url = (url or str(here.get("base_url") or DEFAULT_URL)).rstrip("/")
        if not api_key:
            raise Failed(
                "No API key: give --api-key or set MISSION_ROOT_API_KEY; `mission-root up` prints one per role, and in its "
                "folder the role's name will do.",
                2,
            )
        if self.url == here.get("base_url"):
            api_key = str(here["keys"].get(api_key, api_key))
        headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}
        self._http = connection(self.url, headers)

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
        return self.call("POST", path, content, headers | {"Content-Type": JSON}, parameters)

    def put(self, path: str, body: Any, *, if_match: str = "", kind: str = "", **parameters: Any) -> Answer:
        """body: what is sent as JSON, or bytes of the given kind as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("PUT", path, content, {"If-Match": if_match, "Content-Type": kind or JSON}, parameters)

    def delete(self, path: str, *, if_match: str = "", **parameters: Any) -> Answer:
        return self.call("DELETE", path, None, {"If-Match": if_match}, parameters)

    def etag_of(self, path: str) -> str:
        """The version that is there now; empty where there is none yet."""
        try:
            return self.get(path).etag
        except Failed as missing:
            if missing.exit_code != 3:
                raise
            return ""

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
            with show.patience(f"{method} {path}"):
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
            with (
                show.patience(f"writing {out}"),
                self._http.stream("GET", path, params=asked, headers={"Accept": "*/*"}) as answer,
            ):
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


def connection(url: str, headers: dict[str, str]) -> "httpx.Client":
    """What requests go through. Reading the authorities that TLS trusts takes longer than most answers: where the address
    wants no TLS, none is trusted. SSL_CERT_FILE and SSL_CERT_DIR say which, as they do to other programs. Raises Failed."""
    import ssl

    with without(*NEEDLESS):
        import httpx

        plain = url.startswith("http://")
        try:
            trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else httpx.create_ssl_context()
        except OSError as problem:  # no such file, or nothing in it that is a certificate
            file = os.environ.get("SSL_CERT_FILE", "")
            raise Failed(f"SSL_CERT_FILE {file} holds no certificates that can be read: {problem}.", 2) from problem
        timeout = httpx.Timeout(30, read=LONG_POLL_S + 30)
        return httpx.Client(base_url=url, headers=headers, timeout=timeout, verify=trusted, trust_env=False)


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Meanwhile these are not there for whoever would import them if they were; those that are imported already stay."""
    absent: dict[str, Any] = {name: None for name in modules if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def of_up() -> dict[str, Any]:
    """What `up` says of the instance that runs in this folder; empty where none does."""
    try:
        found: dict[str, Any] = json.loads(Path(".data/up.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found.get("base_url"), str) and isinstance(found.get("keys"), dict) else {}


def url_of_up() -> str:
    """Where the instance of this folder answers, if one runs."""
    return str(of_up().get("base_url") or DEFAULT_URL)


def segment(text: str) -> str:
    """A path segment, whatever someone typed as an id."""
    return quote(text, safe="")


def emit(body: Any) -> None:
    """One JSON document on one line of stdout."""
    sys.stdout.write(json.dumps(body, ensure_ascii=False) + os.linesep)
    sys.stdout.flush()


__all__ = [
    "DEFAULT_URL", "ENDED", "JSON", "Answer", "ApiKey", "AsJson", "Client", "Failed", "Url", "emit", "segment", "url_of_up",
]  # fmt: skip
