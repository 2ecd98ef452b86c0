"""PgBouncer in transaction mode before a PostgreSQL, for whoever measures or tests what goes through it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from app.embedded import free_port


class PgBouncer:
    """One process. users are names and passwords; servers is how many connections to PostgreSQL each of them shares.

    As root it works as nobody, so that user has to be able to read the folder.
    """

    def __init__(self, folder: Path, host: str, port: int, users: Mapping[str, str], servers: int) -> None:
        self.folder, self.port = folder, free_port()
        self.running: subprocess.Popen[bytes] | None = None
        folder.chmod(0o755)
        (folder / "users.txt").write_text("".join(f'"{name}" "{word}"\n' for name, word in users.items()))
        (folder / "pgbouncer.ini").write_text(f"""
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder / "users.txt"}
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 500
logfile =
""")

    def start(self) -> None:
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        options = ["-q", *(["-u", "nobody"] if os.getuid() == 0 else []), str(self.folder / "pgbouncer.ini")]
        self.running = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self.running.poll() is not None:
                    raise RuntimeError("pgbouncer ended at once") from None
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("pgbouncer does not listen")

    def kill(self) -> None:
        if self.running is not None and self.running.poll() is None:
            self.running.kill()
            self.running.wait()
