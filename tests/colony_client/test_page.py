"""docs/contract.md is true: every JSON block is an example that holds, the signature can be recomputed, no refusal is missing.

After a wanted change: UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/colony_client/test_page.py, and read the page.
"""

import hashlib
import hmac
import json
import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from colony_client import artifacts, calls, examples, publish, signing
from colony_client.contract import CONTRACT_VERSION, VERSION_HEADER, EventBatch
from colony_client.wire import read_model

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
BLOCK = re.compile(r"```(\w+) ?([\w.]*)\n(.*?)```", re.DOTALL)
TABLE = re.compile(r"(<!-- refusals:([\w-]+) -->\n)(.*?)(?=\n\n[A-Z#]|\Z)", re.DOTALL)
KEY = re.compile(r"key `(\w+):(\w+)`")


def named() -> dict[str, BaseModel]:
    return examples.messages() | examples.events() | examples.artifacts()


def rendered(name: str) -> str:
    return json.dumps(named()[name].model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False) + "\n"


def table(service: calls.Service) -> str:
    rows: dict[tuple[int, str], tuple[str, str]] = {}
    for call in calls.of(service):
        for one in call.refusals:
            when, remedy = rows.get((one.status, one.code), ("", ""))
            rows[one.status, one.code] = (
                one.when if len(one.when) > len(when) else when,
                max(remedy, one.remedy, key=len),
            )
    lines = [f"| {status} | `{code}` | {when} | {remedy} |" for (status, code), (when, remedy) in sorted(rows.items())]
    return "\n".join(["| status | code | when | what to do |", "|---|---|---|---|", *lines])


def canonical_text(text: str) -> tuple[str, str]:
    """The text that is signed and the signature, worked out from the page's own request and key, with nothing of ours."""
    request = next(body for kind, name, body in BLOCK.findall(text) if (kind, name) == ("http", "signed"))
    head, _, body = request.rstrip("\n").partition("\n\n")
    line, *lines = head.split("\n")
    method, path, _ = line.split(" ")
    headers = dict(one.split(": ", 1) for one in lines)
    found = KEY.search(text)
    assert found and headers["X-Colony-Key"] == found[1]
    digest = hashlib.sha256(body.encode()).hexdigest()
    parts = ["mission-root-v1", "root", method, path, headers["X-Colony-Timestamp"], headers["X-Colony-Nonce"], digest]
    signed = "\n".join(parts)
    return signed, "v1=" + hmac.new(found[2].encode(), signed.encode(), "sha256").hexdigest()


def refreshed(text: str) -> str:
    text = BLOCK.sub(
        lambda found: f"```json {found[2]}\n{rendered(found[2])}```" if found[1] == "json" else found[0], text
    )
    text = TABLE.sub(lambda found: f"{found[1]}{table(found[2])}", text)  # type: ignore[arg-type]
    signed, signature = canonical_text(text)
    text = re.sub(r"```text signed\n.*?```", lambda _: f"```text signed\n{signed}\n```", text, flags=re.DOTALL)
    return re.sub(r"X-Colony-Signature: \S+", f"X-Colony-Signature: {signature}", text)


def test_the_page_shows_what_is_published() -> None:
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(refreshed(PAGE.read_text()))
    assert PAGE.read_text() == refreshed(PAGE.read_text()), __doc__


@pytest.mark.parametrize("name", [name for kind, name, _ in BLOCK.findall(PAGE.read_text()) if kind == "json"])
def test_every_json_block_is_taken_by_its_model(name: str) -> None:
    body = next(body for kind, said, body in BLOCK.findall(PAGE.read_text()) if (kind, said) == ("json", name))
    model = type(named()[name])
    assert read_model(model, body.encode()) == named()[name]


def test_no_block_goes_unchecked() -> None:
    text = PAGE.read_text()
    assert text.count("```") == 2 * len(BLOCK.findall(text))
    shown = [name for kind, name, _ in BLOCK.findall(text) if kind == "json"]
    assert len(shown) == len(set(shown)) > 15
    assert {kind for kind, _, _ in BLOCK.findall(text)} == {"json", "text", "http"}


def test_the_worked_signature_is_the_one_that_is_checked_here() -> None:
    text = PAGE.read_text()
    blocks = {(kind, name): body for kind, name, body in BLOCK.findall(text)}
    signed, signature = canonical_text(text)
    assert blocks["text", "signed"] == signed + "\n"
    head, _, body = blocks["http", "signed"].rstrip("\n").partition("\n\n")
    line, *lines = head.split("\n")
    headers = dict(one.split(": ", 1) for one in lines)
    assert headers["X-Colony-Signature"] == signature
    assert headers[VERSION_HEADER] == CONTRACT_VERSION
    read_model(EventBatch, body.encode())
    method, path, _ = line.split(" ")
    found = KEY.search(text)
    assert found
    keys = signing.parse_keys(f"{found[1]}:{found[2]}", "K")
    moment = examples.BEGAN.fromtimestamp(int(headers["X-Colony-Timestamp"]), examples.BEGAN.tzinfo)
    checked = signing.check(keys, method, path, body.encode(), "root", headers, now=moment)
    assert checked.kid == "k1" and checked.nonce == headers["X-Colony-Nonce"]
    assert f"{hashlib.sha256(b'').hexdigest()[:8]}…{hashlib.sha256(b'').hexdigest()[-4:]}" in text


def test_what_the_page_counts_is_so() -> None:
    text = PAGE.read_text()
    start, characters = examples.TEXT.encode().index(examples.SENTENCE.encode()), examples.TEXT.index(examples.SENTENCE)
    assert f"byte {start}, where counting characters would say {characters}" in re.sub(r"\s+", " ", text)
    for name in artifacts.ARTIFACT_TYPES:
        assert f"(../colony_client/published/{CONTRACT_VERSION}/schemas/{name}.json)" in text
    for kind in publish.EVENTS:
        assert f"`{kind}`" in text
    for call in calls.CALLS:
        assert call.path in text, call.path
