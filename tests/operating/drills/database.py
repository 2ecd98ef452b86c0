"""Somebody has locked a table and gone for lunch."""

import re
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.operating.scene import Scene
from tests.walks.conftest import until


def drill(scene: Scene) -> None:
    lunch = psycopg.connect(scene.instance.said["databases"]["owner"], application_name="lunch")
    lunch.execute("LOCK TABLE mission IN ACCESS EXCLUSIVE MODE")

    def ask(_: int) -> int:
        with scene.instance.client("operator") as client:
            return client.get("/v1/missions").status_code

    with ThreadPoolExecutor(12) as people:
        asked = [people.submit(ask, n) for n in range(12)]
        scene.fires("DatabasePoolExhausted")
        until(lambda: any(one.done() for one in asked), "somebody was told that every connection is in use")
        seen = scene.see()
        assert "mission_root_pool_in_use" in seen
        blocked = re.findall(r"\{(\d+)\}", seen)
        scene.do("pg_terminate_backend", PID=blocked[0])
        answers = {one.result() for one in asked}
    assert answers <= {200, 503} and 503 in answers
    scene.do('"uncaught"')
    scene.over("missions list")
    lunch.close()
