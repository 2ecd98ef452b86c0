"""The environment contract: documented completely, and a wrong value stops a process with one sentence."""

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from app import settings as root
from app.main import Root
from app.worker import run as run_worker
from colony import settings as colony
from tests.world.forked import forked

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / ".env.example"
LINE = re.compile(r"^(#?)([A-Z][A-Z0-9_]*)=(\S*)(\s+# .+)?$")
COMPLETE = {
    "DATABASE_URL": "postgresql://api:password-of-api@127.0.0.1:1/x",
    "READER_DATABASE_URL": "postgresql://reader:password-of-reader@127.0.0.1:1/x",
    "WORKER_DATABASE_URL": "postgresql://worker:password-of-worker@127.0.0.1:1/x",
    "COLONY_SERVICE_API_KEY": "a:sixteen-or-more-letters",
    "ROOT_SIGNING_KEY": "a:sixteen-or-more-letters",
    "REGISTRAR_KEY": "a:sixteen-or-more-letters",
}


def example() -> dict[str, tuple[bool, str]]:
    """The example's settings: name -> (whether it is in force, value). A later line may repeat an earlier one as a comment."""
    found: dict[str, tuple[bool, str]] = {}
    for line in EXAMPLE.read_text().splitlines():
        if match := LINE.match(line):
            assert match[2] not in found or match[1], f"{match[2]} is set twice"
            found.setdefault(match[2], (not match[1], match[3]))
        else:
            assert not line or line.startswith("# "), line
    return found


def names(model: type[BaseSettings]) -> set[str]:
    return {name.upper() for name in model.model_fields}


def test_the_example_lists_exactly_the_settings() -> None:
    assert set(example()) == names(root.Settings) | names(colony.Settings)


def test_the_example_can_be_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in example():
        monkeypatch.delenv(name, raising=False)
    loaded = root.Settings(_env_file=EXAMPLE)  # type: ignore[call-arg]
    Root(loaded)  # a process that serves HTTP starts with it: no write credential is in force
    for name, (in_force, value) in example().items():
        if in_force:
            monkeypatch.setenv(name, value)
    colony.Settings()  # type: ignore[call-arg]


def test_the_examples_values_are_the_defaults_or_say_change_me() -> None:
    for model in (root.Settings, colony.Settings):
        for name, field in model.model_fields.items():
            in_force, said = example()[name.upper()]
            if field.default is None or field.is_required() or (model is colony.Settings and name == "port"):
                continue
            default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert in_force and said == default, f"{name.upper()} is {default} by default, not {said}"
    for name, (_, said) in example().items():
        if re.search(r"(KEY|TOKEN|DATABASE_URL)$", name) and said:
            assert "change-me" in said, name


