"""Taking missions in together: what was judged from memory is confirmed by the transaction that keeps it."""

import hashlib
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.policy.engine import compiled
from tests.walls.ground import Ground

RULES = compiled(())
NAMES = (
    "c_secret", "c_tenant", "c_principal", "c_roles", "c_change", "c_set", "c_ladder", "j_caller", "j_type", "j_type_version",
    "j_own", "j_mode", "j_surface", "j_risk", "j_sensitivity", "j_time", "j_tokens", "j_cost", "j_replay_of", "j_replay_mode",
    "j_effect", "j_rule", "j_policy_version", "j_reason", "j_inputs", "j_obligations", "m_judged", "m_id", "m_workspace", "m_contract",
    "m_labels", "m_trace", "d_id", "e_id", "e_bytes", "f_body", "f_request", "k_key", "k_fingerprint", "k_status", "k_headers",
    "k_head", "k_middle", "k_tail",
)  # fmt: skip
TAKE_IN = f"SELECT * FROM take_in({', '.join(f'{name} => ${n}' for n, name in enumerate(NAMES, 1))})"


OF_MISSION = {
    "mission": "id",
    "artifact": "mission",
    "policy_decision": "mission",
    "ledger": "subject",
    "work": "subject",
}


def asked(ground: Ground, who: str = "asker", **more: Any) -> dict[str, Any]:
    """One row as the api would send it, alone with its caller."""
    mission = uuid4()
    values = {
        "c_secret": ground.secrets.get(who, who), "c_tenant": ground.tenant, "c_principal": ground.ids.get(who, uuid4()),
        "c_roles": "submitter", "c_change": 0, "c_set": bytes.fromhex(RULES.version), "c_ladder": None, "m_id": mission,
        "j_type": "oracle_advisory", "j_type_version": 1, "j_own": False, "j_mode": "assisted", "j_surface": "test", "j_risk": "low",
        "j_sensitivity": "internal", "m_workspace": "default", "m_contract": bytes(32), "m_labels": "{}", "m_trace": None,
        "j_time": 1000, "j_tokens": 1, "j_cost": 1, "j_replay_of": None, "j_replay_mode": None,
        "d_id": uuid4(), "j_effect": "allow", "j_rule": "r",
        "j_policy_version": RULES.version, "j_reason": "because", "j_inputs": b"{}", "j_obligations": "{}", "e_id": uuid4(),
        "e_bytes": mission.bytes, "f_body": b"{}", "f_request": None, "k_key": None, "k_fingerprint": bytes(32), "k_status": 202,
        "k_headers": '{"a": "b"}', "k_head": b"<", "k_tail": b">",
    } | more  # fmt: skip
    return values


async def take_in(ground: Ground, *rows: dict[str, Any], role: str = "api") -> list[Any]:
    """Outcomes in the order of the rows; each row brings its own caller and judgement."""
    rows = tuple(row | {"j_caller": n, "m_judged": n} for n, row in enumerate(rows, 1))
    values = [b"-" if name == "k_middle" else [row[name] for row in rows] for name in NAMES]
    said = await ground.run(role, TAKE_IN, *values)
    return [row for _, row in sorted((row["n"], row) for row in said)]


async def know_the_rules(ground: Ground) -> None:
    manifest, baseline = RULES.manifest, RULES.sources[0].text.encode()
    await ground.run(
        "api",
        "INSERT INTO policy_set (tenant, manifest, baseline) VALUES ($1, $2, $3)",
        ground.tenant,
        manifest,
        baseline,
    )


async def census(ground: Ground) -> list[int]:
    tables = ("mission", "policy_decision", "artifact", "ledger", "work", "idempotency")
    return [
        await ground.value("admin", f"SELECT count(*) FROM {table} WHERE tenant = $1", ground.tenant)
        for table in tables
    ]


async def test_what_is_confirmed_is_kept_whole(ground: Ground) -> None:
    await know_the_rules(ground)
    before = await census(ground)
    plain, keyed = asked(ground), asked(ground, k_key="k", j_effect="ask")
    first, second = await take_in(ground, plain, keyed)
    assert (first["outcome"], second["outcome"], first["at"]) == ("accepted", "accepted", second["at"])
    assert [a - b for a, b in zip(await census(ground), before, strict=True)] == [2, 2, 2, 2, 2, 1]
    [row] = await ground.run("admin", "SELECT * FROM mission WHERE id = $1", plain["m_id"])
    assert (row["requested_by"], row["state"], row["created_at"]) == (
        ground.ids["asker"], "accepted", first["at"]
    )  # fmt: skip
    kinds = await ground.run(
        "admin", "SELECT subject, kind FROM work WHERE subject = ANY ($1)", [plain["m_id"], keyed["m_id"]]
    )
    assert dict(tuple(kind) for kind in kinds) == {plain["m_id"]: "dispatch", keyed["m_id"]: "ask"}
    [fact] = await ground.run("admin", "SELECT type, actor FROM ledger WHERE subject = $1", plain["m_id"])
    assert tuple(fact) == ("mission.accepted", f"principal:{ground.ids['asker']}")
    stamp = await ground.value(
        "admin", "SELECT to_char($1::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')", first["at"]
    )
    [again] = await take_in(ground, asked(ground, k_key="k"))
    assert (again["outcome"], again["status"], json.loads(again["headers"])) == ("replayed", 202, {"a": "b"})
    assert again["body"] == f"<{stamp}-{stamp}>".encode()
    [other] = await take_in(ground, asked(ground, k_key="k", k_fingerprint=hashlib.sha256(b"x").digest()))
    assert other["outcome"] == "mismatch"
    [somebody] = await take_in(ground, asked(ground, "adam", c_roles="admin,auditor,policy_owner,submitter", k_key="k"))
    assert somebody["outcome"] == "accepted", "a key is its principal's"


