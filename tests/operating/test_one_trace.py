"""One trace runs through all processes, and says nothing that nobody should read in it."""

import pytest

from tests.operating.collector import Span
from tests.operating.conftest import Operated
from tests.walks.conftest import until
from tests.walks.test_kills import approve_all, restore_crm, state

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("operating")]
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
CANARY = "kanarienvogel"
BEGAN = "mission-root-api POST /v1/missions"
PROCESSES = {"mission-root-api", "mission-root-worker", "colony", "mission-root-executor"}


def ancestors(span: Span, spans: list[Span]) -> list[str]:
    """(process, name) from the span up to the one that began it all."""
    by_id = {one.id: one for one in spans}
    names = [f"{span.service} {span.name}"]
    while span.parent in by_id:
        span = by_id[span.parent]
        names.append(f"{span.service} {span.name}")
    return names


@pytest.fixture(scope="module")
def traced(instance: Operated) -> Operated:
    """The instance after a mission to its end, whose trace is the caller's, and whose goal, label and document bear a canary."""
    ask = {
        "mission_type": "crm_lead_intelligence",
        "user_goal": f"Which leads deserve a call, and why? {CANARY}",
        "labels": {"word": CANARY},
    }
    with instance.client("submitter") as client:
        headers = {"traceparent": f"00-{CALLER}-00f067aa0ba902b7-01"}
        mission = client.post("/v1/missions", json=ask, headers=headers).raise_for_status().json()["id"]
        until(lambda: state(client, mission) == "awaiting_approval", "there is something to approve")
        client.put("/v1/workspaces/default/documents", params={"path": f"{CANARY}.md"}, content=b"# x\n")
        client.get("/v1/missions", params={"label": f"word:{CANARY}"})
    assert approve_all(instance, mission)
    with instance.client("submitter") as client:
        until(lambda: state(client, mission) == "completed", "the changes are made")
    until(
        lambda: {span.service for span in instance.collector.of(CALLER)} >= PROCESSES, "every process has told its part"
    )
    until(lambda: any(one.name == "read back" for one in instance.collector.of(CALLER)), "the executor, too")
    # a span leaves when it ends: those around others come later
    until(
        lambda: all(ancestors(span, spans)[-1] == BEGAN for spans in [instance.collector.of(CALLER)] for span in spans),
        "every span has its parents up to the request",
    )
    restore_crm(instance)
    return instance


def test_root_colony_tools_and_executor_share_one_trace(traced: Operated) -> None:
    spans = traced.collector.of(CALLER)
    tools = [span for span in spans if span.name == "tool"]
    assert {span.attributes["tool.name"] for span in tools} >= {"crm.list"}
    way = ancestors(tools[0], spans)
    assert "colony mission attempt" in way and way[-1] == BEGAN
    assert {span.name for span in spans if span.service == "mission-root-executor"} == {
        "execute",
        "apply",
        "read back",
    }
    outcomes = [span.attributes["execution.outcome"] for span in spans if span.name == "execute"]
    assert outcomes and set(outcomes) == {"succeeded"}


def test_no_secret_and_nothing_that_people_wrote_leaves_with_a_trace(traced: Operated) -> None:
    said = b"".join(traced.collector.raw)
    assert CANARY.encode() not in said, [
        (span.service, span.name, found)
        for span in traced.collector.spans
        if (found := [one for one in span.attributes.items() if CANARY in one[1]])
    ]
    kept = traced.said["keys"].values()
    passwords = [url.split(":")[2].split("@")[0] for url in traced.said["databases"].values()]
    for secret in (*kept, *passwords, traced.said["kit_env"]["ROOT_API_KEY"].split(":")[1]):
        assert secret.encode() not in said
