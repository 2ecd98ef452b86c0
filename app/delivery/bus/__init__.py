"""The message bus: every committed fact, in reading order, to a stream of NATS JetStream when BUS_URL is set.

One worker publishes at a time and keeps the cursor in Postgres; nothing else in the product waits for it or needs it.
The client library is imported only where a bus is configured.
"""

from app.delivery.bus.cursor import switch_off
from app.delivery.bus.wiring import component, look, publishing_side

__all__ = ["component", "look", "publishing_side", "switch_off"]
