"""The whole API process is taken over: the `api` URL, and the live secrets of everybody who used it meanwhile.

Above the risk line that is not enough: the executor checks signatures itself, with keys that no serving process can write.
"""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app import signed
from tests.approvals.desk import post
from tests.executor.field import Change
from tests.world import World
from tests.world.checks import inspector, pending_change, problem

OPERATORS = ("operator", "second_operator")


@dataclass
class Signer:
    """An operator with a registered key."""

    name: str
    principal: UUID
    key: UUID
    private: Ed25519PrivateKey

    def sign(self, tenant: UUID, approval: dict[str, Any], verdict: signed.Verdict = "approve", **other: Any) -> str:
        said = {
            "tenant": tenant, "approval": UUID(approval["id"]), "payload_sha256": bytes.fromhex(approval["payload_sha256"]),
            "verdict": verdict, "approver": self.principal,
        }  # fmt: skip
        statement = signed.build_statement(**(said | {k: v for k, v in other.items() if k in said}))
        return signed.sign(statement, other.get("private", self.private), other.get("key", self.key))


class Tower:
    """A tenant whose changes to the CRM count as risky, and are signed for by two operators."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def build(self) -> None:
        world = self.world
        await world.with_crm()
        await world.no_undo_window()
        self.tenant = await world.tenant()
        admin = await inspector(world)
        high = await admin.fetchrow(
            """SELECT id, max(version) AS version FROM approval_rule WHERE tenant = $1 AND subject = 'writeback' AND risk = 'high'
               AND NOT break_glass GROUP BY id""",
            self.tenant,
        )
        self.rule, self.rule_version = high["id"], high["version"] + 1
        outcome = await self.put_rule(self.rule, high["version"], risk="high", required=2, signature_required=True)
        assert outcome == ("changed", None)
        await self.ask(
            "registrar", "SELECT put_risk_floor($1, $2, 'sample_crm', '*', 'high')", self.secret("policy_owner")
        )
        self.signers = {name: await self.register(name) for name in OPERATORS}

    def secret(self, name: str) -> str:
        return self.world.people[name].key

    async def ask(self, role: str, statement: str, *args: Any) -> asyncpg.Record:
        """One statement as a database role in the tenant, committed."""
        connection = await self.world.connect(role)
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant', $1, true)", str(self.tenant))
            row = await connection.fetchrow(statement, self.tenant, *args)
        await connection.close()
        assert row is not None
        return row

    async def put_rule(self, rule: UUID, version: int | None, **more: Any) -> tuple[str, str | None]:
        body = {
            "subject": "writeback", "connector": "*", "operation": "*", "risk": "*", "required": 1, "deny_threshold": 1,
            "approver_role": "operator", "life": "1 day", "undo_window": "0", "comment_required": False, "may_escalate_to": [],
            "hops": [], "break_glass": False, "signature_required": False,
        } | more  # fmt: skip
        said = await self.ask(
            "api",
            "SELECT outcome, why FROM put_rule($1, $2, $3, $4, $5)",
            self.secret("policy_owner"),
            rule,
            version,
            json.dumps(body),
        )
        return said["outcome"], said["why"]

    async def register(self, name: str) -> Signer:
        private = Ed25519PrivateKey.generate()
        principal = await (await inspector(self.world)).fetchval(
            "SELECT id FROM principal WHERE tenant = $1 AND name = $2", self.tenant, name
        )
        request = "SELECT request_approver_key($1, $2, $3, $4)"
        [key] = await self.ask("registrar", request, self.secret(name), principal, signed.public_bytes(private))
        confirm = "SELECT confirm_approver_key($1, $2, $3)"
        assert (await self.ask("registrar", confirm, self.secret("admin"), key))[0] is True
        return Signer(name, principal, key, private)

    async def change(self) -> Change:
        approval = await pending_change(self.world)
        assert (approval["required"], approval["signature_required"], approval["risk_level"]) == (2, True, "high")
        return Change(self.world, approval, None)  # type: ignore[arg-type]

    async def decide_as_the_intruder(self, change: Change, name: str, signature: str | None) -> str:
        """The wall's own door with a captured secret: no check of the API is in the way."""
        version = await (await inspector(self.world)).fetchval(
            "SELECT version FROM approval WHERE id = $1", UUID(change.approval["id"])
        )
        said = await self.ask(
            "api", "SELECT outcome FROM decide($1, $2, $3, $4, $5, 'approve', 'x', $6)", UUID(change.approval["id"]),
            self.secret(name), version, bytes.fromhex(change.approval["payload_sha256"]),
            signature.encode() if signature is not None else None,
        )  # fmt: skip
        return str(said["outcome"])


async def refused_by_the_executor(change: Change) -> None:
    before = await change.record()
    seen = await change.run()
    assert (seen["state"], seen["receipt"]["finding"]) == ("failed", "signature_missing"), seen
    assert await change.changes() == []
    assert await change.record() == before
    await change.run()  # nor later
    assert await change.changes() == []


