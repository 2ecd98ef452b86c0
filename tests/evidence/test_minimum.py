"""What a mission type's minimum asks of sources: their age, trust and number, and that they do not contradict each other."""

from typing import Any

import pytest

from colony_client.artifacts import AggregationPacket, Citation, Claim
from tests.world import World
from tests.world.checks import inspector, problem
from tests.world.colony import base
from tests.world.life import Life, change, cited, give_guide, under_way

GUIDE = "# Rollback\n\nA rollback takes four minutes.\n"
WIKI = "# Rollback\n\nA rollback takes ten minutes.\n"
COMPLETE = {"type": "signal", "signal": "complete"}


async def kind(world: World, **review: Any) -> str:
    shipped = (await world.product_owner.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: shipped[name] for name in ("title", "description", "inputs_schema", "tools", "defaults", "limits")}
    minimum = {"min_coverage": 1.0} | review
    made = await world.product_owner.put("/v1/mission-types/strict", json=own | {"review": minimum})
    assert made.status_code == 201, made.text
    assert made.json()["review"] == minimum
    return "strict"


async def looked(world: World, mission_type: str) -> tuple[Life, dict[str, Citation]]:
    """A mission that was shown every document about rollbacks; a citation of each."""
    life = await under_way(world, mission_type=mission_type)
    found = await world.colony.tool(life.dispatch, "workspace.search", query="a rollback takes minutes", limit=20)
    return life, {one["document"]: cited(one) for one in found["passages"]}


async def answered(life: Life, *citations: Citation, proposals: int = 0) -> dict[str, Any]:
    """The mission says what it cites, is reviewed, and its packet is answered."""
    claims = [Claim(id=f"c{n}", text=f"Claim {n}.", citations=[one]) for n, one in enumerate(citations, 1)]
    fields: dict[str, Any] = {"answer_status": "answered" if claims else "not_found", "answer": "", "claims": claims}
    await life.say(
        *(
            {"type": "writeback.proposed", "proposal": change(life.dispatch.envelope, [citations[0]], n)}
            for n in range(proposals)
        ),
        {"type": "artifact.produced", "artifact": AggregationPacket(**base(life.dispatch.envelope), **fields)},
        COMPLETE,
    )
    await life.world.run_work("review")
    answer = await life.world.auditor.get(f"/v1/missions/{life.id}/packet")
    found: dict[str, Any] = answer.json()
    return found


async def missed(life: Life) -> list[str]:
    [(_, body)] = await life.facts("mission.reviewed")
    return list(body["missed"])


@pytest.mark.parametrize(
    ("asked", "state"), [("normal", "completed"), ("authoritative", "failed"), ("untrusted", "completed")]
)
async def test_the_least_trust(world: World, asked: str, state: str) -> None:
    await give_guide(world, GUIDE)
    life, found = await looked(world, await kind(world, min_trust=asked))
    packet = await answered(life, found["guide.md"])
    assert packet["mission"]["state"] == state
    assert packet["review"]["minimum"] == {"min_coverage": 1.0, "min_trust": asked}
    assert packet["review"]["trust"] == packet["claims"][0]["trust"] == "normal"
    if state == "failed":
        assert packet["review"]["problems"] == ["minimum min_trust authoritative: guide.md is normal"]
        assert await missed(life) == ["min_trust"] and packet["mission"]["reason"] == "review"


async def test_trust_is_that_of_the_review_and_of_the_weakest(world: World) -> None:
    """Rules that are set while a mission runs count; what was reviewed stays as it was judged."""
    await give_guide(world, GUIDE)
    await give_guide(world, WIKI, "wiki/a.md")
    life, found = await looked(world, await kind(world, min_trust="normal"))
    other, others = await looked(world, "strict")
    packet = await answered(life, found["guide.md"], found["wiki/a.md"])
    assert packet["mission"]["state"] == "completed"
    rules = [{"pattern": "wiki/**", "trust": "untrusted"}, {"pattern": "*.md", "trust": "authoritative"}]
    assert (await world.product_owner.put("/v1/workspaces/default/trust", json={"rules": rules})).status_code == 200
    again = await answered(other, others["guide.md"], others["wiki/a.md"])
    assert again["mission"]["state"] == "failed" and again["review"]["trust"] == "untrusted"
    assert [claim["trust"] for claim in again["claims"]] == ["authoritative", "untrusted"]
    assert {one["document"]: one["trust"] for one in again["review"]["sources"]} == {
        "guide.md": "authoritative", "wiki/a.md": "untrusted",
    }  # fmt: skip
    kept = (await world.auditor.get(f"/v1/missions/{life.id}/packet")).json()
    assert kept["review"]["trust"] == "normal"


async def test_the_age_of_sources(world: World) -> None:
    await give_guide(world, GUIDE)
    old = "---\nlastmod: 2020-01-01\n---\n" + WIKI
    await give_guide(world, old, "wiki/a.md")
    life, found = await looked(world, await kind(world, max_source_age_days=30))
    packet = await answered(life, found["guide.md"])
    assert packet["mission"]["state"] == "completed"
    assert packet["review"]["age"]["oldest_days"] < 1 and packet["review"]["sources"][0]["written_at"] is None
    life, found = await looked(world, "strict")
    packet = await answered(life, found["guide.md"], found["wiki/a.md"])
    assert packet["mission"]["state"] == "failed" and await missed(life) == ["max_source_age_days"]
    assert packet["review"]["problems"] == ["minimum max_source_age_days 30: wiki/a.md was last changed 2020-01-01"]
    young, grown = packet["claims"]
    assert young["age"]["oldest_days"] < 1 and grown["age"]["oldest_days"] > 2000
    age = packet["review"]["age"]
    assert age["oldest_days"] == grown["age"]["oldest_days"]
    assert age["median_days"] == pytest.approx(age["oldest_days"] / 2, abs=1)


