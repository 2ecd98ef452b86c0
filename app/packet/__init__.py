"""The reviewer packet: one mission's answer with its evidence, decisions, timings and budget, for a person to trust or not."""

from app.packet.api import router
from app.packet.archive import AT_ONCE, pack
from app.packet.assemble import assemble

__all__ = ["AT_ONCE", "assemble", "pack", "router"]
