"""A mission with everything in its packet, anchored, and the hands of whoever would change the zip."""

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from app import work
from app.canonical import canonical
from app.ledger.anchors import Anchorer
from app.ledger.keys import Keyring
from app.ledger.store import open_store
from colony_client.artifacts import AggregationPacket, Claim
from tests.ledger.anchored import OLD
from tests.world import World
from tests.world.checks import inspector
from tests.world.colony import base
from tests.world.life import Life, approve_all, change, cited, demo, give_guide, under_way

KEY = "old:" + base64.b64encode(OLD.public()["old"]).decode()
ZIP = {"Accept": "application/zip"}
WIKI = "# Rollback\n\nA rollback takes ten minutes and needs two people.\n"
Contents = dict[str, bytes]


def with_store(world: World, folder: Path) -> None:
    """Gives the public API a store of anchors, and the key they are verified with."""
    world.public.state.anchor_store = open_store(str(folder))
    world.public.state.anchor_keys = Keyring(OLD.public())


async def anchor(world: World) -> None:
    """What a worker does once a minute: signs all facts of the demo tenant."""
    connection, tenant = await inspector(world), await demo(world)
    async with world.worker.database.write() as session:
        await session.execute("SELECT restore_anchor_work()")
    row = await connection.fetchrow(
        """UPDATE work SET fence = fence + 1, attempts = attempts + 1 WHERE tenant = $1 AND kind = 'anchor'
           RETURNING fence, wanted, attempts""",
        tenant,
    )
    assert row is not None
    keys = Keyring(OLD.public())
    store = world.public.state.anchor_store
    anchorer = Anchorer(world.worker.database, store, OLD, keys, timedelta(0), 1000)
    await anchorer.anchor(work.Item(tenant, "anchor", tenant, row["fence"], row["wanted"], row["attempts"]))


async def written(world: World) -> Life:
    """A completed mission: two sources that contradict each other, changes that were asked about, handed on, approved with a
    question open, executed and read back."""
    await give_guide(world)
    await give_guide(world, WIKI, "wiki/on-call.md")
    life = await under_way(world)
    found = await world.colony.tool(life.dispatch, "workspace.search", query="rollback takes minutes people", limit=5)
    citation = next(cited(one) for one in found["passages"] if one["document"] == "guide.md")
    claim = Claim(id="c1", text="A rollback takes four minutes.", citations=[citation])
    answer = AggregationPacket(
        **base(life.dispatch.envelope), answer_status="answered", answer=claim.text, claims=[claim], proposals=2
    )
    await life.say(
        *({"type": "writeback.proposed", "proposal": change(life.dispatch.envelope, [citation], n)} for n in range(2)),
        {"type": "artifact.produced", "artifact": answer},
        {"type": "signal", "signal": "complete"},
    )
    await world.run_work("review")
    for one in (await world.operator.get(f"/v1/approvals?mission={life.id}")).json()["items"]:
        path = f"/v1/approvals/{one['id']}/questions"
        asked = (await world.operator.post(path, json={"question": "Which call is it from?"})).json()
        said = await world.submitter.post(f"{path}/{asked['id']}/answer", json={"answer": "From that of the 3rd."})
        assert said.status_code == 200, said.text
        left = (await world.operator.post(path, json={"question": "Did they agree?"})).json()
        for verb, role in (("escalate", "admin"), ("reassign", "operator")):
            hand = {"role": role, "reason": f"they know better: {role}"}
            on = f"/v1/approvals/{one['id']}/{verb}"
            done = await world.operator.post(on, json=hand, headers={"If-Match": f'"v{one["version"]}"'})
            assert done.status_code == 200, done.text
    await approve_all(life)
    assert (await world.submitter.post(f"{path}/{left['id']}/answer", json={"answer": "They did."})).status_code == 200
    for writeback in await life.writebacks():
        await life.settle(await life.claim(writeback["id"]), writeback["id"], "succeeded")
    await world.run_work("progress")
    assert await life.state() == "completed"
    return life


async def fetched(life: Life) -> bytes:
    answer = await life.world.auditor.get(f"/v1/missions/{life.id}/packet", headers=ZIP)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip", answer.text[:500]
    assert int(answer.headers["content-length"]) == len(answer.content)
    return answer.content


def opened(data: bytes) -> Contents:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return {name: found.read(name) for name in found.namelist()}


def closed(contents: Contents, place: Path, *, fitting: bool = False) -> Path:
    """A zip of these files; fitting: with a manifest that was made to fit, as a careful forger would."""
    if fitting:
        manifest = json.loads(contents["manifest.json"])
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in contents.items()
            if name != "manifest.json"
        }
        contents = contents | {"manifest.json": canonical(manifest) + b"\n"}
    with zipfile.ZipFile(place, "w") as made:
        for name, data in contents.items():
            made.writestr(name, data)
    return place


def edited(contents: Contents, name: str, edit: Callable[[dict[str, Any]], None], line: int | None = None) -> Contents:
    """One JSON file, or one line of it, with a change."""
    lines = contents[name].splitlines() if line is not None else [contents[name]]
    said = json.loads(lines[line or 0])
    edit(said)
    lines[line or 0] = json.dumps(said, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return contents | {name: b"\n".join(lines) + b"\n"}
