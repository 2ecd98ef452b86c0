"""`mission-root up` where it cannot start: one readable sentence. What it does when it can: tests/walks."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from app.embedded import CannotStart
from app.supervisor.folder import open_folder
from app.supervisor.instance import Instance, confirm_own, prepare_database

COMMAND = [sys.executable, "-m", "app.cli.main"]


def refused(*words: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, "up", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "" and done.stderr.startswith("mission-root: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def test_a_taken_port_is_one_readable_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, said = refused("--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert code == 5 and f"Port {port} on 127.0.0.1 is taken" in said


def test_a_stranger_who_answers_in_its_place_is_noticed(tmp_path: Path) -> None:
    """Two instances may look for a port in the same moment; keys of the one would be wrong at the other's door."""

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        status = "200 OK" if b"/readyz" in asked else "401 Unauthorized"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    async def walk() -> None:
        folder = open_folder(tmp_path / "data", None)
        instance = Instance(folder, print)
        folder.let_go()
        await prepare_database(folder, print)
        port = folder.ports["public"]
        try:
            async with await asyncio.start_server(stranger, "127.0.0.1", port):
                with pytest.raises(CannotStart, match=f"Port {port} on 127.0.0.1 was taken by another instance"):
                    await confirm_own(instance)
            connection = await asyncpg.connect(folder.owner_url())
            await connection.execute(
                "ALTER TABLE migration DROP COLUMN fits"
            )  # as a build before the first release made it
            await connection.close()
            folder.server.stop()
            with pytest.raises(CannotStart, match=r"before the first release.*another --data-dir") as old:
                await prepare_database(folder, print)
            assert old.value.exit_code == 1
        finally:
            folder.server.stop()

    asyncio.run(walk())


def test_a_colony_that_is_no_address_is_one_readable_sentence(tmp_path: Path) -> None:
    code, said = refused("--colony", "localhost:8090", "--data-dir", str(tmp_path / "data"))
    assert code == 2 and "--colony must be an http or https URL" in said


def test_a_folder_that_cannot_be_written_is_one_readable_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = refused("--data-dir", str(tmp_path / "file"))
    assert code == 1 and f"The folder {tmp_path / 'file'} cannot be written" in said
