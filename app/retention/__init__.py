"""How long bytes are kept, what keeps them longer, and the sweep that removes those whose time is over.

What may go is decided in Postgres alone (migrations/sql/0001/66_retention.sql): this room sets times and holds, asks again and
again for what is over, and deletes the objects that no row names any more.
"""

from app.retention.api import router
from app.retention.queries import RetentionView, of_mission, phrase
from app.retention.sweep import Sweeper

__all__ = ["RetentionView", "Sweeper", "of_mission", "phrase", "router"]
