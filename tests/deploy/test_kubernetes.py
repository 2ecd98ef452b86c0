"""The manifests: what Kubernetes' own schemas say of them, who may know and reach what, and that each process accepts it."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from tests.deploy.compose import REPOSITORY, image_environment
from tests.deploy.test_compose_file import PROCESSES, enter

FOLDER = REPOSITORY / "deploy" / "kubernetes"
VERSION = "1.34"
COMPONENT = "app.kubernetes.io/component"
EXAMPLES = ("secrets.example.yaml", "postgres.example.yaml")


def documents(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((FOLDER / name).read_text()) if one]


KUSTOMIZATION = documents("kustomization.yaml")[0]
APPLIED = [one for name in KUSTOMIZATION["resources"] for one in documents(name)]
SECRETS = {one["metadata"]["name"]: one["stringData"] for one in documents("secrets.example.yaml")}
DEPLOYMENTS = {one["metadata"]["name"]: one for one in APPLIED if one["kind"] == "Deployment"}


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in APPLIED if one["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    made = DEPLOYMENTS | of_kind("Job")
    return {name: one["spec"]["template"] for name, one in made.items()}


def environment(name: str) -> dict[str, str]:
    """What a process is given, from maps and secrets, in their order."""
    maps, given = of_kind("ConfigMap"), dict[str, str]()
    for source in pods()[name]["spec"]["containers"][0]["envFrom"]:
        if "configMapRef" in source:
            given |= maps[source["configMapRef"]["name"]]["data"]
        else:
            given |= SECRETS[source["secretRef"]["name"]]
    return given


@pytest.mark.parametrize("name", [*KUSTOMIZATION["resources"], "secrets.example.yaml"])
def test_kubernetes_would_understand_every_document(name: str) -> None:
    for one in documents(name):
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_the_database_is_reached_by_those_who_need_it_and_its_instances_by_each_other() -> None:
    cluster, policy = documents("postgres.example.yaml")
    kubernetes_validate.validate(policy, VERSION, strict=True)
    own = {"cnpg.io/cluster": cluster["metadata"]["name"]}
    assert policy["metadata"]["namespace"] == cluster["metadata"]["namespace"]
    assert policy["spec"]["podSelector"]["matchLabels"] == own
    peer = {"podSelector": {"matchLabels": own}}
    needing = {
        name for name in pods()
        for rule in of_kind("NetworkPolicy")[name]["spec"]["egress"] if peer in rule["to"] and rule["ports"] == [{"port": 5432}]
    }  # fmt: skip
    callers, others, operator = policy["spec"]["ingress"]
    [said] = callers["from"][0]["podSelector"]["matchExpressions"]
    assert needing == set(said["values"]) and said["key"] == COMPONENT and callers["ports"] == [{"port": 5432}]
    assert needing == {name for name in pods() if any(one.endswith("DATABASE_URL") for one in environment(name))}
    both = [{"port": 5432}, {"port": 8000}]
    assert others == {"from": [peer], "ports": both} and operator["ports"] == [{"port": 8000}]
    assert policy["spec"]["egress"][0] == {"to": [peer], "ports": both}
    assert all("ipBlock" in to for rule in policy["spec"]["egress"][1:] for to in rule["to"])


def test_anchors_lie_where_the_environment_says() -> None:
    for name in ("root", "worker"):
        given = environment(name)
        assert given["ANCHOR_STORE"].rpartition("/")[2] == given["ENVIRONMENT"]


def test_the_schema_would_notice() -> None:
    wrong = {**DEPLOYMENTS["root"], "spec": {**DEPLOYMENTS["root"]["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_all_files_are_applied_and_no_secret_is() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == {*KUSTOMIZATION["resources"], *EXAMPLES}
    assert not [one for one in APPLIED if one["kind"] == "Secret"]
    for values in SECRETS.values():
        assert all("change-me" in value for value in values.values())


@pytest.mark.parametrize("name", sorted(pods()))
def test_pods_run_without_rights_and_without_a_token(name: str) -> None:
    spec = pods()[name]["spec"]
    assert spec["automountServiceAccountToken"] is False and spec["serviceAccountName"] == name
    assert of_kind("ServiceAccount")[name]["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        bound = container["securityContext"]
        assert bound["readOnlyRootFilesystem"] and not bound["allowPrivilegeEscalation"], container["name"]
        assert bound["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]


def test_each_process_has_its_own_secret_and_no_other() -> None:
    for name, template in pods().items():
        containers = [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]
        used = {one["secretRef"]["name"] for each in containers for one in each["envFrom"] if "secretRef" in one}
        assert used == {f"{name}-secrets"}
        assert not any("secret" in volume for volume in template["spec"]["volumes"])


@pytest.mark.parametrize(
    ("pattern", "holders"),
    [
        (r"EXECUTOR_DATABASE_URL|.*_WRITE", {"executor", "schema"}),
        (r"CONNECTOR_.*_WRITE", {"executor"}),
        (r"ANCHOR_SIGNING_KEY", {"worker"}),
        (r"REGISTRAR_DATABASE_URL", {"registrar", "schema"}),
        (r"ADMIN_DATABASE_URL", {"schema"}),
        (r"ROOT_API_KEY", {"colony"}),
    ],
)
def test_who_is_given_which_credential(pattern: str, holders: set[str]) -> None:
    assert {name for name in pods() if any(re.fullmatch(pattern, one) for one in environment(name))} == holders


@pytest.mark.parametrize("name", sorted(PROCESSES))
async def test_a_process_accepts_the_environment_it_is_given(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import base64

    from app.ledger.keys import public_text, signer

    key = f"first:{base64.b64encode(b'k' * 32).decode()}"
    given = environment(name)
    real = {
        "ANCHOR_STORE": str(tmp_path),
        "ANCHOR_SIGNING_KEY": key,
        "ANCHOR_PUBLIC_KEYS": public_text(signer(key).public()),
    }
    enter(monkeypatch, image_environment() | given | {one: value for one, value in real.items() if one in given})
    PROCESSES[name]()


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
def test_probes_and_ports_are_those_of_the_process(name: str) -> None:
    [container] = pods()[name]["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    given = environment(name)
    said = {int(value) for key, value in given.items() if key.endswith("PORT")}
    assert set(ports.values()) == said
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    paths = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    expected = {"root": {"/startupz", "/livez", "/readyz"}, "colony": {"/health"}}
    assert paths == expected.get("root" if name == "registrar" else name, {"/metrics"})


@pytest.mark.parametrize("name", ["root", "registrar"])
def test_a_pod_serves_on_until_nobody_is_sent_to_it_and_has_time_to_finish(name: str) -> None:
    spec = pods()[name]["spec"]
    waits = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waits >= 5 and spec["terminationGracePeriodSeconds"] >= waits + 10  # a drain takes at most ten seconds
    rolling = DEPLOYMENTS[name]["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


def test_selectors_find_what_they_are_meant_for() -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods().items()}

    def found(selector: dict[str, str]) -> set[str]:
        return {name for name, own in labels.items() if selector.items() <= own.items()}

    for name, service in of_kind("Service").items():
        [target] = found(service["spec"]["selector"])
        ports = {one["name"] for one in pods()[target]["spec"]["containers"][0]["ports"]}
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports, name
    for name, budget in of_kind("PodDisruptionBudget").items():
        assert found(budget["spec"]["selector"]["matchLabels"]) == {name}
    for scaler in of_kind("HorizontalPodAutoscaler").values():
        assert scaler["spec"]["scaleTargetRef"]["name"] in DEPLOYMENTS
    for name, deployment in DEPLOYMENTS.items():
        assert found(deployment["spec"]["selector"]["matchLabels"]) == {name}
        scaled = [one["spec"]["minReplicas"] for one in of_kind("HorizontalPodAutoscaler").values()
                  if one["spec"]["scaleTargetRef"]["name"] == name]  # fmt: skip
        assert scaled == [] or "replicas" not in deployment["spec"], "each apply would undo what the autoscaler did"
        if (scaled or [deployment["spec"].get("replicas", 1)])[0] > 1:
            assert name in of_kind("PodDisruptionBudget")


def reach(name: str) -> set[str]:
    """Whom a component's policy lets it reach: components by name, others as they are written."""
    reached = set()
    for rule in of_kind("NetworkPolicy")[name]["spec"]["egress"]:
        for to in rule["to"]:
            expressions = to.get("podSelector", {}).get("matchExpressions", [])
            reached |= {value for one in expressions for value in one["values"]} or {yaml.safe_dump(to)}
    return reached


