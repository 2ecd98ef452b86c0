"""Typed artifacts by content hash, and the stored bytes that citations point into.

An artifact is one of the ten contract types in canonical bytes, immutable, belonging to a mission and an attempt.
A blob is the text of a document or the snapshot of a record, large ones outside the database; a reading says that a mission
was shown one.
"""

from app.artifacts.actions import REMOVED, Made, Stored, keep_blob, made, note_readings, removed_meanwhile, store
from app.artifacts.api import router
from app.artifacts.objects import Laid, Located, Objects, component, gone, open_objects, removed
from app.artifacts.queries import PLACE_ALONE, Artifact, latest, of_attempt, of_mission, one, places, readings
from app.artifacts.verify import still

__all__ = [
    "PLACE_ALONE",
    "REMOVED",
    "Artifact",
    "Laid",
    "Located",
    "Made",
    "Objects",
    "Stored",
    "component",
    "gone",
    "keep_blob",
    "latest",
    "made",
    "note_readings",
    "of_attempt",
    "of_mission",
    "one",
    "open_objects",
    "places",
    "readings",
    "removed",
    "removed_meanwhile",
    "router",
    "still",
    "store",
]
