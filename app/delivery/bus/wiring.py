"""From settings to the publisher of a worker, and what serve says of the bus: it reads one row and never calls the bus."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from app.components import Component
from app.db import Database, ReadSession
from app.nudge import Nudger
from app.settings import Misconfigured, Settings

if TYPE_CHECKING:
    from app.delivery.bus.publisher import Publisher

EFFECT = "Facts reach the stream late; none is lost, and nothing else waits for it."
SILENT_S = 30.0
LOOK = text("SELECT state, detail, EXTRACT(epoch FROM clock_timestamp() - heard_at) AS silent FROM bus")
JWT, SEED = "-----BEGIN NATS USER JWT-----", "-----BEGIN USER NKEY SEED-----"


def publishing_side(settings: Settings, database: Database, nudger: Nudger) -> "Publisher | None":
    """What a worker publishes with; None when there is no bus. Raises Misconfigured."""
    if settings.bus_url is None:
        return None
    # nobody who has no bus pays for its client
    from app.delivery.bus.publisher import Publisher
    from app.delivery.bus.stream import Place

    place = Place(
        urls=[one.strip() for one in settings.bus_url.get_secret_value().split(",")],
        credentials=credentials(settings),
        stream=settings.bus_stream,
        replicas=settings.bus_replicas,
        max_age_s=settings.bus_max_age_s,
    )
    reader = Database(settings.database("reader_database_url"), pool_size=1, wait_ms=5000, name="mission-root bus")
    return Publisher(database, reader, nudger, place)


def credentials(settings: Settings) -> str | None:
    """The text of a NATS credentials file, from the setting itself or from the file that it names."""
    if settings.bus_credentials is None:
        return None
    said = settings.bus_credentials.get_secret_value()
    if JWT not in said:
        try:
            said = Path(said).read_text()
        except (OSError, ValueError):
            raise Misconfigured("BUS_CREDENTIALS is neither a NATS credentials file nor a path to one.") from None
    if JWT not in said or SEED not in said:
        raise Misconfigured("BUS_CREDENTIALS holds no user JWT with its seed, as a NATS credentials file does.")
    return said


def component() -> Component:
    return Component("bus", EFFECT, opens_after=1)


async def look(session: ReadSession, found: Component) -> None:
    """What the publishing worker has last said."""
    row = await session.first(LOOK)
    if row is None or row.state == "off":
        found.switched_off("no worker has a BUS_URL")
    elif row.silent > SILENT_S:
        found.failed(f"no worker has looked after it for {row.silent:.0f} s")
    elif row.state == "down":
        found.failed(row.detail or "no reason was given")
    else:
        found.succeeded()
