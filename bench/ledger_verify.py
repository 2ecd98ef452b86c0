"""How long the verification of a ledger takes: chains, tree over anchors, export and offline verifier, each by itself.

    .venv/bin/python -m bench.ledger_verify [--facts 100000] [--subjects 2000]

Builds the facts in one INSERT … SELECT per step of all chains, with true hashes, in an embedded PostgreSQL of its own.
"""

import argparse
import asyncio
import base64
import json
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg

from app import ledger, work
from app.bootstrap import LOGIN_ROLES, bootstrap
from app.db import Database
from app.embedded import ephemeral
from app.ledger import offline
from app.ledger.anchors import Anchorer
from app.ledger.export import prepare
from app.ledger.keys import Keyring, signer
from app.ledger.store import open_store
from app.ledger.verify import audit, verify
from app.migrate import upgrade

STEP = """
  INSERT INTO ledger (tenant, xid, id, subject, seq, type, actor, at, body, prev, hash)
  SELECT tenant, pg_current_xact_id(), nextval('ledger_id'), subject, seq, type, actor, at, body, prev,
         fact_hash(prev, tenant, subject, seq, type, actor, at, body)
  FROM (SELECT $1::uuid AS tenant, s.id AS subject, $2::bigint AS seq, 'test.said' AS type, 'system:api' AS actor,
               clock_timestamp() AS at, convert_to(format('{"n":%s}', $2), 'UTF8') AS body, COALESCE(l.hash, ''::bytea) AS prev
        FROM bench_subject s LEFT JOIN ledger l ON l.tenant = $1 AND l.subject = s.id AND l.seq = $2 - 1) f"""


async def fill(admin: asyncpg.Connection, tenant: object, facts: int, subjects: int) -> None:
    await admin.execute("SELECT set_config('app.tenant', $1, false)", str(tenant))
    await admin.execute("INSERT INTO tenant (id, name) VALUES ($1, 'bench')", tenant)
    await admin.execute("CREATE TEMP TABLE bench_subject (id uuid)")
    await admin.execute("INSERT INTO bench_subject SELECT gen_random_uuid() FROM generate_series(1, $1)", subjects)
    await admin.execute("ALTER TABLE ledger DISABLE TRIGGER USER")
    for seq in range(1, facts // subjects + 1):
        await admin.execute(STEP, tenant, seq)
    for trigger in ("chain", "keep", "whole"):
        await admin.execute(f"ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_{trigger}")
    await admin.execute("ANALYZE ledger")


async def measure(url: Callable[[str], str], facts: int, subjects: int, folder: Path) -> None:
    tenant, admin = uuid4(), await asyncpg.connect(url("admin"))
    await fill(admin, tenant, facts, subjects)
    signing = signer("bench:" + base64.b64encode(secrets.token_bytes(32)).decode())
    keys, store = Keyring(signing.public()), open_store(str(folder / "anchors"))
    worker, auditor = Database(url("worker"), pool_size=2), Database(url("auditor"), pool_size=2)
    reading = ledger.inside_of(auditor, tenant)
    anchorer = Anchorer(worker, store, signing, keys, timedelta(0), 1000)
    before = time.perf_counter()
    for turn in range(1, facts // 10_000 + 2):
        async with worker.write() as session:
            await session.execute("SELECT restore_anchor_work()")
        await admin.execute("UPDATE work SET fence = $2 WHERE tenant = $1 AND kind = 'anchor'", tenant, turn)
        await anchorer.anchor(work.Item(tenant, "anchor", tenant, turn, 1, 1))
    say("anchoring all of it", before)
    before = time.perf_counter()
    async with reading() as session:
        found = await verify(session)
    say(f"chains alone: {found.facts} facts, verified {found.verified}", before)
    before = time.perf_counter()
    verdict, state = await audit(reading, tenant, store, keys)
    say(f"chains and {state['anchors']} anchors ({state['covered']} facts), verified {verdict.verified}", before)
    before = time.perf_counter()
    file = folder / "export.jsonl"
    ready = await prepare(reading, tenant, store, keys, None)
    with file.open("wb") as out:
        async for page in ready.lines():
            out.write(page)
    say(f"export, {file.stat().st_size / 1e6:.0f} MB", before)
    before = time.perf_counter()
    key = "bench:" + base64.b64encode(signing.public()["bench"]).decode()
    ended = subprocess.run(
        [sys.executable, offline.__file__, str(file), "--key", key], capture_output=True, text=True, check=False
    )
    said = json.loads(ended.stdout)
    say(f"offline verifier: {said['facts']} facts, {said['covered']} covered, verified {said['verified']}", before)
    print(f"this process at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    await worker.close()
    await auditor.close()
    await admin.close()


def say(what: str, before: float) -> None:
    print(f"{time.perf_counter() - before:7.2f} s  {what}", flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--facts", type=int, default=100_000)
    asked.add_argument("--subjects", type=int, default=2000)
    given = asked.parse_args()
    with ephemeral() as server, tempfile.TemporaryDirectory() as folder:
        admin = server.url("postgres", server.password(), "postgres")
        passwords = {role: secrets.token_urlsafe(16) for role in LOGIN_ROLES}
        asyncio.run(bootstrap(admin, "mission_root", passwords, "postgres"))
        upgrade(admin, "mission_root")

        def url(role: str) -> str:
            return admin if role == "admin" else server.url(f"mission_root_{role}", passwords[role], "postgres")

        asyncio.run(measure(url, given.facts, given.subjects, Path(folder)))


if __name__ == "__main__":
    main()
