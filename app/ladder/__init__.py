"""The rollout ladder: how far missions of which type may go in which environment, rung by rung.

What there is of rungs is one file (ladder.toml); what a tenant has enabled are rows that the room `release` moves. Intake asks
here, from memory, and the transaction that takes a mission in confirms it.
"""

from app.ladder.rungs import AUTONOMY, ENVIRONMENTS, Ladder, Rung, ladder, reaches
from app.ladder.standing import Missing, Refused, Standing, Standings, Step, elsewhere, lacking, standing, why_not

__all__ = [
    "AUTONOMY",
    "ENVIRONMENTS",
    "Ladder",
    "Missing",
    "Refused",
    "Rung",
    "Standing",
    "Standings",
    "Step",
    "elsewhere",
    "lacking",
    "ladder",
    "reaches",
    "standing",
    "why_not",
]