WRONG: dict[str, dict[str, Any]] = {
    "PORT": {"PORT": "http"},
    "PORT too low": {"PORT": "0"},
    "INTERNAL_PORT": {"INTERNAL_PORT": "65536"},
    "ENVIRONMENT": {"ENVIRONMENT": "prod"},
    "LOG_LEVEL": {"LOG_LEVEL": "loud"},
    "DATABASE_URL": {"DATABASE_URL": "mysql://root:s3cret-s3cret@db/x"},
    "DATABASE_URL without a port number": {"DATABASE_URL": "postgresql://root:s3cret-s3cret@db:port/x"},
    "WORKER_DATABASE_URL": {"WORKER_DATABASE_URL": "localhost"},
    "DATABASE_ROLE_PREFIX": {"DATABASE_ROLE_PREFIX": "Mission Root"},
    "DATABASE_POOL_SIZE": {"DATABASE_POOL_SIZE": "1"},
    "DATABASE_POOLED": {"DATABASE_POOLED": "sometimes"},
    "DATABASE_DIRECT_ADDRESS": {"DATABASE_DIRECT_ADDRESS": "postgresql://root:s3cret-s3cret@db:5432"},
    "DATABASE_DIRECT_ADDRESS without a port": {"DATABASE_DIRECT_ADDRESS": "db"},
    "COLONY_ENABLED": {"COLONY_ENABLED": "perhaps"},
    "COLONY_SERVICE_BASE_URL": {"COLONY_SERVICE_BASE_URL": "ftp://colony"},
    "COLONY_SERVICE_BASE_URL without a host": {"COLONY_SERVICE_BASE_URL": "http://"},
    "COLONY_SERVICE_BASE_URL without a port number": {"COLONY_SERVICE_BASE_URL": "http://colony:99999"},
    "CALLBACK_BASE_URL with credentials": {"CALLBACK_BASE_URL": "http://user:s3cret-s3cret@root"},
    "CRM_BASE_URL": {"CRM_BASE_URL": "crm"},
    "COLONY_SERVICE_API_KEY bare": {"COLONY_SERVICE_API_KEY": "s3cret-s3cret-s3cret"},
    "COLONY_SERVICE_API_KEY short": {"COLONY_SERVICE_API_KEY": "a:s3cret"},
    "ROOT_SIGNING_KEY twice": {"ROOT_SIGNING_KEY": "a:s3cret-s3cret-s3cret,a:s3cret-s3cret-s3cret"},
    "ROOT_SIGNING_KEY many": {"ROOT_SIGNING_KEY": ",".join(f"k{n}:s3cret-s3cret-s3cret" for n in range(9))},
    "COLONY_TIMEOUT_MS": {"COLONY_TIMEOUT_MS": "-1"},
    "COLONY_DEFAULT_TOKEN_BUDGET": {"COLONY_DEFAULT_TOKEN_BUDGET": "lots"},
    "MISSION_LEASE_MS": {"MISSION_LEASE_MS": "1"},
    "APPROVAL_QUEUE_LIMIT": {"APPROVAL_QUEUE_LIMIT": "-1"},
    "COMPONENT_LOOK_S": {"COMPONENT_LOOK_S": "0"},
    "DRILL_KEY": {"DRILL_KEY": "s3cret-s3cret-s3cret"},
    "DRILL_INTERVAL_S": {"DRILL_INTERVAL_S": "-1"},
    "ROOT_BASE_URL": {"ROOT_BASE_URL": "root"},
    "LIVENESS_INTERVAL_S": {"LIVENESS_INTERVAL_S": "0"},
    "MISSION_MAX_ATTEMPTS": {"MISSION_MAX_ATTEMPTS": "0"},
    "MAX_BODY_BYTES": {"MAX_BODY_BYTES": "1"},
    "TRACE_SAMPLE_RATIO": {"TRACE_SAMPLE_RATIO": "2"},
    "OIDC_ALGORITHMS": {"OIDC_ALGORITHMS": "RS256,none"},
    "OIDC_ALGORITHMS with a shared secret": {"OIDC_ALGORITHMS": "HS256"},
    "OIDC_ISSUER": {"OIDC_ISSUER": "id.example.com"},
    "OTEL_EXPORTER_OTLP_ENDPOINT": {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
    "BUS_URL": {"BUS_URL": "http://root:s3cret@bus:4222"},
    "BUS_URL without a host": {"BUS_URL": "nats://bus:4222,nats://root:s3cret@:4222"},
    "BUS_URL with a port that is none": {"BUS_URL": "tls://root:s3cret@bus:https"},
    "BUS_STREAM": {"BUS_STREAM": "mission root"},
}


@pytest.mark.parametrize(("case", "wrong"), WRONG.items(), ids=WRONG)
def test_a_wrong_value_is_one_sentence(
    case: str, wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # away from any .env
    for name, value in (COMPLETE | wrong).items():
        monkeypatch.setenv(name, value)
    root.load.cache_clear()
    with pytest.raises(root.Misconfigured) as refused:
        root.load()
    root.load.cache_clear()
    sentence = str(refused.value)
    assert case.split()[0] in sentence
    assert sentence.endswith(".") and "\n" not in sentence and "s3cret" not in sentence
    assert refused.value.__suppress_context__


def test_a_pooler_needs_the_address_of_postgresql_itself() -> None:
    urls = {"database_url": "postgresql://mission_root_api:s3cret%40word@pooler:6432/m?sslmode=require"}
    with pytest.raises(
        root.Misconfigured, match=r"^DATABASE_POOLED is true, and DATABASE_DIRECT_ADDRESS is not set: .+\.$"
    ):
        root.Settings(_env_file=None, **urls, database_pooled=True).database("database_url")  # type: ignore[call-arg]
    whole = root.Settings(_env_file=None, **urls, database_pooled=True, database_direct_address="db:5432")  # type: ignore[call-arg]
    found = whole.database("database_url")
    assert found.pooled and found.url == urls["database_url"]
    assert found.direct_url == urls["database_url"].replace("pooler:6432", "db:5432")
    assert "s3cret" not in repr(found)


def test_several_wrong_values_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"PORT": "x", "LOG_LEVEL": "loud", "COLONY_ENABLED": "perhaps"}.items():
        monkeypatch.setenv(name, value)
    root.load.cache_clear()
    with pytest.raises(root.Misconfigured, match=r"\(2 more settings are wrong\)\.$"):
        root.load()
    root.load.cache_clear()


@pytest.mark.parametrize(
    "missing", ["DATABASE_URL", "READER_DATABASE_URL", "COLONY_SERVICE_API_KEY", "ROOT_SIGNING_KEY", "REGISTRAR_KEY"]
)
async def test_a_missing_value_is_named(missing: str) -> None:
    given = {name.lower(): value for name, value in COMPLETE.items() if name != missing}
    with pytest.raises(root.Misconfigured, match=f"^{missing} is not set, and this process needs it.$"):
        Root(root.Settings(_env_file=None, **given))  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize("held", ["CRM_WRITE_TOKEN", "EXECUTOR_DATABASE_URL"])
async def test_a_process_that_serves_http_holds_no_write_credential(held: str) -> None:
    given = {name.lower(): value for name, value in COMPLETE.items()}
    given[held.lower()] = "postgresql://executor:write-secret@127.0.0.1:1/x"
    with pytest.raises(root.Misconfigured) as refused:
        Root(root.Settings(_env_file=None, **given))  # type: ignore[arg-type, call-arg]
    assert str(refused.value).startswith(f"{held} is set, but only the executor may hold")
    assert "write-secret" not in str(refused.value)


# Each process but the executor, as it is started; a new one belongs here, or the test after these fails.
STARTED = {"app.main": ("CRM_WRITE_TOKEN", "CONNECTOR_ACME__ERP_WRITE"), "app.worker": ("CRM_WRITE_TOKEN", "CONNECTOR_ACME__ERP_WRITE"),
           "app.registrar": ("CRM_WRITE_TOKEN", "CONNECTOR_ACME__ERP_WRITE")}  # fmt: skip


def test_every_process_but_the_executor_refuses_every_write_credential(tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in names(root.Settings)}
    more = {
        "REGISTRAR_DATABASE_URL": "postgresql://r:password@127.0.0.1:1/x",
        "REGISTRAR_KEY": "a:sixteen-or-more-letters",
    }
    for module, held in [(module, held) for module, helds in STARTED.items() for held in helds]:
        given = inherited | COMPLETE | (more if module == "app.registrar" else {}) | {held: "write-secret-write-secret"}
        code, out, error = forked(import_module(module).run, given, tmp_path)
        assert (code, out) == (2, ""), (module, held, error)
        assert error.startswith(f"mission-root: {held} is set, but only the executor may hold a write credential"), (
            module,
            error,
        )
        assert "write-secret" not in error


def test_the_processes_above_are_all_there_are_beside_the_executor() -> None:
    begins = re.compile(r"\b(setup|process\.run)\(")
    entries = {f"app.{file.stem}" for file in (REPOSITORY / "app").glob("*.py") if begins.search(file.read_text())}
    assert entries - {"app.executor", "app.telemetry", "app.process"} == set(STARTED)


def test_credentials_of_connectors_come_from_the_environment_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(
        "CONNECTOR_A__B_READ=from-file\nCONNECTOR_A__C_READ=from-file\nconnector_a__d_READ=x\nCONNECTOR_A__E=x\n"
    )
    monkeypatch.setenv("CONNECTOR_A__B_READ", "from-environment")
    monkeypatch.setenv("CONNECTOR_A__F_WRITE", "")
    found = root.Settings()
    said = {name: value.get_secret_value() for name, value in found.connector_credentials.items()}
    assert said == {"CONNECTOR_A__B_READ": "from-environment", "CONNECTOR_A__C_READ": "from-file"}
    assert "from-file" not in repr(found) and "from-environment" not in str(found.connector_credentials)
    assert found.write_credentials() == []


def test_the_worker_refuses_the_write_token_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (COMPLETE | {"CRM_WRITE_TOKEN": "write-secret-write-secret"}).items():
        monkeypatch.setenv(name, value)
    root.load.cache_clear()
    with pytest.raises(SystemExit, match="2"):
        run_worker()
    root.load.cache_clear()
    assert "CRM_WRITE_TOKEN is set" in capsys.readouterr().err


REFUSALS = {
    "a wrong value": ({"PORT": "http"}, "mission-root: PORT: "),
    "a bare secret": ({"ROOT_SIGNING_KEY": "no-key-id-in-front"}, "mission-root: ROOT_SIGNING_KEY must be kid:secret"),
    "a write credential": (
        {"CRM_WRITE_TOKEN": "write-secret-write-secret"},
        "mission-root: CRM_WRITE_TOKEN is set, but",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_the_process_stops_with_that_sentence(case: str, tmp_path: Path) -> None:
    """One as a machine starts it; the others in a copy of this process, for starting Python is what takes the time."""
    wrong, words = REFUSALS[case]
    given = {name: value for name, value in os.environ.items() if name.upper() not in names(root.Settings)}
    given |= COMPLETE | wrong | {"PYTHONPATH": str(REPOSITORY)}
    if case == "a write credential":
        started = [sys.executable, "-m", "app.main"]
        done = subprocess.run(started, cwd=tmp_path, text=True, capture_output=True, env=given, check=False, timeout=60)
        code, out, error = done.returncode, done.stdout, done.stderr
    else:
        code, out, error = forked(import_module("app.main").run, given, tmp_path)
    assert (code, out) == (2, ""), error
    [sentence] = error.splitlines()
    assert sentence.startswith(words) and sentence.endswith("."), error
    assert "write-secret" not in sentence and "no-key-id-in-front" not in sentence


def test_one_that_does_not_stop_fails_its_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.world.forked.LONGEST_S", 0.2)
    assert forked(signal.pause, {}, tmp_path)[0] == -signal.SIGKILL
