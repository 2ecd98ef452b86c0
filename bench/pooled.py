"""What DATABASE_POOLED costs: the product beside itself, one of them through PgBouncer, in one interleaved run.

    python -m bench.pooled            three rounds, each half four seconds; needs Debian's pgbouncer

stdout carries one JSON object. Both have a PostgreSQL of their own with the same settings.
"""

import argparse
import contextlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.supervisor.plan import Process
from bench.arithmetic import calibration
from bench.compare import Size, accepting, completed, pair, per_s
from bench.instance import Instance
from bench.peers.base import Peer
from bench.peers.product import Product
from bench.pgbouncer import PgBouncer
from bench.quick import EVERYTHING, of_size, sizes
from bench.rounds import interleave, say
from bench.sink import trace_sink

SERVERS = 20  # PgBouncer's own default


class Pooled(Instance):
    """The product with every URL leading to a PgBouncer of its own."""

    pooler: PgBouncer | None = None

    def dressed(self, process: Process) -> Process:
        process = super().dressed(process)
        server = urlsplit(self.folder.database_url("api"))
        assert server.hostname is not None and server.port is not None
        if self.pooler is None:
            words = self.folder.secrets["database_passwords"]
            place = Path(tempfile.mkdtemp(prefix="mission-root-pgbouncer-"))
            users = {f"mission_root_{role}": word for role, word in words.items()}
            self.pooler = PgBouncer(place, server.hostname, server.port, users, SERVERS)
            self.pooler.start()
        direct = f"{server.hostname}:{server.port}"
        through = {
            name: value.replace(f"@{direct}/", f"@127.0.0.1:{self.pooler.port}/")
            for name, value in process.environment.items()
            if name.endswith("DATABASE_URL")
        }
        more = {"DATABASE_POOLED": "true", "DATABASE_DIRECT_ADDRESS": direct} if through else {}
        return replace(process, environment={**process.environment, **through, **more})

    def __exit__(self, *gone: object) -> None:
        try:
            super().__exit__(*gone)
        finally:
            if self.pooler is not None:
                self.pooler.kill()


class Through(Product):
    """The same product, as the other side of a comparison."""

    name = "pooled"
    rows = ("accept", "completed")


def measure(place: Path, size: Size) -> dict[str, Any]:
    with trace_sink() as sink, contextlib.ExitStack() as ending:
        say("Starting PostgreSQL and the product, four times.")
        sides = [
            kind(*(ending.enter_context(what(place / f"{kind.name}-{n}", names, sink))
                   for n, names in enumerate((("serve",), EVERYTHING))))
            for kind, what in ((Product, Instance), (Through, Pooled))
        ]  # fmt: skip
        direct, pooled = sides
        say("Accepting.")
        accepted = interleave(
            size.rounds,
            {
                one.name: accepting(
                    size,
                    lambda name, seconds, one=one: one.accept(name, seconds, size.connections),  # type: ignore[misc]
                )
                for one in (direct, pooled)
            },
        )
        say("Completing.")
        done = completed(size, "completed", direct, as_peer(pooled))
    figures = {
        "accept_pooled_vs_direct": pair(accepted, "pooled", "ours", per_s),
        "completed_pooled_vs_direct": pair(done, "pooled", "ours", lambda half: half.many.per_s),
    }
    return {
        **{name: figure["ratio"]["median"] if figure else None for name, figure in figures.items()},
        "figures": figures,
        "calibration": calibration(accepted.calibration + done.calibration),
        "failed": accepted.failed | done.failed,
        "servers": SERVERS,
    }


def as_peer(side: Through) -> Peer:
    found: Any = side
    return found


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes(wanted, Size())
    size = of_size(wanted.parse_args())
    with tempfile.TemporaryDirectory(prefix="mission-root-bench-", ignore_cleanup_errors=True) as folder:
        print(json.dumps(measure(Path(folder), size)))


if __name__ == "__main__":
    main()