async def test_a_record_is_as_old_as_its_reading(world: World) -> None:
    await world.with_crm()
    life = await under_way(world, mission_type="crm_lead_intelligence")
    listed = await world.colony.tool(life.dispatch, "crm.list", kind="lead", limit=1)
    [record] = listed["records"]
    quote = record["text"][:40]
    citation = cited({"text": quote, "source": record["source"], "document": record["document"], "start": 0})
    await (await inspector(world)).execute(
        "UPDATE reading SET read_at = clock_timestamp() - interval '3 days' WHERE mission = $1", life.id
    )
    packet = await answered(life, citation)
    [source] = packet["review"]["sources"]
    assert (source["kind"], source["ingested_at"], source["written_at"]) == ("record", None, None)
    assert source["age_days"] == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize(("asked", "state"), [("allow", "completed"), ("fail", "failed"), (None, "completed")])
async def test_contradictions(world: World, asked: str | None, state: str) -> None:
    await give_guide(world, GUIDE)
    await give_guide(world, WIKI, "wiki/on-call.md")
    life, found = await looked(world, await kind(world, **({"contradictions": asked} if asked else {})))
    packet = await answered(life, found["guide.md"])  # the other one was shown, and is not cited
    assert packet["mission"]["state"] == state
    [one] = packet["review"]["contradictions"]
    assert (one["kind"], one["claims"]) == ("number", ["c1"])
    assert [(side["document"], side["value"]) for side in (one["one"], one["other"])] == [
        ("guide.md", "four minutes"), ("wiki/on-call.md", "ten minutes"),
    ]  # fmt: skip
    for side, text in ((one["one"], GUIDE), (one["other"], WIKI)):
        assert text.encode()[side["start"] : side["end"]].decode() == side["quote"]
    if state == "failed":
        assert packet["review"]["problems"] == ["minimum contradictions fail: guide.md and wiki/on-call.md"]
        assert await missed(life) == ["contradictions"]
    page = (await world.auditor.get(f"/v1/missions/{life.id}/packet?format=html")).text
    assert "Sources contradict each other" in page and "ten minutes" in page


async def test_what_the_mission_was_not_shown_contradicts_nothing(world: World) -> None:
    await give_guide(world, GUIDE)
    life, found = await looked(world, await kind(world, contradictions="fail"))
    await give_guide(world, WIKI, "wiki/on-call.md")
    packet = await answered(life, found["guide.md"])
    assert packet["mission"]["state"] == "completed" and packet["review"]["contradictions"] == []


@pytest.mark.parametrize(
    ("asked", "cites", "state"), [(1, 1, "completed"), (2, 1, "failed"), (2, 2, "completed"), (2, 0, "completed")]
)
async def test_how_many_sources_an_answer_rests_on(world: World, asked: int, cites: int, state: str) -> None:
    """Nothing found is an honest end and rests on nothing."""
    await give_guide(world, GUIDE)
    await give_guide(world, WIKI, "wiki/on-call.md")
    life, found = await looked(world, await kind(world, min_sources=asked))
    packet = await answered(life, *[found[name] for name in ("guide.md", "wiki/on-call.md")][:cites])
    assert packet["mission"]["state"] == state
    if state == "failed":
        assert packet["review"]["problems"] == [f"minimum min_sources {asked}: the answer rests on 1"]


async def test_a_claim_that_does_not_hold_brings_no_source(world: World) -> None:
    await give_guide(world, GUIDE)
    await give_guide(world, WIKI, "wiki/on-call.md")
    life, found = await looked(world, await kind(world, min_coverage=0.0, min_sources=2))
    lie = found["wiki/on-call.md"].model_copy(update={"quote": "x" * len(found["wiki/on-call.md"].quote)})
    packet = await answered(life, found["guide.md"], lie)
    assert packet["mission"]["state"] == "failed" and packet["review"]["unsupported"] == ["c2"]
    assert [one["document"] for one in packet["review"]["sources"]] == ["guide.md"]
    assert packet["claims"][1]["age"] is None and packet["claims"][1]["trust"] is None


async def test_a_proposal_stands_on_the_same_minimum(world: World) -> None:
    await give_guide(world, GUIDE)
    life, found = await looked(world, await kind(world, min_trust="authoritative"))
    await answered(life, found["guide.md"], proposals=1)
    assert await life.state() == "failed" and await life.writebacks() == []


@pytest.mark.parametrize(
    ("review", "pointer"),
    [
        ({"max_source_age_days": 0}, "/review/max_source_age_days"),
        ({"max_source_age_days": 1e9}, "/review/max_source_age_days"),
        ({"min_trust": "blind"}, "/review/min_trust"),
        ({"contradictions": "maybe"}, "/review/contradictions"),
        ({"min_sources": 0}, "/review/min_sources"),
        ({"min_sources": 51}, "/review/min_sources"),
        ({"min_sources": 1.5}, "/review/min_sources"),
        ({"min_surprise": 1}, "/review/min_surprise"),
    ],
)
async def test_nonsense_is_refused_by_field(world: World, review: dict[str, Any], pointer: str) -> None:
    shipped = (await world.product_owner.get("/v1/mission-types/oracle_advisory")).json()
    own = {name: shipped[name] for name in ("title", "description", "inputs_schema", "tools", "defaults", "limits")}
    answer = await world.product_owner.put(
        "/v1/mission-types/strict", json=own | {"review": {"min_coverage": 1.0} | review}
    )
    assert problem(answer, "validation")["errors"][0]["pointer"] == pointer
