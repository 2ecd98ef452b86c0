"""`mission-root workspace …`: documents in."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.cli import show
from app.cli.client import ApiKey, AsJson, Client, Failed, Url, emit, segment
from app.cli.lists import Limit, listed

app = typer.Typer(help="The documents that missions may read.", no_args_is_help=True)

MEDIA_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".mdx": "text/markdown",
    ".rst": "text/x-rst",
    ".rest": "text/x-rst",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "application/xhtml+xml",
    ".pdf": "application/pdf",
}
TAKEN = ", ".join(sorted(MEDIA_TYPES))
LEVELS = ("authoritative", "normal", "untrusted")
FIRST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()  # older files count as from then
AT_ONCE = 4
TRIES = 5  # of one document, while the root says it is busy


@dataclass
class Ingested:
    """What became of a folder's documents. `refused` maps a path to the reason."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, object]:
        outcomes = {name: self.counts[name] for name in ("added", "updated", "unchanged")}
        return {**outcomes, "refused": [{"path": path, "reason": why} for path, why in sorted(self.refused.items())]}


@app.callback()
def group() -> None:
    """The documents that missions may read."""


@app.command()
def ingest(
    path: Annotated[Path, typer.Argument(exists=True, readable=True, help="A document, or a folder of documents.")],
    workspace: Annotated[str, typer.Option(help="The workspace's name.")] = "default",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Upload every Markdown, reStructuredText, text, HTML and PDF document below PATH; unchanged ones cost nothing.

    A document that cannot be read is named with its reason and does not stop the others; the exit code is 1 when
    none could be stored.
    """
    found = dict(documents(path))
    if not found:
        raise Failed(f"{path} holds no document that can be read ({TAKEN}).", 2)
    if path.is_file() and not taken(path):
        raise Failed(f"{path} is of no kind that is taken ({TAKEN}).", 2)
    with Client(url, api_key) as client, show.counting(len(found), f"Ingesting {path}", quiet=as_json) as advance:
        done = ingest_documents(client, workspace, found, advance)
    emit({"workspace": workspace, **done.summary()}) if as_json else show.ingested(workspace, done.summary())
    if not done.counts:
        raise Failed(f"No document of {path} was stored.", 1)


@app.command("list")
def list_(limit: Limit = 200, url: Url = "", api_key: ApiKey = "", as_json: AsJson = False) -> None:
    """The workspaces there are."""
    with Client(url, api_key) as client:
        items = client.pages("/v1/workspaces", limit)
    listed(
        items, as_json, ("name", "documents", "passages"),
        lambda one: (one["name"], one["documents"], one["passages"]),
        "No workspace yet: mission-root workspace ingest FOLDER",
    )  # fmt: skip


@app.command("documents")
def documents_(
    workspace: Annotated[str, typer.Argument(help="The workspace's name.")] = "default",
    limit: Limit = 200,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """What is in a workspace."""
    with Client(url, api_key) as client:
        items = client.pages(f"/v1/workspaces/{segment(workspace)}/documents", limit)
    listed(
        items, as_json, ("document", "kind", "passages", "SHA-256"),
        lambda one: (one["document"], one["kind"], one["passages"], one["source"]),
        f"Nothing is in it: mission-root workspace ingest FOLDER --workspace {workspace}",
    )  # fmt: skip


@app.command()
def remove(
    document: Annotated[str, typer.Argument(help="The document's name in the workspace.")],
    workspace: Annotated[str, typer.Option(help="The workspace's name.")] = "default",
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Take a document out: missions find it no more. What was cited of it stays provable."""
    with Client(url, api_key) as client:
        client.call("DELETE", f"/v1/workspaces/{segment(workspace)}/documents", parameters={"path": document})
    emit({"document": document, "state": "removed"}) if as_json else show.line(f"{document} is out of {workspace}.")


@app.command()
def trust(
    workspace: Annotated[str, typer.Argument(help="The workspace's name.")] = "default",
    rules: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RULE]...",
            help="PATTERN=CLASS, or records:PATTERN=CLASS; CLASS is authoritative, normal or untrusted. They replace all there are.",
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all rules away: everything is normal again.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Show earlier versions, too.")] = False,
    url: Url = "",
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """How far the workspace's documents, and the records its missions read, are trusted; with RULEs, say it anew.

    The first rule that fits counts: `policies/**=authoritative wiki/**=untrusted records:sample_crm/**=authoritative`.
    Changing takes the role product_owner or admin.
    """
    path = f"/v1/workspaces/{segment(workspace)}/trust"
    said = {"rules": [rule(text) for text in rules or []]}
    with Client(url, api_key) as client:
        try:
            found, seen = (answer := client.get(path)).body, answer.etag
        except Failed as missing:
            if missing.exit_code != 3 or not (rules or clear):
                raise
            found, seen = {}, ""
        if rules or clear:
            found = client.put(path, said, if_match=seen).body
    emit(found) if as_json else show.trust(found, history)


def rule(text: str) -> dict[str, str]:
    pattern, equals, level = text.rpartition("=")
    if not equals or level not in LEVELS:
        raise Failed(f"{text} is no rule; one looks like policies/**=authoritative ({', '.join(LEVELS)}).", 2)
    of, colon, rest = pattern.partition(":")
    known = colon and of in ("documents", "records")
    return {"of": of if known else "documents", "pattern": rest if known else pattern, "trust": level}


def changed(file: Path) -> str:
    """When the file system says that a file was last changed. Of a fresh checkout that is young; the root takes no younger
    word than a document's own."""
    return datetime.fromtimestamp(max(file.stat().st_mtime, FIRST), UTC).isoformat()


def documents(path: Path) -> Iterator[tuple[str, Path]]:
    """(name in the workspace, file) of every readable document; hidden folders and installed packages are passed by."""
    if path.is_file():
        yield path.name, path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in ("node_modules", "__pycache__")
        )
        for name in sorted(names):
            file = Path(folder, name)
            if taken(file) and not name.startswith(".") and file.is_file():
                yield file.relative_to(path).as_posix(), file


def taken(file: Path) -> bool:
    return file.suffix.lower() in MEDIA_TYPES


def ingest_documents(
    client: Client, workspace: str, found: dict[str, Path], advance: Callable[[], None] = lambda: None
) -> Ingested:
    """Uploads them, a few at a time. A refusal of one is noted; an unreachable root or a refused key ends it."""
    done = Ingested()

    def upload(item: tuple[str, Path]) -> None:
        name, file = item
        if not taken(file):
            done.refused[name] = f"It is of no kind that is taken ({TAKEN})."
            return advance()
        try:
            done.counts[_put(client, workspace, name, file)] += 1
        except OSError as problem:
            done.refused[name] = f"{problem.strerror}."
        except Failed as refused:
            if refused.exit_code != 2:
                raise
            done.refused[name] = str((refused.document or {}).get("detail") or refused)
        advance()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for _ in pool.map(upload, found.items()):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done


def _put(client: Client, workspace: str, name: str, file: Path) -> str:
    """added, updated or unchanged."""
    kind = {"Content-Type": MEDIA_TYPES[file.suffix.lower()]}
    for tries_left in reversed(range(TRIES)):
        try:
            path = f"/v1/workspaces/{segment(workspace)}/documents"
            asked = {"path": name, "written_at": changed(file)}
            answer = client.call("PUT", path, file.read_bytes(), kind, asked)
            return str(answer.body["outcome"])
        except Failed as failed:
            if failed.exit_code != 7 or failed.document is None or not tries_left:
                raise
            time.sleep(1)  # busy, by its own word
    raise AssertionError("the last try returns or raises")
