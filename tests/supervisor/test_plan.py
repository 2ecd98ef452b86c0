"""What each process may know: the plan read as data."""

from pathlib import Path
from typing import Any

import pytest

from app.embedded import CannotStart, EmbeddedPostgres, free_port
from app.supervisor.folder import PORTS, Folder, choose_doors, open_folder, settle_secrets
from app.supervisor.plan import SURROUNDINGS, Process, processes

SHELL = {"PATH": "/bin", "CRM_WRITE_TOKEN": "stray", "DATABASE_URL": "stray", "AWS_SECRET_ACCESS_KEY": "stray",
         "MISSION_LEASE_MS": "2000", "MISSION_TIMEOUT_MS": "9000", "PORT": "1",
         "BUS_URL": "nats://root:bus-password@bus:4222", "BUS_CREDENTIALS": "bus-credentials"}  # fmt: skip


def choose_ports(remembered: dict[str, int], public: int | None) -> dict[str, int]:
    doors = choose_doors(remembered, public)
    try:
        return {name: door.getsockname()[1] for name, door in doors.items()}
    finally:
        for door in doors.values():
            door.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    server = EmbeddedPostgres(tmp_path)
    return Folder(tmp_path, server, choose_ports({}, None), settle_secrets(tmp_path / "secrets.json", server))


@pytest.fixture
def plan(folder: Folder) -> dict[str, Process]:
    return {process.name: process for process in processes(folder, SHELL)}


def knowing(plan: dict[str, Process], secret: str) -> set[str]:
    return {name for name, process in plan.items() if any(secret in value for value in process.environment.values())}


def test_each_secret_reaches_only_whom_it_is_for(folder: Folder, plan: dict[str, Process]) -> None:
    secrets, passwords = folder.secrets, folder.secrets["database_passwords"]
    assert knowing(plan, folder.server.password()) == set(), "the superuser is nobody's"
    assert knowing(plan, passwords["registrar"]) == {"registrar"}
    assert knowing(plan, secrets["registrar_key"]) == {"serve", "registrar"}
    assert knowing(plan, passwords["executor"]) == {"executor"}
    assert knowing(plan, passwords["worker"]) == {"worker"}
    assert knowing(plan, secrets["crm_write_token"]) == {"executor", "crm"}
    assert knowing(plan, secrets["colony_key"]) == {"serve", "worker", "colony"}
    assert knowing(plan, secrets["root_signing_key"]) == {"serve", "worker"}
    assert knowing(plan, secrets["webhook_sealing_key"]) == {"serve", "worker"}
    assert knowing(plan, "bus-password") == knowing(plan, "bus-credentials") == {"worker"}
    assert not any(knowing(plan, key) for key in secrets["api_keys"].values())
    assert not any(name.endswith("DATABASE_URL") for name in [*plan["colony"].environment, *plan["crm"].environment])


def test_the_shells_environment_stays_outside_but_for_the_tuning(plan: dict[str, Process]) -> None:
    assert knowing(plan, "stray") == set()
    assert plan["serve"].environment["MISSION_LEASE_MS"] == plan["worker"].environment["MISSION_LEASE_MS"] == "2000"
    assert plan["colony"].environment["MISSION_TIMEOUT_MS"] == "9000"
    assert "MISSION_LEASE_MS" not in plan["colony"].environment
    assert plan["serve"].environment["PORT"] != "1"
    assert set(plan["crm"].environment) <= {*SURROUNDINGS, "CRM_PORT", "CRM_DATA", "CRM_READ_TOKEN", "CRM_WRITE_TOKEN"}


def test_a_printed_plan_shows_no_secret(folder: Folder, plan: dict[str, Process]) -> None:
    assert folder.secrets["root_signing_key"] not in repr(plan)


def test_ports_differ_and_are_taken_up_again(folder: Folder) -> None:
    assert set(folder.ports) == set(PORTS) and len(set(folder.ports.values())) == len(PORTS)
    assert choose_ports(folder.ports, None) == folder.ports


def test_a_port_that_was_taken_meanwhile_is_replaced(folder: Folder) -> None:
    import socket

    with socket.create_server(("127.0.0.1", folder.ports["colony"])):
        again = choose_ports(folder.ports, None)
        assert again["colony"] != folder.ports["colony"]
        assert {**again, "colony": 0} == {**folder.ports, "colony": 0}


def test_an_asked_port_is_used_or_refused() -> None:
    import socket

    port = free_port()
    assert choose_ports({}, port)["public"] == port
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(CannotStart, match=f"Port {port} on 127.0.0.1 is taken") as refused,
    ):
        choose_ports({}, port)
    assert refused.value.exit_code == 5


def test_ports_are_held_until_the_processes_take_them(tmp_path: Path) -> None:
    """Making the database ready takes seconds; somebody else who looks for a port then has to find these taken."""
    folder = open_folder(tmp_path / "data", None)
    try:
        for name in set(PORTS) - {"postgres"}:
            with pytest.raises(CannotStart, match="is taken"):
                choose_ports({}, folder.ports[name])
    finally:
        folder.let_go()
    assert choose_ports(folder.ports, None) == folder.ports


def test_secrets_are_made_once_and_keep_to_their_owner(folder: Folder) -> None:
    path = folder.path / "secrets.json"
    assert settle_secrets(path, folder.server) == folder.secrets
    assert path.stat().st_mode & 0o777 == 0o600
    flat: list[Any] = [value for value in folder.secrets.values() if isinstance(value, str)]
    flat += [*folder.secrets["database_passwords"].values(), *folder.secrets["api_keys"].values()]
    assert len(set(flat)) == len(flat) and min(len(value) for value in flat) >= 24


def test_a_folder_has_one_supervisor(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "data", None)
    with pytest.raises(CannotStart, match="in use by another running instance"):
        open_folder(tmp_path / "data", None)
    folder.let_go()


def test_connectors_credentials_reach_who_may_hold_them(folder: Folder) -> None:
    keys = {
        "CONNECTOR_DEMO__ERP_READ": "read-key",
        "CONNECTOR_DEMO__ERP_WRITE": "write-key",
        "CONNECTOR_DEMO__ERP_OTHER": "other-key",
    }
    plan = {one.name: one for one in processes(folder, SHELL | keys)}
    assert knowing(plan, "read-key") == {"serve", "worker"} and knowing(plan, "write-key") == {"executor"}
    assert knowing(plan, "other-key") == set()


def test_with_a_colony_of_ones_own_none_is_started(folder: Folder) -> None:
    plan = {one.name: one for one in processes(folder, SHELL, "https://colony.example:8443")}
    assert set(plan) == {"crm", "registrar", "serve", "worker", "executor"}
    for name in ("serve", "worker"):
        assert plan[name].environment["COLONY_SERVICE_BASE_URL"] == "https://colony.example:8443"


def test_only_serve_and_worker_are_told_of_tool_servers_and_their_keys(folder: Folder) -> None:
    told = {"TOOL_DEMO__ODD_KEY": "k", "TOOL_SERVERS_FILE": "/etc/servers.json"}
    for process in processes(folder, SHELL | told):
        knows = set(told) & set(process.environment)
        assert knows == (set(told) if process.name in ("serve", "worker") else set()), process.name
