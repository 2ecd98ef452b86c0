"""Dashboards and alerts on a real Prometheus over a real instance: every expression answers, and every rule fires and resolves."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.grafana.build import DASHBOARDS, boards, text
from tests.operating.conftest import Operated
from tests.operating.prometheus import REPOSITORY, RULES, alerts, recorded
from tests.walks.conftest import until
from tests.walks.test_kills import approve_all, create, restore_crm, state

pytestmark = pytest.mark.xdist_group("operating")
PARTS = re.compile(r"\n(?:and|or|unless) ")
COMPARISON = re.compile(r" (?:==|>|<) [\d.]+$")
PANELS = [
    pytest.param(panel, id=f"{board['uid'].removeprefix('mission-root-')}: {panel['title']}")
    for board in boards()
    for panel in board["panels"]
]


def questions(expression: str) -> list[str]:
    """What an alert looks at, without the comparisons that silence it in good times."""
    return [COMPARISON.sub("", part) for part in PARTS.split(expression.strip())]


NOTHING_RISKY = """@id("operating.a") @reason("As the test says.")
forbid (principal, action == Action::"mission.create", resource) when { context.risk_level == "high" };
"""


def load(instance: Operated) -> None:
    """What a demo does: an answer, a change that is made, something refused, a ledger that verifies."""
    with instance.client("submitter") as client:
        asked = create(client, "oracle_advisory", "What happens before a writeback is executed?")
        change = create(client, "crm_lead_intelligence", "Which leads deserve a call, and why?")
        ask = {"mission_type": "oracle_advisory", "user_goal": "What is there?", "risk_level": "high"}
        assert client.post("/v1/missions", json=ask).status_code == 403
        until(lambda: state(client, asked) == "completed", "the question is answered")
        until(lambda: state(client, change) in ("awaiting_approval", "completed"), "the changes are proposed")
        approve_all(instance, change)
        until(lambda: state(client, change) == "completed", "the changes are made")
    with instance.client("auditor") as auditor:
        assert auditor.post("/v1/ledger/verify").raise_for_status().json()["verified"]
    restore_crm(instance)


@pytest.fixture(scope="module")
def loaded(instance: Operated) -> Operated:
    """The instance after a load, as long as Prometheus has seen enough of it for rates."""
    assert instance.prometheus is not None
    seen = instance.prometheus
    until(
        lambda: seen.query('count(up == 1) == 5 and on() count_over_time(up{job="serve"}[1m]) >= 2'), "all are scraped"
    )
    with instance.client("policy_owner") as owner:
        owner.put("/v1/policies/operating", json={"text": NOTHING_RISKY}).raise_for_status()
    for _ in range(2):
        load(instance)
    until(
        lambda: seen.query('sum(increase(mission_root_missions_total{state="completed"}[1m])) >= 2'),
        "Prometheus has seen what the load did",
    )
    return instance


@pytest.mark.prometheus
@pytest.mark.long
@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_shows_something(loaded: Operated, panel: dict[str, Any]) -> None:
    assert loaded.prometheus is not None
    for expression in panel["of"].values():
        found = loaded.prometheus.query(expression.replace("$__rate_interval", "1m"))
        assert found or "needs" in panel, f"{panel['title']}: {expression}"


@pytest.mark.prometheus
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(alerts()))
def test_every_alert_looks_at_something_that_is_there(loaded: Operated, name: str) -> None:
    assert loaded.prometheus is not None
    rule = alerts()[name]
    answered = [bool(loaded.prometheus.query(one)) for one in questions(rule["expr"])]
    missing = [one for one, found in zip(questions(rule["expr"]), answered, strict=True) if not found]
    assert not [one for one in missing if "model_calls" not in one and "drill_passed" not in one], missing
    assert not loaded.prometheus.query(rule["expr"]), "it would fire on an instance that is well"


@pytest.mark.prometheus
@pytest.mark.long
def test_the_names_that_a_platform_expects_are_recorded(loaded: Operated) -> None:
    assert loaded.prometheus is not None
    seen = loaded.prometheus
    for name in recorded():
        until(lambda name=name: seen.query(name), f"{name} is recorded", 20)
    for agent in ("mission_root", "worker", "executor", "colony"):
        assert seen.query(f"{agent}_health")[0]["value"][1] == "1", agent
        assert float(seen.query(f"{agent}_request_count")[0]["value"][1]) > 0, agent


@pytest.mark.prometheus
def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(RULES / "prometheus.yml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_every_alert_fires_and_resolves(tmp_path: Path) -> None:
    """The rules as they are, but for the words: what they say is looked at elsewhere."""
    rules = yaml.safe_load((RULES / "alerts.yaml").read_text())
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(rules))
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in case["sees"].items()],
            "alert_rule_test": [
                {"alertname": case["alert"], "eval_time": case["fires"], "exp_alerts": [{"exp_labels": labels(case)}]},
                {"alertname": case["alert"], "eval_time": case["silent"], "exp_alerts": []},
            ],
        }
        for case in cases()
    ]
    said = {"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(said))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "alert_cases.yaml").read_text())
    return found


def labels(case: dict[str, Any]) -> dict[str, str]:
    return {"severity": alerts()[case["alert"]]["labels"]["severity"], **case.get("labels", {})}


def test_every_alert_says_how_bad_it_is_and_where_to_look() -> None:
    shown = {board["uid"] for board in boards()}
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        said = rule["annotations"]
        assert said["summary"].endswith(".") and said["description"].endswith("."), name
        page = re.fullmatch(r"\{\{ \$externalLabels\.runbooks \}\}/([a-z-]+\.md)", said["runbook_url"])
        assert page and (REPOSITORY / "runbooks" / page[1]).exists(), f"{name}: {said['runbook_url']}"
        board = re.fullmatch(r"\{\{ \$externalLabels\.grafana \}\}/d/([a-z-]+)", said["dashboard_url"])
        assert board and board[1] in shown, f"{name}: {said['dashboard_url']}"
        assert f"`{name}`" in (REPOSITORY / "runbooks" / page[1]).read_text(), f"{page[1]} does not name {name}"


def test_every_alert_has_a_case() -> None:
    assert {case["alert"] for case in cases()} == set(alerts())


def test_grafanas_files_are_those_of_the_readable_source() -> None:
    assert {path.name for path in DASHBOARDS.glob("*.json")} == {f"{board['uid']}.json" for board in boards()}
    for board in boards():
        assert (DASHBOARDS / f"{board['uid']}.json").read_text() == text(board), (
            "python -m observability.grafana.build makes them anew"
        )
        made = json.loads(text(board))
        places = [tuple(panel["gridPos"].values()) for panel in made["panels"]]
        assert len(set(places)) == len(places) and all(x + w <= 24 for x, _, w, _ in places)
        assert len({panel["id"] for panel in made["panels"]}) == len(places)