async def test_captured_secrets_of_two_operators_write_nothing_and_their_signatures_do(world: World) -> None:
    tower = Tower(world)
    await tower.build()
    first, second = (tower.signers[name] for name in OPERATORS)
    own, elsewhere = Ed25519PrivateKey.generate(), await tower.change()

    def forgeries(signer: Signer, approval: dict[str, Any]) -> list[str]:
        return [
            "made up",
            signer.sign(tower.tenant, approval, private=own),  # with a key of one's own under the registered id
            signer.sign(tower.tenant, approval, private=own, key=uuid4()),
            signer.sign(tower.tenant, approval, "reject"),
            signer.sign(uuid4(), approval),
            signer.sign(tower.tenant, approval, payload_sha256=bytes(32)),
            signer.sign(tower.tenant, elsewhere.approval),  # a true signature, of another change
            first.sign(tower.tenant, approval, approver=second.principal)
            if signer is second
            else second.sign(tower.tenant, approval),
        ]

    for number in range(len(forgeries(first, elsewhere.approval))):
        change = await tower.change()
        for name in OPERATORS:
            assert await tower.decide_as_the_intruder(change, name, None) == "signature_missing"
        # of two approvers one has even signed
        honest, forged = forgeries(first, change.approval), forgeries(second, change.approval)[number]
        honest[0] = first.sign(tower.tenant, change.approval)
        assert await tower.decide_as_the_intruder(change, "operator", honest[0 if number % 2 else number]) == "recorded"
        assert await tower.decide_as_the_intruder(change, "second_operator", forged) == "approved"
        await refused_by_the_executor(change)

    change = await tower.change()
    for signer in (first, second):
        shown = (await world.people[signer.name].http.get(f"/v1/approvals/{change.approval['id']}")).json()
        answer = await post(world.people[signer.name].http, shown, signature=signer.sign(tower.tenant, shown))
        assert answer.status_code == 201, answer.text
    seen = await change.run()
    assert seen["state"] == "succeeded", seen
    [applied] = await change.changes()
    assert applied["after"] == change.approval["payload"]["changes"]


async def test_the_line_is_not_moved_with_a_captured_secret_of_a_policy_owner(world: World) -> None:
    tower = Tower(world)
    await tower.build()
    kept = ("bad_rule", "approval_rule_signature_kept")
    assert await tower.put_rule(tower.rule, tower.rule_version, risk="high", required=1) == kept
    assert await tower.put_rule(tower.rule, tower.rule_version, risk="low", signature_required=True) == kept
    assert await tower.put_rule(uuid4(), None, connector="sample_crm", operation="update", risk="high") == (
        "created",
        None,
    )
    for statement in (
        "SELECT put_risk_floor($1, $2, 'sample_crm', '*', 'low')",
        "SELECT waive_signatures($1, $2, gen_random_uuid())",
    ):
        try:
            await tower.ask("api", statement, tower.secret("policy_owner"))
        except asyncpg.InsufficientPrivilegeError:
            continue
        raise AssertionError(statement)
    approval = await pending_change(world)
    assert (approval["risk_level"], approval["signature_required"]) == ("high", True)
    change = Change(world, approval, None)  # type: ignore[arg-type]
    # the new rule's quorum is one, but policy was asked about the risk that the floor says, and wants two
    assert await tower.decide_as_the_intruder(change, "operator", "made up") == "recorded"
    assert await tower.decide_as_the_intruder(change, "second_operator", "made up") == "approved"
    await refused_by_the_executor(change)


async def test_a_key_that_was_revoked_before_the_claim_does_not_count(world: World) -> None:
    tower = Tower(world)
    await tower.build()
    change = await tower.change()
    for signer in tower.signers.values():
        signature = signer.sign(tower.tenant, change.approval)
        await tower.decide_as_the_intruder(change, signer.name, signature)
    revoke = "SELECT revoke_approver_key($1, $2, $3)"
    assert (await tower.ask("registrar", revoke, tower.secret("operator"), tower.signers["operator"].key))[0] is True
    await refused_by_the_executor(change)


async def test_the_api_says_early_what_the_executor_would_refuse(world: World) -> None:
    tower = Tower(world)
    await tower.build()
    change, signer = await tower.change(), tower.signers["operator"]
    assert change.approval["signing"] == {
        "required": True, "tenant": str(tower.tenant), "approver": str(signer.principal),
        "keys": [{"id": str(signer.key), "public_key": signed.public_bytes(signer.private).hex()}],
    }  # fmt: skip
    wrong = (
        None, "made up", signer.sign(tower.tenant, change.approval, "reject"),
        tower.signers["second_operator"].sign(tower.tenant, change.approval),
    )  # fmt: skip
    for signature in wrong:
        said = problem(await post(world.operator, change.approval, signature=signature), "validation")
        assert [error["pointer"] for error in said["errors"]] == ["/signature"]
        assert said["detail"].startswith("/signature: ")
    said = problem(await post(world.operator, change.approval, signature="x" * 4097), "validation")
    assert [error["pointer"] for error in said["errors"]] == ["/signature"]
    rejected = await post(world.operator, change.approval, "reject")
    assert rejected.status_code == 201, rejected.text  # stopping needs no key
