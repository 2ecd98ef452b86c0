"""What docker-compose.yml promises: which services, whose secrets, what is reachable, and that each process accepts it."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.executor import Executor
from app.ledger.keys import public_text, signer
from app.main import Root
from app.registrar import Registrar
from app.settings import Misconfigured
from app.settings import Settings as RootSettings
from app.worker import Worker
from colony.desk import Desk
from colony.settings import Settings as ColonySettings
from sample_crm.settings import from_environment
from tests.deploy.compose import (
    DOCKERFILE,
    REPOSITORY,
    TEXT,
    VARIABLE,
    Unset,
    filled_in,
    image_environment,
    made_up_secrets,
)

SECRET = re.compile(r"PASSWORD|TOKEN|KEY|SECRET")
SECRETS = made_up_secrets()
COMPOSE = filled_in(SECRETS)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENVIRONMENTS = {
    name: {key: str(value) for key, value in one.get("environment", {}).items()} for name, one in SERVICES.items()
}
FOREIGN = ("postgres", "proxy", "prometheus", "grafana", "collector")
OURS = [name for name in SERVICES if name not in FOREIGN]


def holders(variable: str) -> set[str]:
    return {name for name, environment in ENVIRONMENTS.items() if variable in environment}


def test_the_services_are_those_of_the_house() -> None:
    assert set(SERVICES) == {
        "roles", "schema", "identity", "root", "registrar", "worker", "executor", "colony", "crm", *FOREIGN,
    }  # fmt: skip
    assert {name: SERVICES[name]["command"] for name in ("root", "registrar", "worker", "executor", "colony", "crm")} == {
        "root": ["serve"], "registrar": ["registrar"], "worker": ["worker"], "executor": ["executor"], "colony": ["colony"], "crm": ["crm"],
    }  # fmt: skip
    assert (SERVICES["roles"]["command"], SERVICES["schema"]["command"]) == (["bootstrap"], ["migrate"])


def test_no_secret_has_a_default() -> None:
    secret = [found for found in VARIABLE.finditer(TEXT) if SECRET.search(found[1])]
    assert secret and all(found[2] == ":?" for found in secret)


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_a_missing_secret_stops_compose_and_is_named(missing: str) -> None:
    for without in ({name: value for name, value in SECRETS.items() if name != missing}, SECRETS | {missing: ""}):
        with pytest.raises(Unset, match=f"set {missing}"):
            filled_in(without)


def test_the_secrets_that_are_made_up_are_exactly_those_that_are_asked_for() -> None:
    assert set(SECRETS) == {found[1] for found in VARIABLE.finditer(TEXT) if found[2] == ":?"}


def test_nothing_secret_is_written_into_the_file() -> None:
    for name, environment in ENVIRONMENTS.items():
        for variable, value in environment.items():
            if SECRET.search(variable) or "DATABASE_URL" in variable:
                assert any(secret in value for secret in SECRETS.values()), f"{name}: {variable}"


@pytest.mark.parametrize(
    ("variable", "allowed"),
    [
        ("CRM_WRITE_TOKEN", {"executor", "crm"}),  # the CRM checks it
        ("EXECUTOR_DATABASE_URL", {"executor", "roles"}),  # roles sets its password
        ("ADMIN_DATABASE_URL", {"roles", "schema"}),
        ("REGISTRAR_DATABASE_URL", {"identity", "registrar", "roles"}),
        ("REGISTRAR_KEY", {"root", "registrar"}),
        ("DATABASE_URL", {"root", "roles"}),
        ("READER_DATABASE_URL", {"root", "roles"}),
        ("WORKER_DATABASE_URL", {"worker", "roles"}),
        ("ROOT_SIGNING_KEY", {"root", "worker"}),
        ("WEBHOOK_SEALING_KEY", {"root", "worker"}),
        ("ANCHOR_SIGNING_KEY", {"worker"}),
        ("ANCHOR_PUBLIC_KEYS", {"root", "worker"}),
        ("COLONY_SERVICE_API_KEY", {"root", "worker"}),
        ("ROOT_API_KEY", {"colony"}),
        ("CRM_READ_TOKEN", {"root", "worker", "crm"}),
        ("POSTGRES_PASSWORD", {"postgres"}),
        ("GF_SECURITY_ADMIN_PASSWORD", {"grafana"}),
    ],
)
def test_who_holds_which_credential(variable: str, allowed: set[str]) -> None:
    assert holders(variable) == allowed


def test_a_value_of_a_credential_is_nowhere_else_under_another_name() -> None:
    for secret, allowed in (
        ("CRM_WRITE_TOKEN", {"executor", "crm"}),
        ("EXECUTOR_DATABASE_PASSWORD", {"executor", "roles"}),
        ("POSTGRES_PASSWORD", {"postgres", "roles", "schema"}),
        ("ANCHOR_SIGNING_KEY", {"worker"}),
    ):
        value = SECRETS[secret]
        assert {name for name, one in ENVIRONMENTS.items() if any(value in said for said in one.values())} == allowed


def test_anchors_are_only_read_by_the_root_and_large_sources_written_by_both() -> None:
    mounted = {name: one["volumes"] for name, one in SERVICES.items() if "anchors" in str(one.get("volumes"))}
    artifacts = "artifacts:/artifacts"
    assert mounted == {"root": ["anchors:/anchors:ro", artifacts], "worker": ["anchors:/anchors", artifacts]}
    assert all(ENVIRONMENTS[name]["ARTIFACT_STORE"] == "/artifacts" for name in mounted)
    assert "artifacts" in COMPOSE["volumes"]
    assert all(ENVIRONMENTS[name]["ANCHOR_STORE"] == "/anchors" for name in mounted) and "anchors" in COMPOSE["volumes"]
    final = DOCKERFILE.rpartition("\nFROM ")[2]  # a new volume takes the folder's owner from the image
    assert re.search(r"install --directory --owner mission-root [^\n]* /anchors /artifacts\n", final)


def test_the_public_half_of_the_signing_key_is_made_up_with_it() -> None:
    for _ in range(20):
        made = made_up_secrets()
        assert public_text(signer(made["ANCHOR_SIGNING_KEY"]).public()) == made["ANCHOR_PUBLIC_KEYS"]


def test_nothing_of_ours_is_published_but_through_the_proxy_and_only_to_this_machine() -> None:
    assert {name: one["ports"] for name, one in SERVICES.items() if one.get("ports")} == {
        "proxy": ["127.0.0.1:8080:8000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert ENVIRONMENTS["root"]["PORT"] == "8080" != ENVIRONMENTS["root"]["INTERNAL_PORT"]


def test_the_colony_reaches_neither_database_nor_crm_nor_the_world() -> None:
    networks = {name: set(one["networks"]) for name, one in SERVICES.items()}
    assert networks["worker"] & networks["root"] >= {"boundary"}, "drills play the colony, and call back as it does"
    assert networks["colony"] == {"boundary"} and networks["executor"] == {"database", "crm"}
    assert {name for name, one in networks.items() if "outside" in one} == {"root", "registrar", "worker", "collector"}
    closed = {name for name, options in COMPOSE["networks"].items() if options and options.get("internal")}
    assert closed == {"front", "watch", "database", "boundary", "registrar", "crm"}


def test_whoever_watches_brings_nobody_together() -> None:
    """Two of our processes meet on a network of their own business only, never on one for Prometheus or traces."""
    networks = {name: set(one["networks"]) for name, one in SERVICES.items()}
    assert not {name for name in OURS if networks[name] & {"watch", "published"}}
    assert networks["proxy"] == {"front", "published"} and {n for n in SERVICES if "front" in networks[n]} == {
        "proxy",
        "root",
    }
    [subnet] = COMPOSE["networks"]["front"]["ipam"]["config"]
    assert ENVIRONMENTS["root"]["TRUSTED_PROXIES"] == subnet["subnet"], "nobody but the proxy says who asks"
    for watcher in ("prometheus", "collector"):
        assert "database" not in networks[watcher] and "front" not in networks[watcher]
        for scraped in ("root", "worker", "executor", "registrar", "colony"):
            assert networks[watcher] & networks[scraped], f"{watcher} does not reach {scraped}"


def test_prometheus_scrapes_every_process_where_it_says_its_numbers() -> None:
    configured = yaml.safe_load((REPOSITORY / "observability/prometheus/prometheus.yml").read_text())["scrape_configs"]
    targets = {one["job_name"]: one["static_configs"][0]["targets"] for one in configured}
    ports = {"serve": ("root", "METRICS_PORT"), "colony": ("colony", "PORT")} | {
        name: (name, f"{name.upper()}_METRICS_PORT") for name in ("worker", "executor", "registrar")
    }
    assert targets == {job: [f"{name}:{ENVIRONMENTS[name][port]}"] for job, (name, port) in ports.items()}


def test_every_file_that_is_mounted_exists_and_every_image_has_a_version() -> None:
    for name, one in SERVICES.items():
        for mounted in one.get("volumes", []):
            source = mounted.split(":")[0]
            assert source in COMPOSE["volumes"] or (REPOSITORY / source).exists(), f"{name}: {source}"
        assert name in OURS or re.search(r":v?\d+\.\d+", one["image"]), f"{name}: {one['image']}"


def test_compose_would_understand_the_file(tmp_path: Path) -> None:
    """The schema of compose files, as its makers publish it."""
    file = tmp_path / "compose.yaml"
    file.write_text(yaml.safe_dump(COMPOSE))
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "postgres"])
def test_processes_run_without_rights(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] and one["cap_drop"] == ["ALL"] and "no-new-privileges:true" in one["security_opt"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_process_says_fills_no_disk(name: str) -> None:
    assert SERVICES[name]["logging"] == {"driver": "local", "options": {"max-size": "32m", "max-file": "3"}}


def test_every_lasting_process_is_asked_whether_it_is_well() -> None:
    assert SERVICES["postgres"]["healthcheck"]["test"][1] == "pg_isready"
    asked = {name: ENVIRONMENTS[name].get("HEALTH_URL", image_environment()["HEALTH_URL"]) for name in OURS}
    ports = {"root": "PORT", "worker": "WORKER_METRICS_PORT", "executor": "EXECUTOR_METRICS_PORT", "colony": "PORT"}
    ports["registrar"] = "REGISTRAR_PORT"
    for name, port in {**ports, "crm": "CRM_PORT"}.items():
        assert f":{ENVIRONMENTS[name][port]}/" in asked[name], name


class Recording(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, given: dict[str, str]) -> None:
        self.given, self.asked = given, set[str]()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self.given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_its_process_reads(name: str) -> None:
    given = set(ENVIRONMENTS[name]) - {"HEALTH_URL"}
    if name == "crm":
        recording = Recording(ENVIRONMENTS[name])
        from_environment(recording)
        known = recording.asked
    else:
        fields = ColonySettings.model_fields if name == "colony" else RootSettings.model_fields
        known = {field.upper() for field in fields}
    assert given <= known
    assert set(image_environment()) - known <= {
        "PATH",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
        "HEALTH_URL",
        "HOST",
    }


NO_FILE: dict[str, Any] = {"_env_file": None}
PROCESSES: dict[str, Callable[[], Any]] = {
    "root": lambda: Root(RootSettings(**NO_FILE)),
    "registrar": lambda: Registrar(RootSettings(**NO_FILE)),
    "worker": lambda: Worker(RootSettings(**NO_FILE)),
    "executor": lambda: Executor(RootSettings(**NO_FILE)),
    "colony": lambda: Desk(ColonySettings()),  # type: ignore[call-arg]  # all of it comes from the environment
}


def enter(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for field in {**RootSettings.model_fields, **ColonySettings.model_fields}:
        monkeypatch.delenv(field.upper(), raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize("name", sorted(PROCESSES))
async def test_a_process_accepts_the_environment_it_is_given(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stores = {"ANCHOR_STORE": str(tmp_path)} if "ANCHOR_STORE" in ENVIRONMENTS[name] else {}
    enter(monkeypatch, image_environment() | ENVIRONMENTS[name] | stores)
    PROCESSES[name]()


@pytest.mark.parametrize("stray", ["CRM_WRITE_TOKEN", "EXECUTOR_DATABASE_URL", "ANCHOR_SIGNING_KEY"])
async def test_the_root_would_refuse_a_credential_of_another_process(
    stray: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    holder = next(name for name in ("executor", "worker") if stray in ENVIRONMENTS[name])
    given = ENVIRONMENTS["root"] | {"ANCHOR_STORE": str(tmp_path), stray: ENVIRONMENTS[holder][stray]}
    enter(monkeypatch, given)
    with pytest.raises(Misconfigured, match=stray):
        PROCESSES["root"]()
