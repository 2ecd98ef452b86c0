"""The file of providers: what it may say, and the one sentence that stops a process when it says anything else."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.model_gateway import Gateway
from app.model_gateway.providers import Model, Registry, load
from app.settings import Misconfigured, Settings
from tests.models.conftest import MODEL, described

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "models.yaml"
GOOD = described("east", "https://models.example.com")


def settings(file: Path | None, **more: Any) -> Settings:
    return Settings(_env_file=None, model_providers=str(file) if file else None, **more)  # type: ignore[call-arg]


def registry(folder: Path, document: Any, **more: Any) -> Registry:
    file = folder / "models.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return load(settings(file, **more))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY_TESTS", "key-canary-1")


def changed(**more: Any) -> dict[str, Any]:
    return {"providers": [GOOD | more]}


BAD: list[tuple[Any, str]] = [
    ("{", "is neither JSON nor YAML that stands for JSON (line 1)"),
    ([], "the file: Input should be"),
    ({"providers": []}, "providers: List should have at least 1 item"),
    (changed(colour="blue"), "providers/0/colour: Extra inputs are not permitted"),
    (changed(name="East"), "providers/0/name: String should match pattern"),
    (changed(owner=""), "providers/0/owner:"),
    (changed(base_url="ftp://x"), "providers/0/base_url: must be an http or https URL"),
    (changed(base_url="http://models.example.com"), "base_url of east must begin with https://"),
    (changed(base_url="https://127.0.0.1"), "base_url of east names an address that is not public"),
    (changed(base_url="https://user:key-canary-2@x.example"), "providers/0/base_url:"),
    (changed(key="DATABASE_URL"), "providers/0/key: must be the name of an environment variable that begins with MODEL_KEY_"),
    (changed(key="sk-key-canary-3"), "providers/0/key: must be the name"),
    (changed(key="MODEL_KEY_ABSENT"), "MODEL_KEY_ABSENT is not set, and MODEL_PROVIDERS names it as the key of east."),
    (changed(reach="moon"), "providers/0/reach:"),
    (changed(classes=[]), "providers/0/classes:"),
    (changed(classes=["secret"]), "providers/0/classes/0:"),
    (changed(timeouts={"whole_ms": 0}), "providers/0/timeouts/whole_ms:"),
    (changed(models={}), "providers/0/models:"),
    (changed(models={"a b": MODEL}), "providers/0/models/a b:"),
    (changed(models={"m": MODEL | {"input_usd": -1}}), "providers/0/models/m/input_usd:"),
    (changed(models={"m": MODEL | {"context_tokens": "many"}}), "providers/0/models/m/context_tokens:"),
    (changed(models={"m": MODEL | {"output_tokens": 9000}}), "east says of m that its output is larger than its context."),
    ({"providers": [GOOD, GOOD]}, "two providers have the same name."),
    ({"providers": [GOOD], "fallback": {"small": ["west"]}}, "fallback/small must name providers that have the model, each once."),
    ({"providers": [GOOD], "fallback": {"large": ["east"]}}, "fallback/large must name"),
    ({"providers": [GOOD], "fallback": {"small": ["east", "east"]}}, "fallback/small must name"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "sentence"), BAD)
def test_a_wrong_file_is_one_sentence_that_names_the_place(tmp_path: Path, document: Any, sentence: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        registry(tmp_path, document)
    said = str(refused.value)
    assert sentence in said and "MODEL_" in said and "\n" not in said and said.endswith(".")
    assert "key-canary" not in said


def test_a_file_that_is_not_there_stops_the_process_and_so_does_a_key_that_cannot_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Misconfigured, match=r"^MODEL_PROVIDERS: .*cannot be read \(FileNotFoundError\)\.$"):
        load(settings(tmp_path / "nowhere.yaml"))
    monkeypatch.setenv("MODEL_KEY_TESTS", "two words")
    with pytest.raises(Misconfigured, match=r"^MODEL_KEY_TESTS holds what cannot be sent"):
        registry(tmp_path, changed())


def test_serve_ends_with_that_sentence(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("providers: []\n")
    given = {
        "PATH": os.environ["PATH"], "MODEL_PROVIDERS": str(file), "COLONY_SERVICE_API_KEY": "a:change-me-change-me",
        "ROOT_SIGNING_KEY": "a:change-me-change-me", "REGISTRAR_KEY": "a:change-me-change-me",
        "DATABASE_URL": "postgresql://x@127.0.0.1:9/x", "READER_DATABASE_URL": "postgresql://x@127.0.0.1:9/x",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "app.main"],
        cwd=Path(__file__).parents[2],
        env=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("mission-root: MODEL_PROVIDERS: providers: List should have")


async def test_the_documented_example_is_a_good_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL_KEY_EAST", "MODEL_KEY_WEST"):
        monkeypatch.setenv(name, "x")
    gateway = Gateway.of(settings(EXAMPLE))
    names = [[one.provider.name for one in targets] for _, targets in sorted(gateway.registry.routes.items())]
    assert names == [["east"], ["west", "east"], ["inside"]]
    assert str(EXAMPLE.name) in (EXAMPLE.parents[1] / "models.md").read_text()
    await gateway.close()


def test_the_order_is_the_files_unless_it_is_named(tmp_path: Path) -> None:
    two = [GOOD, described("west", "https://west.example.com")]
    order = [one.provider.name for one in registry(tmp_path, {"providers": two}).routes["small"]]
    assert order == ["east", "west"]
    only = registry(tmp_path, {"providers": two, "fallback": {"small": ["west"]}})
    assert [one.provider.name for one in only.routes["small"]] == ["west"]
    assert load(settings(None)) == Registry()


def test_inside_may_be_private_and_outside_may_not(tmp_path: Path) -> None:
    assert registry(tmp_path, changed(base_url="http://10.1.2.3:8000", reach="internal")).routes
    assert registry(tmp_path, changed(base_url="http://10.1.2.3:8000"), outbound_allowed_hosts="10.1.2.3:8000").routes
    with pytest.raises(Misconfigured):
        registry(tmp_path, changed(base_url="http://10.1.2.3:8000"))


def test_prices_are_rounded_up_in_the_last_place_that_is_kept() -> None:
    cheap = Model(**(MODEL | {"input_usd": 0.0001, "output_usd": 3.3}))
    assert cheap.cost(1, 0) == Decimal("0.00000001")
    assert cheap.cost(0, 1_000_000) == Decimal("3.3") and cheap.cost(0, 0) == 0