def test_nobody_reaches_anybody_unless_it_is_said() -> None:
    closed = of_kind("NetworkPolicy")["nobody"]["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in pods():
        policy = of_kind("NetworkPolicy")[name]["spec"]
        assert policy["podSelector"]["matchLabels"] == {COMPONENT: name}


def test_only_the_executor_reaches_business_systems() -> None:
    crm = "203.0.113.10/32"
    for name in pods():
        said = yaml.safe_dump(of_kind("NetworkPolicy")[name]["spec"]["egress"])
        allowed = [
            to["ipBlock"]["cidr"]
            for rule in of_kind("NetworkPolicy")[name]["spec"]["egress"]
            for to in rule["to"]
            if "ipBlock" in to
        ]
        assert (crm in allowed) is (name == "executor"), name
        if "0.0.0.0/0" in allowed:
            assert crm in said, f"{name} reaches the world, and must not reach the CRM with it"
    assert reach("colony") == {"root"}
    assert not any("cidr" in one for one in reach("colony") | reach("schema"))


def test_who_may_call_whom() -> None:
    def callers(name: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for rule in of_kind("NetworkPolicy")[name]["spec"].get("ingress", []):
            who = set()
            for one in rule["from"]:
                expressions = one.get("podSelector", {}).get("matchExpressions", [])
                named = one.get("namespaceSelector", {}).get("matchLabels", {}).values()
                who |= {value for each in expressions for value in each["values"]} | set(named)
            for port in rule["ports"]:
                found.setdefault(port["port"], set()).update(who)
        return found

    assert callers("root") == {8080: {"ingress-nginx", "worker"}, 8081: {"colony", "worker"}, 9400: {"observability"}}
    assert callers("registrar") == {8082: {"root"}, 9403: {"observability"}}
    assert callers("colony") == {8090: {"root", "worker", "observability"}}
    assert callers("worker") == {9401: {"observability"}} and callers("executor") == {9402: {"observability"}}
    assert callers("schema") == {}


def test_every_address_that_a_process_is_given_is_open_at_both_ends() -> None:
    """The worker's CALLBACK_BASE_URL too: its drills play the colony and call back."""
    services, policies, seen = of_kind("Service"), of_kind("NetworkPolicy"), set[tuple[str, str, int]]()

    def open_to(rules: list[dict[str, Any]], end: str, other: str, port: int) -> bool:
        return any(
            {"port": port} in rule["ports"]
            and any(
                other in one["values"]
                for peer in rule[end]
                for one in peer.get("podSelector", {}).get("matchExpressions", [])
            )
            for rule in rules
        )

    for caller in pods():
        for name, value in environment(caller).items():
            if name.endswith("_BASE_URL") and (place := urlsplit(value)).hostname in services:
                assert place.hostname and place.port
                called = services[place.hostname]["spec"]["selector"][COMPONENT]
                assert open_to(policies[caller]["spec"]["egress"], "to", called, place.port), (caller, name)
                assert open_to(policies[called]["spec"]["ingress"], "from", caller, place.port), (caller, name)
                seen.add((caller, called, place.port))
    assert {("worker", "root", 8080), ("worker", "root", 8081), ("colony", "root", 8081)} <= seen
