"""What is published is what the models say, and every example in it holds.

After a wanted change: python -m colony_client.publish, and commit what it wrote.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from pydantic import BaseModel

from colony_client import artifacts as a
from colony_client import calls, contract, examples, publish, signing
from colony_client.contract import CONTRACT_VERSION
from colony_client.wire import read_model

MADE = publish.documents()
HERE = publish.PUBLISHED / CONTRACT_VERSION
# What was published stays as it was published: the hash over all files of a version, in the order of their paths.
OLDER = {
    "1.0": "5fcfeae1894267618b42004a8aec324fbf967a11ee9bf7ec6cc26cb38e5b8755",
    "1.1": "8c4d2e7dc3886c4240a64e8e10fc9d2b87a1d534f8c4f7d39d41e0ab6d50b759",
}


def test_the_files_are_what_is_generated() -> None:
    stored = {file.relative_to(HERE).as_posix(): file.read_text() for file in HERE.rglob("*.json")}
    assert stored == {path: publish.text(document) for path, document in MADE.items()}, publish.__doc__


@pytest.mark.parametrize("version", OLDER)
def test_an_older_version_stays_as_it_was_published(version: str) -> None:
    folder = publish.PUBLISHED / version
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.json")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\n" + file.read_bytes())
    assert digest.hexdigest() == OLDER[version]


def test_every_version_but_ours_is_watched() -> None:
    assert {folder.name for folder in publish.PUBLISHED.iterdir()} == {*OLDER, CONTRACT_VERSION}


def test_writing_removes_what_is_no_longer_said(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/old.json").write_text("{}")
    written = publish.write(tmp_path)
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.json")} == set(MADE) and len(
        written
    ) == len(MADE)


def test_it_is_one_command() -> None:
    done = subprocess.run([sys.executable, "-m", "colony_client.publish"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"{len(MADE)} documents" in done.stderr, done.stderr


@pytest.mark.parametrize("path", [path for path in MADE if path.startswith("schemas/")])
def test_a_schema_is_valid_stands_alone_and_takes_its_examples(path: str) -> None:
    schema = MADE[path]
    assert schema["$schema"] == publish.DIALECT
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    assert "examples" in schema or path == "schemas/problem.json"
    for example in schema.get("examples", ()):
        validator.validate(example)
        if schema.get("additionalProperties") is False:
            assert not validator.is_valid(example | {"surprise": 1}), "an unknown field is refused"
        for name in schema.get("required", ()):
            assert not validator.is_valid({key: value for key, value in example.items() if key != name}), name


@pytest.mark.parametrize("service", publish.ABOUT)
def test_an_openapi_document_hangs_together_and_takes_its_examples(service: calls.Service) -> None:
    document = MADE[f"{service}.openapi.json"]
    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in target, reference
            target = target[step]
    checked = 0
    for path, operations in document["paths"].items():
        for operation in operations.values():
            names = {one["name"] for one in operation["parameters"] if one.get("in") == "path"}
            assert names == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            bodies = [operation["requestBody"]] if "requestBody" in operation else []
            for one in [*bodies, *operation["responses"].values()]:
                for content in one["content"].values():
                    validator = jsonschema_rs.validator_for(
                        content["schema"] | {"components": document["components"]}, validate_formats=True
                    )
                    assert content["examples"], operation["operationId"]
                    for example in content["examples"].values():
                        validator.validate(example["value"])
                        checked += 1
    assert checked > 15
    for parameter in document["components"]["parameters"].values():
        jsonschema_rs.validator_for(parameter["schema"]).validate(parameter["example"])


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_everything_has_a_schema_and_an_example() -> None:
    kinds: dict[str, type[BaseModel]] = publish.MESSAGES | publish.EVENTS | a.ARTIFACT_TYPES
    assert set(publish.EVENTS) == {one.model_fields["type"].default for one in get_args(get_args(contract.Event)[0])}
    assert len(a.ARTIFACT_TYPES) == 10 and set(a.ARTIFACT_TYPES) == set(examples.artifacts())
    named = examples.messages() | examples.events() | examples.artifacts()
    assert set(kinds) - {"problem"} <= set(named)
    for name, example in named.items():
        body = example.model_dump_json().encode()
        assert read_model(type(example), body) == example, name


def test_the_story_that_the_examples_tell_is_true() -> None:
    sources = {hashlib.sha256(text.encode()).hexdigest(): text.encode() for text in (examples.TEXT, examples.LEAD_TEXT)}
    found = 0

    def look(node: Any) -> None:
        nonlocal found
        if isinstance(node, dict):
            if "quote_sha256" in node:
                quoted = sources[node["source"]][node["start"] : node["end"]]
                assert quoted.decode() == node["quote"] and a.quote_sha256(quoted) == node["quote_sha256"]
                found += 1
            for value in node.values():
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    for one in (*examples.artifacts().values(), *examples.events().values()):
        look(one.model_dump(mode="json"))
    assert found > 5
    assert len(examples.TEXT) < len(examples.TEXT.encode()), "offsets in characters would be other numbers"
    envelope = examples.artifacts()["mission_envelope"]
    assert isinstance(envelope, a.MissionEnvelope) and a.contract_hash(envelope) == envelope.contract_hash


def test_the_headers_are_those_that_are_signed_with() -> None:
    keys = signing.parse_keys("k1:0123456789abcdef", "K")
    signed = signing.sign(keys, "GET", "/health", b"", "colony")
    assert {*publish.HEADERS, contract.VERSION_HEADER} == set(signed)
    for name, (pattern, example, _) in publish.HEADERS.items():
        validator = jsonschema_rs.validator_for({"type": "string", "pattern": pattern})
        assert validator.is_valid(signed[name]) and validator.is_valid(example)


def test_a_refusal_that_names_a_time_has_the_header_for_it() -> None:
    for service in publish.ABOUT:
        document = MADE[f"{service}.openapi.json"]
        for call in calls.of(service):
            for one in call.refusals:
                said = document["paths"][call.path][call.method]["responses"][str(one.status)]
                assert one.code in said["x-codes"] or one.status in call.also
                assert not one.retry_after or "Retry-After" in said["headers"]


def test_nothing_is_published_that_json_does_not_say_alike() -> None:
    for path, document in MADE.items():
        assert json.loads(publish.text(document)) == document, path
