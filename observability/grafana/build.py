"""Makes Grafana's JSON of dashboards.yaml: python -m observability.grafana.build"""

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SOURCE, DASHBOARDS = HERE / "dashboards.yaml", HERE / "dashboards"
WIDTH, HEIGHT, STAT_HEIGHT = 8, 8, 5  # of a panel, on Grafana's grid of 24
KINDS = {"stat": "stat", "lines": "timeseries", "table": "table"}
SOURCE_OF_DATA = {"type": "prometheus", "uid": "${datasource}"}


def boards() -> list[dict[str, Any]]:
    """What dashboards.yaml says."""
    found: list[dict[str, Any]] = yaml.safe_load(SOURCE.read_text())
    return found


def dashboard(board: dict[str, Any]) -> dict[str, Any]:
    """One dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    x, y = 0, 0
    for number, one in enumerate(board["panels"], 1):
        height = STAT_HEIGHT if number <= 3 else HEIGHT
        panels.append(panel(one, number, {"x": x, "y": y, "w": WIDTH, "h": height}))
        x += WIDTH
        if x == 24:
            x, y = 0, y + height
    return {
        "uid": board["uid"],
        "title": board["title"],
        "description": board["says"],
        "tags": ["mission-root"],
        "timezone": "utc",
        "editable": False,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "links": [
            {"type": "dashboards", "tags": ["mission-root"], "title": "Mission root", "asDropdown": True},
        ],
        "annotations": {"list": [alerts()]},
        "panels": panels,
    }


def alerts() -> dict[str, Any]:
    """Marks on the time line where an alert fired."""
    return {
        "name": "Alerts",
        "datasource": SOURCE_OF_DATA,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing"}',
        "titleFormat": "{{alertname}}",
    }


def panel(one: dict[str, Any], number: int, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if "red_from" in one:
        steps.append({"color": "red", "value": one["red_from"]})
    made: dict[str, Any] = {
        "id": number,
        "title": one["title"],
        "type": KINDS[one["kind"]],
        "datasource": SOURCE_OF_DATA,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": expression,
                "legendFormat": legend,
                "datasource": SOURCE_OF_DATA,
                "instant": one["kind"] != "lines",
                "range": one["kind"] == "lines",
            }
            for index, (legend, expression) in enumerate(one["of"].items())
        ],
        "fieldConfig": {
            "defaults": {"unit": one["unit"], "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
    }
    if "needs" in one:
        made["description"] = f"Empty where there is none of it: {one['needs']}."
    return made


def text(board: dict[str, Any]) -> str:
    return json.dumps(dashboard(board), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in boards():
        (DASHBOARDS / f"{each['uid']}.json").write_text(text(each))
