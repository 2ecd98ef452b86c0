"""What the service does to itself, on a schedule and when asked, to show that its guards hold; each run is a row and a fact.

A drill is a mission like any other, in a reserved tenant whose only connector is the built-in target: asked for, decided and
judged over HTTP with the keys of two principals of that tenant, dispatched to a colony of the drills' own.
"""

from app.drills.api import router
from app.drills.catalog import DRILLS
from app.drills.people import prepare
from app.drills.worker import Drills

__all__ = ["DRILLS", "Drills", "prepare", "router"]
