"""Container, compose and Kubernetes files fit their schemas, each other, and what services are told."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from services.cluster.topology import TopologyConfig
from services.gateway.config import GatewayConfig
from services.generator.config import LEAST_BYTES, GeneratorConfig, room
from services.kvstore.config import KVStoreConfig
from services.retriever.config import RetrieverConfig
from worldkv.client import Member, MembershipFile
from worldkv.config import load
from worldkv.service import host_port

ROOT = Path(__file__).parents[2]
DEPLOY, SCHEMAS = ROOT / "deploy", ROOT / "tests" / "schemas"
KINDS: dict[str, Any] = {
    "kvstore": KVStoreConfig,
    "retriever": RetrieverConfig,
    "generator": GeneratorConfig,
    "gateway": GatewayConfig,
}
PORTS = {"kvstore": 7070, "retriever": 7080, "generator": 7090, "gateway": 8470}
OVERLAYS = ("base", "gpu", "secured", "ray")
PATCHES = ("gpu/", "secured/")
"""Files of these say only what is added to the base."""


def settings(kind: str) -> Any:
    return load(KINDS[kind], "NONE_", DEPLOY / "config" / f"{kind}.toml", {})


def members(kind: str) -> dict[str, str]:
    membership = MembershipFile(DEPLOY / "config" / "members" / f"{kind}.toml")()
    assert membership.number > 0
    return dict(membership.shards)


@cache
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def documents(*folders: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every manifest of these folders of deploy/k8s, with its file's name."""
    for folder in folders:
        for file in sorted((DEPLOY / "k8s" / folder).glob("*.yaml")):
            if file.name not in ("kustomization.yaml", "references.yaml"):
                yield from ((f"{folder}/{file.name}", each) for each in yaml.safe_load_all(file.read_text()))


