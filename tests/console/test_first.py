from tests.console.desk import seat
from tests.world import World
from tests.world.checks import pending_change


async def test_pages(world: World) -> None:
    desk = await seat(world)
    pending = await pending_change(world)
    from pathlib import Path
    for n, path in enumerate(["", f"/approvals/{pending['id']}", "/missions", f"/missions/{pending['mission_id']}", "/audit", f"/audit?q={pending['id']}", "/release", "/health", "/policies", "/policies/baseline", "/connectors", f"/batch?like={pending['id']}", f"/missions/{pending['mission_id']}/packet", "/nothing"]):
        page = await desk.get("/console" + path)
        print(path, page.status, len(page.source), page.answer.headers["content-type"])
        Path(f"/tmp/w/console/{n}.html").write_text(page.source)
        if page.status != 200: print(page.text[:600])
    assert 0
