"""The file of stdio servers: what is read from it, what stops the process, and whose keys reach it."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.settings import Misconfigured, Settings
from app.tools.servers import stdio_servers


def test_servers_are_read_with_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    file = tmp_path / "servers.json"
    file.write_text(json.dumps({"notes": {"command": "/bin/notes", "arguments": ["-r"], "environment": {"A": "b"}}}))
    [(name, server)] = stdio_servers(str(file)).items()
    assert (name, server.command, server.arguments, server.tenants) == ("notes", "/bin/notes", ["-r"], None)
    assert server.surroundings()["A"] == "b" and "DATABASE_URL" not in server.surroundings()
    assert stdio_servers(None) == {}
    assert "b" not in repr(server).replace("/bin", "")


@pytest.mark.parametrize(
    "said",
    [
        b"{", b"\xff", b"[]", {"a": {}}, {"a": {"command": "x", "shell": True}}, {"a": {"command": "x", "tenants": ["demo"]}},
        {"a b": {"command": "x"}},
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_stops_the_process_with_one_sentence(tmp_path: Path, said: Any) -> None:
    file = tmp_path / "servers.json"
    file.write_bytes(said if isinstance(said, bytes) else json.dumps(said).encode())
    with pytest.raises(Misconfigured, match=r"^TOOL_SERVERS_FILE: .*\.$"):
        stdio_servers(str(file))
    with pytest.raises(Misconfigured, match="cannot be read"):
        stdio_servers(str(tmp_path / "nothing"))


def test_keys_of_layers_are_found_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_DEMO__ODD_KEY", "k")
    monkeypatch.setenv("TOOL_DEMO__ODD_KEYS", "no")
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert {name: key.get_secret_value() for name, key in settings.tool_keys.items()} == {"TOOL_DEMO__ODD_KEY": "k"}
    assert "'k'" not in repr(settings)
