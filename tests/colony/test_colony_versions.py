"""The reference colony and roots of other versions, over real HTTP."""

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from fake_root import KEYS, FakeRoot, House, house
from harbor_docs import harbor

from colony_client import publish
from colony_client.contract import CONTRACT_VERSION, VERSION_HEADER, DispatchBatch
from colony_client.signing import sign
from colony_client.versions import written


def schema_of_1_0(name: str) -> Any:
    return jsonschema_rs.validator_for(json.loads(Path(publish.PUBLISHED / f"1.0/schemas/{name}.json").read_text()))


async def from_root(built: House, method: str, path: str, body: bytes, version: str | None) -> httpx.Response:
    headers = {
        name: value for name, value in sign(KEYS, method, path, body, "colony").items() if name != VERSION_HEADER
    }
    said = {VERSION_HEADER: version} if version else {}
    async with httpx.AsyncClient(base_url=built.colony_url) as http:
        return await http.request(method, path, content=body, headers=headers | said)


@pytest.mark.parametrize("version", [None, "1.0"])
async def test_a_root_of_the_version_before_gets_its_mission_done(version: str | None) -> None:
    root = FakeRoot(harbor())
    async with house(root) as built:
        asked = built.dispatch("What is a berth?")
        body = written(DispatchBatch(missions=[asked]), "1.0")
        schema_of_1_0("dispatch_batch").validate(json.loads(body))
        answer = await from_root(built, "POST", "/v1/missions", body, version)
        assert answer.status_code == 200, answer.text
        schema_of_1_0("dispatch_answers").validate(answer.json())
        assert answer.json()["contract_version"] == "1.0"
        assert answer.headers[VERSION_HEADER] == CONTRACT_VERSION
        assert await built.ended(asked.mission_id) == "completed"
        status = await from_root(built, "GET", f"/v1/missions/{asked.mission_id}", b"", version)
        schema_of_1_0("mission_status").validate(status.json())


@pytest.mark.parametrize("version", [CONTRACT_VERSION, "1.7"])
async def test_our_version_and_newer_minors_are_answered_in_ours(version: str) -> None:
    async with house(FakeRoot(harbor())) as built:
        body = written(DispatchBatch(missions=[built.dispatch("What is a berth?")]), CONTRACT_VERSION)
        answer = await from_root(built, "POST", "/v1/missions", body, version)
        assert answer.json()["contract_version"] == CONTRACT_VERSION


async def test_another_major_version_is_refused_and_both_are_named_on_every_route() -> None:
    async with house(FakeRoot(harbor())) as built:
        asked = built.dispatch("What is a berth?")
        body = written(DispatchBatch(missions=[asked]), "1.1")
        where = f"/v1/missions/{asked.mission_id}"
        for method, path, sent in (
            ("POST", "/v1/missions", body), ("GET", where, b""), ("POST", f"{where}/cancel", b'{"reason": "x"}'),
        ):  # fmt: skip
            answer = await from_root(built, method, path, sent, "2.0")
            said = answer.json()
            assert (answer.status_code, said["code"]) == (400, "version_unsupported")
            assert "'2.0'" in said["detail"] and CONTRACT_VERSION in said["detail"]
            assert answer.headers[VERSION_HEADER] == CONTRACT_VERSION
        for path in ("/health", "/ready"):
            async with httpx.AsyncClient(base_url=built.colony_url) as http:
                answer = await http.get(path)
            assert answer.json()["contract_version"] == answer.headers[VERSION_HEADER] == CONTRACT_VERSION
