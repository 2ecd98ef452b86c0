"""A session of somebody's has begun to write, and does not end."""

import re

import psycopg

from tests.operating.scene import Scene


def drill(scene: Scene) -> None:
    idle = psycopg.connect(scene.instance.said["databases"]["owner"], application_name="a bulk load")
    idle.execute("SELECT pg_current_xact_id()")
    scene.ask()
    scene.fires("LedgerLagging", threshold=1)
    seen = scene.see()
    assert "a bulk load" in seen
    pid = re.findall(r"^\s*(\d+) \|[^\n]*a bulk load", seen, re.MULTILINE)[0]
    scene.do("pg_terminate_backend", PID=pid)
    scene.rests("LedgerLagging", threshold=1)
    idle.close()