async def test_each_fact_is_found_by_its_own_request(ground: Ground) -> None:
    await know_the_rules(ground)
    marks = [uuid4(), None, uuid4()]
    rows = [asked(ground, f_request=mark) for mark in marks]
    await take_in(ground, *rows)
    by = "SELECT request FROM ledger WHERE subject = $1 AND type = 'mission.accepted'"
    assert [await ground.value("admin", by, row["m_id"]) for row in rows] == marks


async def test_a_replay_from_a_tape_is_played_and_nobody_is_asked_about_it(ground: Ground) -> None:
    await know_the_rules(ground)
    past = await ground.mission()
    for mode, effect, kind in (("recorded", "allow", "replay"), ("recorded", "ask", "replay"), ("recorded_with_colony", "ask", "dispatch"),
                               ("rerun", "allow", "dispatch"), ("rerun", "ask", "ask")):  # fmt: skip
        again = asked(ground, j_replay_of=past, j_replay_mode=mode, j_effect=effect)
        [row] = await take_in(ground, again)
        assert row["outcome"] == "accepted"
        due = await ground.run("admin", "SELECT kind, queue FROM work WHERE subject = $1", again["m_id"])
        assert [tuple(one) for one in due] == [(kind, "worker")], (mode, effect)


async def test_a_denial_keeps_decision_and_fact_only(ground: Ground) -> None:
    await know_the_rules(ground)
    before = await census(ground)
    rows = [asked(ground, j_effect="deny", k_key=key, k_tail=None) for key in (None, "k")]
    assert [row["outcome"] for row in await take_in(ground, *rows)] == ["refused", "refused"]
    [told] = await ground.run(
        "admin", "SELECT DISTINCT subject, type FROM ledger WHERE tenant = $1 AND type LIKE 'mission.%'", ground.tenant
    )
    assert tuple(told) == (ground.tenant, "mission.refused")
    assert [a - b for a, b in zip(await census(ground), before, strict=True)] == [0, 2, 0, 2, 0, 1]
    [again] = await take_in(ground, asked(ground, k_key="k"))
    assert (again["outcome"], again["body"]) == ("replayed", b"<")


@pytest.mark.parametrize(
    "case",
    {
        "nobody's secret": ({"c_secret": "nobody"}, "unauthenticated"),
        "somebody else's principal": ({"c_principal": UUID(int=1)}, "caller_changed"),
        "another tenant": ({"c_tenant": UUID(int=1)}, "caller_changed"),
        "roles that are gone": ({"c_roles": "operator,submitter"}, "caller_changed"),
        "no roles": ({"c_roles": ""}, "caller_changed"),
        "rules of before": ({"c_change": 1}, "policy_changed"),
        "rules that nobody kept": ({"c_set": bytes(32)}, "policy_changed"),
    }.values(),
    ids=lambda case: case[1] + " by " + min(case[0]),
)  # fmt: skip
async def test_what_is_no_longer_so_comes_back_and_the_rest_is_kept(
    ground: Ground, case: tuple[dict[str, Any], str]
) -> None:
    wrong, outcome = case
    await know_the_rules(ground)
    before = await census(ground)
    said = await take_in(ground, asked(ground), asked(ground, **wrong), asked(ground))
    assert [row["outcome"] for row in said] == ["accepted", outcome, "accepted"]
    assert [a - b for a, b in zip(await census(ground), before, strict=True)] == [2, 2, 2, 2, 2, 0]


async def test_a_type_of_before_comes_back(ground: Ground) -> None:
    await know_the_rules(ground)
    own = "INSERT INTO mission_type (tenant, name, version, definition, created_by) VALUES ($1, 'oracle_advisory', 2, '{}', $2)"
    await ground.run("api", own, ground.tenant, ground.ids["adam"])
    rows = [asked(ground), asked(ground, j_type_version=2, j_own=True), asked(ground, j_type="other_type")]
    rows.append(asked(ground, j_type_version=2))  # the shipped one of the same number is not the tenant's
    said = await take_in(ground, *rows)
    assert [row["outcome"] for row in said] == ["type_changed", "accepted", "accepted", "type_changed"]


