"""Olga's desk: she works in Tryton by hand, so what she sees and does owes nothing to the connector."""

import base64
from typing import Any

import httpx

from tests.tryton.prepare import DATABASE, USERS
from tests.tryton.server import Tryton

OPPORTUNITY = "model.sale.opportunity"


class Desk:
    """A session of one Tryton user over JSON-RPC."""

    def __init__(self, server: Tryton, login: str = "olga") -> None:
        self.url = f"{server.url}/{DATABASE}/rpc/"
        user, token, _ = self._post("common.db.login", [login, {"password": USERS[login]}], {})["result"]
        self.user = user
        plain = f"{login}:{user}:{token}".encode()
        self.headers = {"Authorization": f"Session {base64.b64encode(plain).decode()}"}

    def answer(self, method: str, *params: Any, **context: Any) -> dict[str, Any]:
        return self._post(method, [*params, context], self.headers)

    def call(self, method: str, *params: Any, **context: Any) -> Any:
        said = self.answer(method, *params, **context)
        assert "result" in said, said
        return said["result"]

    def _post(self, method: str, params: Any, headers: dict[str, str]) -> dict[str, Any]:
        asked = {"id": 7, "method": method, "params": params}
        answer = httpx.post(
            self.url, json=asked, headers={"Accept-Encoding": "gzip", **headers}, trust_env=False, timeout=20
        )
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said

    # --- her work

    def party(self, name: str = "Acme Freight") -> int:
        [id] = self.call("model.party.party.search", [["name", "=", name]], 0, 1, None)
        return int(id)

    def employee(self, name: str = "Olga Petrova") -> int:
        [id] = self.call("model.company.employee.search", [["rec_name", "=", name]], 0, 1, None)
        return int(id)

    def lead(self, **values: Any) -> str:
        """A new lead; its id."""
        made = {"company": 1, "party": self.party(), "description": "Twelve trucks", "comment": "Met at the fair."}
        [id] = self.call(f"{OPPORTUNITY}.create", [made | {"amount": decimal("1500.00")} | values], company=1)
        return str(id)

    def change(self, id: str, **values: Any) -> None:
        self.call(f"{OPPORTUNITY}.write", [int(id)], values)

    def shows(self, id: str, *fields: str) -> dict[str, Any]:
        [row] = self.call(f"{OPPORTUNITY}.read", [int(id)], [*fields, "_timestamp", "write_uid"])
        return dict(row)

    def revisions(self, id: str) -> list[str]:
        """Who made the record's revisions, the latest first."""
        return [name for _, _, name in self.call(f"{OPPORTUNITY}.history_revisions", [int(id)])]

    def discard(self, id: str) -> None:
        self.call(f"{OPPORTUNITY}.cancel", [int(id)])
        self.call(f"{OPPORTUNITY}.delete", [int(id)])


def decimal(digits: str) -> dict[str, str]:
    return {"__class__": "Decimal", "decimal": digits}
