"""Which processes there are, as data: what each runs, all it may know, where it answers when ready, when it stops."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.ledger.keys import public_text, signer
from app.settings import CREDENTIAL, MODEL_KEY, TOOL_KEY, Settings
from app.supervisor.folder import Folder

# What any program needs from its surroundings; nothing else of the caller's environment reaches a process unasked.
SURROUNDINGS = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
COLONY_TUNING = (
    "ENVIRONMENT",
    "LOG_LEVEL",
    "DEFAULT_MODEL_ROUTE",
    "MODEL_API_KEY",
    "RESEARCH_PROVIDER",
    "BROWSER_PROVIDER",
    "MAX_CONCURRENT_MISSIONS",
    "MAX_WORKERS_PER_MISSION",
    "MISSION_TIMEOUT_MS",
    "TASK_TIMEOUT_MS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
WIRING = (
    "_URL",
    "_KEY",
    "_TOKEN",
    "_SECRET",
    "_CREDENTIALS",
    "PORT",
    "HOST",
    "_PREFIX",
    "_POOLED",
    "_ADDRESS",
    "_FILE",
)  # settings that the plan alone decides


@dataclass(frozen=True)
class Process:
    """One process: `module`'s run() in this virtual environment, with exactly this environment."""

    name: str
    module: str
    environment: Mapping[str, str] = field(repr=False)
    ready_url: str
    stops: int  # processes of a lower number are stopped first


def processes(
    folder: Folder, surroundings: Mapping[str, str] = os.environ, colony_url: str | None = None
) -> list[Process]:
    """The six processes beside PostgreSQL, five with a colony of one's own. The database's superuser is known to none of them."""
    ports, secrets, url = folder.ports, folder.secrets, folder.database_url
    root = _given(surroundings, *_root_tuning()) | {
        "CRM_BASE_URL": f"http://127.0.0.1:{ports['crm']}",
        "DATABASE_ROLE_PREFIX": "mission_root",
    }
    mission = root | {
        "DATABASE_URL": url("api"),
        "READER_DATABASE_URL": url("reader"),
        "COLONY_SERVICE_BASE_URL": colony_url or f"http://127.0.0.1:{ports['colony']}",
        "COLONY_SERVICE_API_KEY": secrets["colony_key"],
        "CALLBACK_BASE_URL": f"http://127.0.0.1:{ports['internal']}",
        "ROOT_SIGNING_KEY": secrets["root_signing_key"],
        "WEBHOOK_SEALING_KEY": secrets["webhook_sealing_key"],
        "CRM_READ_TOKEN": secrets["crm_read_token"],
        **_credentials(surroundings, "_READ"),
        **{name: value for name, value in surroundings.items() if TOOL_KEY.fullmatch(name)},
        **_given(surroundings, "TOOL_SERVERS_FILE"),
        "ANCHOR_STORE": str(folder.path / "anchors"),
        "ARTIFACT_STORE": str(folder.path / "artifacts"),
        "ANCHOR_PUBLIC_KEYS": public_text(signer(secrets["anchor_signing_key"]).public()),
    }
    serve = mission | {
        "HOST": "127.0.0.1",
        "PORT": str(ports["public"]),
        "INTERNAL_PORT": str(ports["internal"]),
        "METRICS_PORT": str(ports["metrics"]),
        "REGISTRAR_BASE_URL": f"http://127.0.0.1:{ports['registrar']}",
        "REGISTRAR_KEY": secrets["registrar_key"],
        "TRANSFER_SIGNING_KEY": secrets["transfer_signing_key"],
        **_given(surroundings, "TRANSFER_TRUSTED_KEYS", "RELEASE_SIGNING_KEY", "RELEASE_TRUSTED_KEYS"),
        **_given(surroundings, "OIDC_CLIENT_SECRET", "CONSOLE_BASE_URL"),
        **{name: value for name, value in surroundings.items() if MODEL_KEY.fullmatch(name)},
    }
    worker = mission | {
        **_given(surroundings, "BUS_URL", "BUS_CREDENTIALS"),
        "WORKER_DATABASE_URL": url("worker"),
        "WORKER_METRICS_PORT": str(ports["worker_metrics"]),
        "ROOT_BASE_URL": f"http://127.0.0.1:{ports['public']}",
        "ANCHOR_SIGNING_KEY": secrets["anchor_signing_key"],
        "DRILL_KEY": secrets["drill_key"],
    }
    registrar = _given(surroundings, *_root_tuning(), "OIDC_JWKS_URL") | {
        "HOST": "127.0.0.1",
        "REGISTRAR_DATABASE_URL": url("registrar"),
        "REGISTRAR_PORT": str(ports["registrar"]),
        "REGISTRAR_METRICS_PORT": str(ports["registrar_metrics"]),
        "REGISTRAR_KEY": secrets["registrar_key"],
        "DATABASE_ROLE_PREFIX": "mission_root",
    }
    executor = root | {
        "EXECUTOR_DATABASE_URL": url("executor"),
        "EXECUTOR_METRICS_PORT": str(ports["executor_metrics"]),
        "CRM_WRITE_TOKEN": secrets["crm_write_token"],
        **_credentials(surroundings, "_WRITE"),
    }
    colony = _given(surroundings, *COLONY_TUNING) | {
        "PORT": str(ports["colony"]),
        "ROOT_API_BASE_URL": f"http://127.0.0.1:{ports['internal']}",
        "ROOT_API_KEY": secrets["colony_key"],
    }
    crm = _given(surroundings) | {
        "CRM_PORT": str(ports["crm"]),
        "CRM_DATA": str(folder.path / "crm.sqlite"),
        "CRM_READ_TOKEN": secrets["crm_read_token"],
        "CRM_WRITE_TOKEN": secrets["crm_write_token"],
    }
    all_of_them = [
        Process("crm", "sample_crm.main", crm, _at(ports["crm"], "/health"), stops=2),
        Process("colony", "colony.main", colony, _at(ports["colony"], "/health"), stops=2),
        Process("registrar", "app.registrar", registrar, _at(ports["registrar"], "/readyz"), stops=1),
        Process("serve", "app.main", serve, _at(ports["public"], "/readyz"), stops=1),
        Process("worker", "app.worker", worker, _at(ports["worker_metrics"], "/metrics"), stops=1),
        Process("executor", "app.executor", executor, _at(ports["executor_metrics"], "/metrics"), stops=1),
    ]
    return [one for one in all_of_them if one.name != "colony" or colony_url is None]


def _at(port: int, path: str) -> str:
    return f"http://127.0.0.1:{port}{path}"


def _given(surroundings: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: surroundings[name] for name in (*SURROUNDINGS, *names) if name in surroundings}


def _credentials(surroundings: Mapping[str, str], use: str) -> dict[str, str]:
    """The credentials of connectors of one's own that the surroundings hold, for one use."""
    return {name: value for name, value in surroundings.items() if CREDENTIAL.fullmatch(name) and name.endswith(use)}


def _root_tuning() -> list[str]:
    """The root's settings that tune rather than wire: timeouts, budgets, limits, log level, trace endpoint."""
    names = (name.upper() for name in Settings.model_fields)
    return [name for name in names if not name.endswith(WIRING)]