MANIFESTS = list(documents(*OVERLAYS))


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that is run, with the name of what runs it; patches aside."""
    for file, each in MANIFESTS:
        name, spec = f"{file} {each['metadata']['name']}", each.get("spec", {})
        if each["kind"] in ("StatefulSet", "Deployment") and not file.startswith(PATCHES):
            yield name, spec["template"]["spec"]
        if each["kind"] == "RayCluster":
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                yield f"{name} {group.get('groupName', 'head')}", group["template"]["spec"]


PODS = [pytest.param(pod, id=name) for name, pod in pods()]


def of_kind(kind: str, name: str, folder: str = "base") -> dict[str, Any]:
    (found,) = [
        each
        for file, each in MANIFESTS
        if each["kind"] == kind and each["metadata"]["name"] == name and file.startswith(folder)
    ]
    return found


def container(kind: str) -> dict[str, Any]:
    set_of = "Deployment" if kind == "gateway" else "StatefulSet"
    (found,) = of_kind(set_of, kind)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def size(text: str) -> int:
    """Bytes of `4Gi`, `8gb` and the like, as Kubernetes and compose each mean them."""
    found = re.fullmatch(r"(\d+)(Mi|Gi|gb)", text)
    assert found, text
    return int(found[1]) << {"Mi": 20, "Gi": 30, "gb": 30}[found[2]]


def schema(file: str, definition: str = "") -> Draft202012Validator:
    """The checker of a vendored schema, or of one of its definitions."""
    made = {each.name: DRAFT202012.create_resource(json.loads(each.read_text())) for each in SCHEMAS.glob("*.json")}
    registry: Registry[Any] = Registry().with_resources(made.items())
    return Draft202012Validator({"$ref": f"{file}#/$defs/{definition}" if definition else file}, registry=registry)


# Configuration


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_containers_are_settings_of_services(kind):
    told = settings(kind)
    host, port = host_port(told.service.address)
    assert (host, port) == ("0.0.0.0", PORTS[kind])
    assert told.service.metrics == "0.0.0.0:9090"
    assert told.service.notice_seconds > 0  # a balancer has to see that it ends


def test_settings_say_only_what_differs_from_the_defaults():
    for kind, config in KINDS.items():
        default, given = config(), tomllib.loads((DEPLOY / "config" / f"{kind}.toml").read_text())
        for key, value in given.items():
            if isinstance(value, dict) and (table := getattr(default, key)) is not None:
                assert [name for name in value if getattr(table, name) == value[name]] == [], (kind, key)


def test_the_cluster_of_ray_stands_on_the_memory_tier():
    told = load(TopologyConfig, "NONE_", DEPLOY / "config" / "cluster.toml", {})
    for kind, given in (("kvstore", told.elsewhere.kvstore), ("retriever", told.elsewhere.retriever)):
        assert dict(map(Member.of, given)) == members(kind)
    ray = of_kind("RayCluster", "worldkv", "ray")["spec"]
    gpu, door = ray["workerGroupSpecs"]
    assert ray["headGroupSpec"]["rayStartParams"]["num-cpus"] == gpu["rayStartParams"]["num-cpus"] == "0"
    assert told.parts.gateway.cpus <= float(door["rayStartParams"]["num-cpus"])
    assert told.parts.generator.count <= gpu["replicas"]
    assert told.parts.gateway.count <= door["replicas"]
    grace = ray["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= told.supervision.end_seconds
    assert f"\nray=={ray['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_members_are_the_parts_that_run():
    for kind in ("kvstore", "retriever", "generator"):
        count = of_kind("StatefulSet", kind)["spec"]["replicas"]
        assert of_kind("StatefulSet", kind)["spec"]["serviceName"] == kind
        assert members(kind) == {f"{kind}-{n}": f"{kind}-{n}.{kind}:{PORTS[kind]}" for n in range(count)}
        aliases = set(chain.from_iterable(each for each in map(aliases_of, compose()["services"].values())))
        assert {address.partition(":")[0] for address in members(kind).values()} <= aliases


def aliases_of(part: dict[str, Any]) -> list[str]:
    return list(part.get("networks", {}).get("default", {}).get("aliases", []))


# Images


def stages() -> dict[str, str]:
    """Stages of the container file by name, each its text."""
    text = (DEPLOY / "Containerfile").read_text()
    found = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)
    return {
        name: f"FROM {base}\n{body}" for base, name, body in zip(found[1::3], found[2::3], found[3::3], strict=True)
    }


def test_every_service_has_its_image():
    found = stages()
    for kind in KINDS:
        assert f'ENTRYPOINT ["python", "-m", "services.{kind}"]' in found[kind]
        assert f"/etc/worldkv/config/{kind}.toml" in found[kind]
        assert str(PORTS[kind]) in found[kind]
        assert (DEPLOY / "config" / f"{kind}.toml").exists()
        extras = {"generator": "generator,wan"}.get(kind, kind)
        assert f"'.[{extras}]'" in found[f"build-{kind}"]
    assert "'.[cluster,wan]'" in found["build-ray"]


def test_images_are_pinned_and_nobody_in_particular_runs_in_them():
    text, found = (DEPLOY / "Containerfile").read_text(), stages()
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?$", text, re.MULTILINE)
    bases = {each.removeprefix("FROM ").split()[0] for each in found.values()}
    assert bases <= {"${PYTHON}", *found}
    assert "USER 10001:10001" in found["run"]
    for name in (*KINDS, "ray"):
        assert found[name].startswith("FROM run\n")
        assert "USER" not in found[name]
    images = [part["image"] for part in compose()["services"].values() if not part["image"].startswith("worldkv/")]
    images += [each["image"] for _, pod in pods() for each in pod["containers"] if "/" not in each["image"]]
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for folder in ("base", "ray"):
        told = yaml.safe_load((DEPLOY / "k8s" / folder / "kustomization.yaml").read_text())
        assert {each["newTag"] for each in told["images"]} == {version}


def test_only_what_draws_has_torch():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for light in ("kvstore", "retriever", "gateway"):
        assert not [each for each in extras[light] if re.match(r"torch|ray|worldkv\[", each)]
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert not [each for each in base if each.startswith(("torch", "ray"))]


def test_what_images_are_made_of_reaches_the_builder():
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {*build["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "pyproject.toml", "constraints.txt"}
    assert wanted | {build["project"]["readme"], *build["project"]["license-files"]} == kept


# Compose


def test_compose_fits_its_schema():
    schema("compose.json").validate(compose())
    broken = {**compose(), "services": {"redis": {"image": "redis", "restarts": "always"}}}
    assert not schema("compose.json").is_valid(broken)


def test_compose_runs_the_topology():
    parts = compose()["services"]
    ours = {name: part for name, part in parts.items() if part["image"].startswith("worldkv/")}
    assert set(ours) == {"kvstore-0", "kvstore-1", "retriever-0", "generator-0", "generator-gpu", "gateway"}
    for name, part in ours.items():
        kind = name.partition("-")[0]
        assert part["build"]["target"] == kind
        assert part["healthcheck"]["test"] == ["CMD", "worldkv", "health", f"127.0.0.1:{PORTS[kind]}"]
        assert part["read_only"]
        assert all(each["condition"] == "service_healthy" for each in part["depends_on"].values())
        assert set(part["depends_on"]) <= set(parts)
        assert all((DEPLOY / volume.partition(":")[0]).exists() for volume in part["volumes"])
    assert aliases_of(parts["generator-0"]) == aliases_of(parts["generator-gpu"])
    assert parts["generator-0"]["profiles"] != parts["generator-gpu"]["profiles"]
    assert all(each.startswith("127.0.0.1:") for part in parts.values() for each in part.get("ports", ()))


def test_compose_has_the_memory_that_shards_take():
    parts, told = compose()["services"], settings("kvstore")
    generator = load(GeneratorConfig, "NONE_", DEPLOY / "config" / "generator.toml", {})
    shards = [name for name in parts if name.startswith("kvstore")]
    shared, staged = parts["kvstore-0"]["shm_size"], room(generator.store.staging_bytes, 2 * LEAST_BYTES)
    assert size(shared) >= len(shards) * told.ram.budget_bytes + 2 * staged
    assert all(part.get("ipc") == "service:kvstore-0" for name, part in parts.items() if name in shards[1:])


def test_the_procfile_is_the_same_topology():
    lines = (DEPLOY / "Procfile").read_text().splitlines()
    names = {line.partition(":")[0] for line in lines if not line.startswith("#")}
    parts = compose()["services"]
    assert names == {name for name, part in parts.items() if not {"watch", "gpu"} & set(part.get("profiles", ()))}


# Kubernetes


@pytest.mark.parametrize(("file", "manifest"), MANIFESTS, ids=[f"{f} {m['metadata']['name']}" for f, m in MANIFESTS])
def test_manifests_fit_their_schema(file, manifest):
    if manifest["kind"] == "RayCluster":
        schema("raycluster.json").validate(manifest)
    elif file.startswith(PATCHES):
        patched = of_kind(manifest["kind"], manifest["metadata"]["name"])["spec"]["template"]["spec"]
        added = manifest["spec"]["template"]["spec"]
        schema("kubernetes.json", "PodSpec").validate(added)
        assert {each["name"] for each in added["containers"]} <= {each["name"] for each in patched["containers"]}
    else:
        schema("kubernetes.json", manifest["kind"]).validate(manifest)


def test_a_manifest_with_a_slip_is_found():
    slip = json.loads(json.dumps(of_kind("StatefulSet", "kvstore")))
    slip["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    assert not schema("kubernetes.json", "StatefulSet").is_valid(slip)


@pytest.mark.parametrize("pod", PODS)
def test_pods_may_do_as_little_as_they_need(pod):
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    volumes = {each["name"] for each in pod.get("volumes", ())} | {"data"}
    for each in pod["containers"]:
        least = each["securityContext"]
        assert least["readOnlyRootFilesystem"]
        assert not least["allowPrivilegeEscalation"]
        assert least["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(each["resources"]["requests"])
        assert "memory" in each["resources"]["limits"]
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
        assert each["name"] == "supervisor" or {"readinessProbe", "livenessProbe"} <= set(each)


@pytest.mark.parametrize("kind", KINDS)
def test_services_are_asked_how_they_are_where_they_serve(kind):
    found = container(kind)
    ports = {each["name"]: each["containerPort"] for each in found["ports"]}
    assert ports["grpc"] == found["readinessProbe"]["grpc"]["port"] == found["startupProbe"]["grpc"]["port"]
    assert (ports["grpc"], ports["metrics"]) == (PORTS[kind], 9090)
    # NOT_SERVING while it drains must not have it killed: only a process that takes no connection is.
    assert found["livenessProbe"]["tcpSocket"] == {"port": "grpc"}


@pytest.mark.parametrize("kind", KINDS)
def test_secured_services_ask_for_tokens(kind):
    (patch,) = [each for file, each in MANIFESTS if file.startswith("secured/") and each["metadata"]["name"] == kind]
    (found,) = patch["spec"]["template"]["spec"]["containers"]
    told = load(KINDS[kind], f"WORLDKV_{kind.upper()}_", None, {each["name"]: each["value"] for each in found["env"]})
    assert told.service.auth.secret.is_relative_to(found["volumeMounts"][0]["mountPath"])


@pytest.mark.parametrize("kind", KINDS)
def test_pods_have_the_time_to_end_in_order(kind):
    told, set_of = settings(kind), "Deployment" if kind == "gateway" else "StatefulSet"
    needed = told.service.notice_seconds + told.service.drain_seconds
    if kind == "kvstore":
        needed += told.handover_seconds + told.tiers.flush_seconds
        stop = compose()["services"]["kvstore-0"]["stop_grace_period"]
        assert float(stop.removesuffix("s")) >= needed
    if kind == "generator":
        needed += told.live.settle_seconds
    assert of_kind(set_of, kind)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= needed


def test_shards_have_the_memory_that_they_take():
    pod = of_kind("StatefulSet", "kvstore")["spec"]["template"]["spec"]
    (shared,) = [each["emptyDir"] for each in pod["volumes"] if each["name"] == "shm"]
    budget, limit = settings("kvstore").ram.budget_bytes, size(container("kvstore")["resources"]["limits"]["memory"])
    assert shared["medium"] == "Memory"
    assert budget < size(shared["sizeLimit"]) < limit


def test_whoever_can_be_drained_is_not_drained_all_at_once():
    for kind in KINDS:
        found = of_kind("PodDisruptionBudget", kind)["spec"]
        assert found["selector"] == {"matchLabels": {"app": kind}}
        assert found.get("maxUnavailable", found.get("minAvailable")) == 1


def test_nobody_is_let_in_who_is_not_named():
    policies = [each for file, each in MANIFESTS if each["kind"] == "NetworkPolicy" and file.startswith("base")]
    closed = [each for each in policies if each["spec"]["podSelector"] == {}]
    assert [each["spec"] for each in closed] == [{"podSelector": {}, "policyTypes": ["Ingress"]}]
    open_to_all = {
        port["port"]
        for each in policies
        for rule in each["spec"].get("ingress", ())
        if "from" not in rule
        for port in rule["ports"]
    }
    assert open_to_all == {8470, 8471}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_kustomizations_name_files_that_are_there(folder):
    place = DEPLOY / "k8s" / folder
    told = yaml.safe_load((place / "kustomization.yaml").read_text())
    named = {
        *told["resources"],
        *told.get("configurations", ()),
        *(each.get("path") for each in told.get("patches", ())),
    }
    assert all((place / each).exists() for each in named if each)
    assert {file.name for file in place.glob("*.yaml")} - {"kustomization.yaml"} <= named


def test_every_setting_reaches_the_cluster():
    told = yaml.safe_load((DEPLOY / "config" / "kustomization.yaml").read_text())["configMapGenerator"]
    files = [each.rpartition("=")[2] for made in told for each in made["files"]]
    assert set(files) == {str(each.relative_to(DEPLOY / "config")) for each in (DEPLOY / "config").rglob("*.toml")}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl program")
@pytest.mark.parametrize("folder", OVERLAYS)
def test_kustomize_makes_manifests_that_hang_together(folder):
    command = ["kubectl", "kustomize", str(DEPLOY / "k8s" / folder)]
    made = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    names = {each["metadata"]["name"] for each in made if each["kind"] == "ConfigMap"}
    wanted = set(re.findall(r"'configMap': {'name': '([^']+)'", str(made)))
    assert wanted == names
    for each in made:
        schema(*(("raycluster.json",) if each["kind"] == "RayCluster" else ("kubernetes.json", each["kind"]))).validate(
            each
        )
