"""The sample CRM through its HTTP door: versions, idempotency, tokens, validation, durability."""

import json
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from sample_crm.records import KINDS
from sample_crm.service import SAMPLE, Failures
from sample_crm.settings import BadSetting, from_environment
from tests.sample_crm.crm_process import READ, WRITE, as_process, client, in_thread

GOOD = {"CRM_PORT": "8100", "CRM_DATA": "crm.sqlite", "CRM_READ_TOKEN": "r" * 16, "CRM_WRITE_TOKEN": "w" * 16}


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def crm(tmp_path: Path, failures: Failures) -> Iterator[httpx.Client]:
    with in_thread(tmp_path / "crm.sqlite", failures) as url, client(url) as asking:
        yield asking


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One service for all the tests in which nothing may be applied."""
    with in_thread(tmp_path_factory.mktemp("crm") / "crm.sqlite") as url, client(url) as asking:
        yield asking


def patch(crm: httpx.Client, key: str, changes: Any, *, lead: str = "L-1001", etag: str = '"v1"') -> httpx.Response:
    headers = {"Idempotency-Key": key, "If-Match": etag}
    return crm.patch(f"/records/lead/{lead}", json={"changes": changes}, headers=headers)


def history(crm: httpx.Client, lead: str = "L-1001") -> list[dict[str, Any]]:
    return crm.get(f"/changes/lead/{lead}").json()["items"]


def version(crm: httpx.Client, lead: str = "L-1001") -> int:
    return crm.get(f"/records/lead/{lead}").json()["version"]


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["code"] == code and answer.json()["status"] == status
    return answer.json()


def test_a_change_moves_the_version_and_leaves_change_and_receipt(crm: httpx.Client) -> None:
    before = crm.get("/records/lead/L-1001")
    assert before.headers["etag"] == '"v1"' and before.json()["fields"]["priority"] == "normal"

    done = patch(crm, "k-1", {"priority": "high", "stage": "proposal"})

    assert done.status_code == 200 and done.headers["etag"] == '"v2"'
    after = crm.get("/records/lead/L-1001")
    assert after.headers["etag"] == '"v2"' and after.json()["version"] == 2
    assert after.json()["fields"] == {**before.json()["fields"], "priority": "high", "stage": "proposal"}
    (change,) = history(crm)
    assert change["before"] == {"priority": "normal", "stage": "contacted"}
    assert change["after"] == {"priority": "high", "stage": "proposal"} and change["idempotency_key"] == "k-1"
    assert crm.get("/receipts/k-1").content == done.content
    assert_problem(crm.get("/receipts/k-2"), 404, "receipt_not_found")


def test_the_same_key_is_answered_with_the_first_receipt_even_when_the_record_moved_on(crm: httpx.Client) -> None:
    first = patch(crm, "k-1", {"priority": "high"})
    assert patch(crm, "k-2", {"priority": "low"}, etag='"v2"').status_code == 200

    again = patch(crm, "k-1", {"priority": "high"})

    assert (again.status_code, again.content, again.headers["etag"]) == (200, first.content, first.headers["etag"])
    assert again.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
    assert len(history(crm)) == 2
    assert_problem(patch(crm, "k-1", {"priority": "normal"}), 422, "idempotency_key_reused")
    assert_problem(patch(crm, "k-1", {"priority": "high"}, lead="L-1002"), 422, "idempotency_key_reused")


def test_concurrent_requests_with_one_key_apply_once(crm: httpx.Client, failures: Failures) -> None:
    failures.before_apply_s = 0.05
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: patch(crm, "k-1", {"priority": "high"}), range(8)))
    assert {answer.status_code for answer in answers} == {200} and len({answer.content for answer in answers}) == 1
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 7
    assert len(history(crm)) == 1 and version(crm) == 2


def test_concurrent_requests_for_one_version_have_one_winner(crm: httpx.Client, failures: Failures) -> None:
    failures.before_apply_s = 0.05
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: patch(crm, f"k-{n}", {"employees": n}), range(8)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 7}
    assert len(history(crm)) == 1


def test_a_stale_or_absent_version_changes_nothing_and_keeps_the_key_free(crm: httpx.Client) -> None:
    assert patch(crm, "k-1", {"priority": "high"}).status_code == 200
    for etag in ('"v1"', '"v3"', "*", 'W/"v2"', "v2"):
        refused = assert_problem(patch(crm, "k-2", {"stage": "won"}, etag=etag), 412, "stale")
        assert refused["current"]["version"] == 2 and refused["current"]["fields"]["priority"] == "high"
    without = crm.patch("/records/lead/L-1001", json={"changes": {"stage": "won"}}, headers={"Idempotency-Key": "k-2"})
    assert_problem(without, 428, "if_match_required")
    unkeyed = crm.patch("/records/lead/L-1001", json={"changes": {"stage": "won"}}, headers={"If-Match": '"v2"'})
    assert_problem(unkeyed, 400, "idempotency_key_required")
    assert len(history(crm)) == 1
    assert patch(crm, "k-2", {"stage": "won"}, etag='"v2"').status_code == 200


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": "red"}, {"/changes/colour"}),
        ({"stage": "lovely"}, {"/changes/stage"}),
        ({"priority": "high", "employees": "40", "shoe": 1}, {"/changes/employees", "/changes/shoe"}),
        ({"employees": True}, {"/changes/employees"}),
        ({"budget_eur": -1}, {"/changes/budget_eur"}),
        ({"id": "L-9", "shoe": 1}, {"/changes/id", "/changes/shoe"}),
        ({"last_contact_at": "yesterday"}, {"/changes/last_contact_at"}),
        ({"owner": None}, {"/changes/owner"}),
        ({"notes": "a\u0000b"}, {"/changes/notes"}),
        ({}, {"/changes"}),
        ([], {"/changes"}),
    ],
)
def test_wrong_fields_are_named_and_nothing_is_applied(untouched: httpx.Client, changes: Any, named: set[str]) -> None:
    refused = assert_problem(patch(untouched, "k-1", changes), 422, "bad_fields")
    assert {error["pointer"] for error in refused["errors"]} == named
    assert version(untouched) == 1 and history(untouched) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"changes":{"employees":NaN}}', 422, "bad_json"),
        (b'{"changes":{"stage":"won","stage":"lost"}}', 422, "bad_json"),
        (b'{"changes":{"owner":"\\ud800"}}', 422, "bad_fields"),
        (b'{"changes":{"\\ud800":1}}', 422, "bad_fields"),
        (b'{"changes":{"stage":"won"},"force":true}', 422, "bad_fields"),
        (b'{"changes":' + b"[" * 30_000, 422, "bad_json"),
        (b"\xff\xfe", 422, "bad_json"),
        (b"", 422, "bad_json"),
        (b'{"changes":{"notes":"' + b"x" * 70_000 + b'"}}', 413, "too_large"),
    ],
)
def test_unreadable_bodies_are_refused_as_such(untouched: httpx.Client, body: bytes, status: int, code: str) -> None:
    headers = {"Idempotency-Key": "k-1", "If-Match": '"v1"'}
    assert_problem(untouched.patch("/records/lead/L-1001", content=body, headers=headers), status, code)
    assert version(untouched) == 1


def test_every_route_but_health_needs_a_token_and_only_the_write_token_changes(untouched: httpx.Client) -> None:
    crm = untouched
    paths = ["/records/lead", "/records/lead/L-1001", "/changes/lead/L-1001", "/receipts/k-1"]
    for header in (None, "Bearer wrong", f"Basic {READ}", "Bearer é", "Bearer"):
        with client(str(crm.base_url), None) as stranger:
            headers = {b"Authorization": header.encode("latin-1")} if header else {}
            for path in paths:
                refused = stranger.get(path, headers=headers)
                assert assert_problem(refused, 401, "unauthorized") and refused.headers["www-authenticate"] == "Bearer"
            assert_problem(stranger.patch("/records/lead/L-1001", headers=headers), 401, "unauthorized")
            assert stranger.get("/health").json() == {"status": "ok"}
    with client(str(crm.base_url), READ) as reading:
        assert [reading.get(path).status_code for path in paths] == [200, 200, 200, 404]
        assert_problem(patch(reading, "k-1", {"priority": "high"}), 403, "read_only_token")
    assert version(crm) == 1


def test_pages_cover_every_record_once_and_activities_filter_by_lead(untouched: httpx.Client) -> None:
    crm = untouched

    def walk(kind: str, **query: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = crm.get(f"/records/{kind}", params={"limit": "4", **query, **cursor}).json()
            assert len(page["items"]) <= 4 and page["has_more"] == (page["next_cursor"] is not None)
            items += page["items"]
            if not page["has_more"]:
                return items
            cursor = {"cursor": page["next_cursor"]}

    sample = json.loads(SAMPLE.read_text("utf-8"))
    assert [item["fields"] for item in walk("lead")] == sample["lead"]
    assert [item["fields"] for item in walk("activity")] == sample["activity"]
    of_one = [fields for fields in sample["activity"] if fields["lead_id"] == "L-1001"]
    assert [item["fields"] for item in walk("activity", lead_id="L-1001")] == of_one and len(of_one) > 4
    assert crm.get("/records/activity?lead_id=L-0").json()["items"] == []
    for bad in ("limit=0", "limit=201", "limit=x", "cursor=%2B%2B", "cursor=%C3%A9", "lead_id=L-1001"):
        assert_problem(crm.get(f"/records/lead?{bad}"), 422, "bad_query")
    assert_problem(crm.get("/records/opportunity"), 404, "kind_not_found")
    assert_problem(crm.get("/records/lead/L-9999"), 404, "record_not_found")
    assert_problem(crm.get("/changes/lead/L-9999"), 404, "record_not_found")
    assert_problem(patch(crm, "k-1", {"stage": "won"}, lead="L-9999"), 404, "record_not_found")
    for path in ("/elsewhere", "/records/lead/"):
        assert_problem(crm.get(path), 404, "no_such_route")
    assert_problem(crm.delete("/records/lead/L-1001"), 405, "no_such_route")


def test_the_switches_for_tests_misbehave_as_named(crm: httpx.Client, failures: Failures) -> None:
    for status in (429, 503):
        failures.answer = status
        answer = patch(crm, "k-1", {"priority": "high"})
        assert_problem(answer, status, "busy")
        assert answer.headers["retry-after"] == "1" and version(crm) == 1
    failures.answer, failures.drop_after_apply = None, True
    with pytest.raises(httpx.RemoteProtocolError):
        patch(crm, "k-1", {"priority": "high"})
    assert version(crm) == 2 and crm.get("/receipts/k-1").status_code == 200


def test_a_change_and_its_receipt_are_kept_together_or_not_at_all(crm: httpx.Client, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "crm.sqlite") as file:
        file.execute("CREATE TRIGGER full BEFORE INSERT ON receipt BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    assert_problem(patch(crm, "k-1", {"priority": "high"}), 500, "internal")
    assert version(crm) == 1 and history(crm) == []


def test_a_killed_process_keeps_everything_it_answered_for(tmp_path: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    leads = [f"L-{number}" for number in range(1001, 1005)]

    def keep_writing(url: str, lead: str, enough: threading.Event) -> None:
        with client(url) as crm:
            for number in range(1, 10_000):
                try:
                    answer = patch(crm, f"{lead}:{number}", {"employees": number}, lead=lead, etag=f'"v{number}"')
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                acknowledged[f"{lead}:{number}"] = answer.content
                if len(acknowledged) >= 60:
                    enough.set()

    with as_process(tmp_path / "crm.sqlite") as (url, process), ThreadPoolExecutor(4) as pool:
        enough = threading.Event()
        running = [pool.submit(keep_writing, url, lead, enough) for lead in leads]
        assert enough.wait(20)
        process.kill()
        for future in running:
            future.result()

    with in_thread(tmp_path / "crm.sqlite") as url, client(url) as crm:
        for key, receipt in acknowledged.items():
            assert crm.get(f"/receipts/{key}").content == receipt
        for lead in leads:
            applied = history(crm, lead)
            assert [change["version"] for change in applied] == list(range(2, len(applied) + 2))
            assert version(crm, lead) == len(applied) + 1
            # At most the one request that was under way when the process died was applied without an answer.
            assert 0 <= len(applied) - sum(key.startswith(lead) for key in acknowledged) <= 1


def test_the_sample_is_consistent() -> None:
    sample = json.loads(SAMPLE.read_text("utf-8"))
    leads, activities = sample["lead"], sample["activity"]
    for kind, rows in sample.items():
        for fields in rows:
            KINDS[kind].model.model_validate(fields)
        assert len({fields["id"] for fields in rows}) == len(rows)
    assert len(leads) == 12 and len(activities) == 45
    assert {lead["stage"] for lead in leads} == {"new", "contacted", "qualified", "proposal", "won", "lost"}
    for lead in leads:
        own = [activity for activity in activities if activity["lead_id"] == lead["id"]]
        contacts = [activity["at"] for activity in own if activity["kind"] not in ("web_visit", "download")]
        assert lead["created_at"] <= min(activity["at"] for activity in own)
        assert lead["last_contact_at"] == max(contacts)
        assert lead["email"].endswith(".example")
    assert {activity["lead_id"] for activity in activities} == {lead["id"] for lead in leads}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        *[({name: ""}, f"{name} is not set.") for name in GOOD],
        ({"CRM_PORT": "80x"}, "CRM_PORT must be a port between 1 and 65535, not '80x'."),
        ({"CRM_PORT": "70000"}, "CRM_PORT must be a port between 1 and 65535, not '70000'."),
        ({"CRM_READ_TOKEN": "short"}, "CRM_READ_TOKEN must be at least 16 ASCII characters long."),
        (
            {"CRM_READ_TOKEN": "w" * 16},
            "CRM_READ_TOKEN and CRM_WRITE_TOKEN must differ, or reading would allow writing.",
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence(change: dict[str, str], sentence: str) -> None:
    assert from_environment(GOOD).port == 8100
    with pytest.raises(BadSetting) as refused:
        from_environment(GOOD | change)
    assert str(refused.value) == sentence


def test_tokens_do_not_show_when_settings_are_printed() -> None:
    assert "rrrr" not in repr(from_environment(GOOD)) and "wwww" not in repr(from_environment(GOOD))


def test_the_process_stops_with_one_sentence(tmp_path: Path) -> None:
    def run(**change: str) -> str:
        environment = GOOD | {"CRM_DATA": str(tmp_path / "crm.sqlite")} | change
        ended = subprocess.run(
            [sys.executable, "-m", "sample_crm.main"], env=environment, capture_output=True, text=True, timeout=20
        )
        assert ended.returncode == 2 and ended.stdout == ""
        return ended.stderr

    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as spare:
        port, free = taken.getsockname()[1], spare.getsockname()[1]
        spare.close()
        checks: list[tuple[Callable[[], str], str]] = [
            (lambda: run(CRM_WRITE_TOKEN=""), "sample CRM: CRM_WRITE_TOKEN is not set.\n"),
            (
                lambda: run(CRM_PORT=str(port)),
                f"sample CRM: CRM_PORT {port} on 127.0.0.1 cannot be listened on: Address already in use.\n",
            ),
            (
                lambda: run(CRM_PORT=str(free), CRM_DATA=str(tmp_path / "file" / "crm.sqlite")),
                "sample CRM: CRM_DATA cannot be used as a database file: ",
            ),
        ]
        with ThreadPoolExecutor(3) as pool:
            told = list(pool.map(lambda check: check[0](), checks))
    for answer, (_, sentence) in zip(told, checks, strict=True):
        assert answer.startswith(sentence) and answer.count("\n") == 1


def test_a_second_start_keeps_the_data(tmp_path: Path) -> None:
    for round_ in (1, 2):
        with in_thread(tmp_path / "crm.sqlite") as url, client(url, WRITE) as crm:
            assert version(crm) == round_
            assert len(crm.get("/records/activity?limit=200").json()["items"]) == 45
            assert patch(crm, f"k-{round_}", {"employees": 1}, etag=f'"v{round_}"').status_code == 200
