"""What this process sees of those it depends on."""

from typing import Any

from app.components import Component
from app.http.probes import PROBE_S, schema_is_current
from colony_client.client import ColonyClient
from colony_client.errors import BoundaryError


async def components(state: Any) -> list[dict[str, object]]:
    """What this process sees of its dependencies, asked now."""
    database: Component = state.components["database"]
    colony: Component = state.components["colony"]
    if await schema_is_current(state.database):
        database.succeeded()
    else:
        database.failed("no answer, or another schema")
    await look_at_colony(state.colony, colony, state.settings.colony_enabled)
    registrar: Component = state.components["registrar"]
    if await state.upstream.ready(PROBE_S):
        registrar.succeeded()
    else:
        registrar.failed("no answer")
    await state.objects.look(state.components["artifacts"])
    models = (one.component for one in state.models.health.values())
    told = (database, colony, registrar, *(state.components[name] for name in ("anchors", "artifacts", "bus")), *models)
    return [one.view() for one in told]


async def look_at_colony(client: ColonyClient, component: Component, enabled: bool) -> None:
    if not enabled:
        component.failed("COLONY_ENABLED is false")
        return
    try:
        ready = await client.ready(timeout_s=min(PROBE_S, client.timeout_s))
    except BoundaryError as error:
        component.failed(str(error)[:200])
        return
    if ready.ready:
        component.succeeded()
    else:
        component.failed("the colony says it is not ready")
