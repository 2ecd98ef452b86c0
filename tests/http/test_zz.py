import asyncio, logging, traceback
from tests.world.checks import inspector
import app.db, app.http.edge
async def test_x(world, monkeypatch):
    c=await inspector(world)
    old=app.db.unavailable
    def spy(e):
        r=old(e)
        x=e
        while x: print(type(x).__mro__[:4], str(x)[:200], getattr(x,'sqlstate',None), 'orig', type(getattr(x,'orig',None)), getattr(x, 'connection_invalidated', None)); x=x.__cause__ or x.__context__
        return r
    monkeypatch.setattr(app.http.edge,'unavailable',spy)
    for _ in range(3):
        await asyncio.gather(*(world.submitter.get("/v1/missions") for _ in range(8)))
        await c.fetchval("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname=current_database() AND application_name='mission-root api'")
        print([ r.status_code for r in await asyncio.gather(*(world.submitter.get("/v1/missions") for _ in range(8)))])
