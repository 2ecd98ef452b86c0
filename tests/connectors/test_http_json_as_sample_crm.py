"""Whatever the sample CRM's own connector was put through, the declared one is put through too: the same tests."""

from pathlib import Path
from typing import Any

import pytest

from app.declared.body import parse_yaml
from app.writebacks.connectors.http_json import HttpJsonReader, HttpJsonWriter
from app.writebacks.connectors.registry import parse, place
from tests.connectors import test_sample_crm_connector as suite
from tests.connectors.test_sample_crm_connector import failures, url  # noqa: F401  # the fixtures of those tests

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sample_crm.yaml"
# What is not about talking to a CRM.
OTHER = {
    "test_a_payload_has_exactly_one_spelling",
    "test_verify_compares_values_as_json_and_reports_what_was_seen",
    "test_the_registry_gives_a_writer_only_to_a_process_with_the_write_token",
    "test_credentials_come_from_the_environment_by_the_connectors_own_name",
}
same = {name: test for name, test in vars(suite).items() if name.startswith("test_") and name not in OTHER}
globals().update(same)


def declared(address: str, **more: Any) -> Any:
    document = parse_yaml(EXAMPLE.read_bytes())
    kind = document.pop("kind")
    return parse(kind, document | {"base_url": address} | more)


@pytest.fixture(autouse=True)
def through_the_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(connector: Any) -> Any:
        def make(address: str, token: str, **more: Any) -> Any:
            return connector("sample_crm", declared(address, **more), token, allowed=frozenset({place(address)}))

        return make

    monkeypatch.setattr(suite, "SampleCrmReader", made(HttpJsonReader))
    monkeypatch.setattr(suite, "SampleCrmWriter", made(HttpJsonWriter))


def test_the_same_tests_are_run() -> None:
    assert len(same) >= 17 and set(vars(suite)) >= OTHER
