"""The built-in target of drills: records that only this process remembers. It calls nobody, so it wants no credential.

Every record is there, in version 1, until a drill changes it. One of them plays a target that does not answer.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from app import clock
from app.writebacks.connectors import (
    Applied,
    Observed,
    Page,
    Payload,
    Reader,
    ReadFailed,
    Refused,
    Stale,
)
from app.writebacks.connectors.wire import claimed_payload

KIND = "drill"
DOWN = "down"  # the record that cannot be read
MOST = 1000  # records that are remembered, the oldest forgotten first
FIRST = {"state": "idle"}

_records: OrderedDict[str, tuple[int, dict[str, Any]]] = OrderedDict()
_receipts: OrderedDict[str, dict[str, Any]] = OrderedDict()


class DrillTarget(Reader):
    """Reads and changes the records of this process."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def aclose(self) -> None:
        """Nothing is held."""

    async def read(self, kind: str, record_id: str) -> Observed:
        if kind != KIND:
            raise Refused(f"The target of drills has no kind {kind!r}.", None)
        if record_id == DOWN:
            raise ReadFailed("This record plays a target that does not answer.", "connector_unreachable")
        version, fields = _records.get(record_id, (1, FIRST))
        return Observed(kind, record_id, dict(fields), str(version), clock.now())

    async def find(self, idempotency_key: str, payload: Payload | None = None) -> dict[str, Any] | None:
        return _receipts.get(idempotency_key)

    async def list(
        self, kind: str, limit: int = 50, cursor: str | None = None, filters: Mapping[str, str] | None = None
    ) -> Page:
        found = [await self.read(kind, record_id) for record_id in list(_records)[-limit:]]
        return Page(tuple(found), None)

    async def apply(self, claimed: bytes, idempotency_key: str) -> Applied:
        payload = claimed_payload(claimed)
        if payload.connector != self.name or payload.operation != "update":
            raise Refused(f"The target of drills cannot do {payload.operation!r}.", None)
        if (receipt := _receipts.get(idempotency_key)) is not None:
            return Applied(receipt, True)
        current = await self.read(payload.kind, payload.record_id)
        if current.version != payload.expected_version:
            raise Stale("The record has moved on.", current)
        version = int(current.version) + 1
        _records[payload.record_id] = version, current.value | payload.changes
        receipt = _receipts[idempotency_key] = {"id": payload.record_id, "version": version}
        for kept in (_records, _receipts):
            while len(kept) > MOST:
                kept.popitem(last=False)
        return Applied(receipt, False)