async def test_a_key_that_is_held_elsewhere_is_in_flight(ground: Ground) -> None:
    await know_the_rules(ground)
    name = f"{ground.tenant}|{ground.ids['asker']}|missions.create|k"
    async with ground.within("owner") as other:
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 11))", name)
        said = await take_in(ground, asked(ground, k_key="k"), asked(ground, k_key="other"))
        assert [row["outcome"] for row in said] == ["in_flight", "accepted"]
    assert (await take_in(ground, asked(ground, k_key="k")))[0]["outcome"] == "accepted"


async def test_two_tenants_in_one_call_keep_to_themselves(ground: Ground) -> None:
    await know_the_rules(ground)
    other = Ground(ground.url)
    async with other.stack:
        await other.lay()
        await know_the_rules(other)
        rows = [asked(ground), asked(other), asked(ground), asked(other, k_key="k")]
        assert {row["outcome"] for row in await take_in(ground, *rows)} == {"accepted"}
        for one, own in ((ground, rows[::2]), (other, rows[1::2])):
            for table, column in (
                ("mission", "id"),
                ("artifact", "mission"),
                ("policy_decision", "mission"),
                ("ledger", "subject"),
                ("work", "subject"),
            ):
                found = await one.run(
                    "api", f"SELECT {column} FROM {table} WHERE {column} = ANY ($1)", [row["m_id"] for row in rows]
                )
                assert {row[0] for row in found} == {row["m_id"] for row in own}, table


@pytest.mark.parametrize("first", ["changed", "same"])
async def test_each_request_is_confirmed_in_its_own_tenant(ground: Ground, first: str) -> None:
    """Whatever changed for one tenant is seen for that one alone, whoever stands before or behind it in the batch."""
    await know_the_rules(ground)
    other = Ground(ground.url)
    async with other.stack:
        await other.lay()
        await know_the_rules(other)
        changed, same = (ground, other) if first == "changed" else (other, ground)
        assert [row["outcome"] for row in await take_in(same, asked(same, k_key="k"))] == ["accepted"]
        put = "SELECT outcome FROM put_policy($1, $2, 'own', 'x', 0)"
        assert await changed.value("api", put, changed.tenant, changed.secrets["adam"]) == "added"
        own = "INSERT INTO mission_type (tenant, name, version, definition, created_by) VALUES ($1, 'own_type', 1, '{}', $2)"
        await same.run("api", own, same.tenant, same.ids["adam"])
        rows = [
            (asked(changed), "policy_changed"),
            (asked(same), "accepted"),
            (asked(changed, c_change=1), "accepted"),
            (asked(same, c_change=1), "policy_changed"),
            (asked(changed, c_change=1, j_type="own_type"), "accepted"),
            (asked(same, j_type="own_type"), "type_changed"),
            (asked(changed, c_change=1, k_key="k"), "accepted"),
            (asked(same, k_key="k"), "replayed"),
            (asked(changed, c_change=1, c_ladder=1), "ladder_changed"),
            (asked(same, c_ladder=0), "accepted"),
            (asked(changed, c_change=1), "accepted"),  # so that the other's are looked at between two of this one
        ]
        said = await take_in(ground, *(row for row, _ in rows))
        assert [row["outcome"] for row in said] == [outcome for _, outcome in rows]


async def test_it_is_the_apis_door_alone(ground: Ground) -> None:
    await know_the_rules(ground)
    for role in ("worker", "executor", "registrar", "auditor", "reader"):
        with pytest.raises(Exception, match="permission denied"):
            await take_in(ground, asked(ground), role=role)


@pytest.mark.parametrize("column", ["c_tenant", "c_principal", "both"])
async def test_an_array_that_begins_elsewhere_puts_nobody_in_anothers_place(ground: Ground, column: str) -> None:
    """The caller that is found and the caller that is written are one: also when a subscript and a position are not the same."""
    await know_the_rules(ground)
    victim = Ground(ground.url)
    async with victim.stack:
        await victim.lay()
        row = asked(ground) | {"j_caller": 1, "m_judged": 1}
        values: list[Any] = [b"-" if name == "k_middle" else [row[name]] for name in NAMES]
        shifted = {
            "c_tenant": f"[0:1]={{{ground.tenant},{victim.tenant}}}",
            "c_principal": f"[0:1]={{{ground.ids['asker']},{victim.ids['asker']}}}",
        }
        statement = TAKE_IN
        for name, text in shifted.items():
            if column in (name, "both"):
                n = NAMES.index(name)
                statement = statement.replace(f"{name} => ${n + 1})", f"{name} => ${n + 1}::text::uuid[])")
                statement = statement.replace(f"{name} => ${n + 1},", f"{name} => ${n + 1}::text::uuid[],")
                values[n] = text
        [said] = [one for one in await ground.run("api", statement, *values) if one["n"] == 1]
        assert said["outcome"] == "accepted"
        [kept] = await ground.run("admin", "SELECT tenant, requested_by FROM mission WHERE id = $1", row["m_id"])
        assert tuple(kept) == (ground.tenant, ground.ids["asker"])
        elsewhere = "SELECT count(*) FROM ledger WHERE tenant = $1 AND actor = 'principal:' || $2::text"
        assert await ground.value("admin", elsewhere, victim.tenant, str(victim.ids["asker"])) == 0
