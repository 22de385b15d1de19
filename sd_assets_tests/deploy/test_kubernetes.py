"""deploy/kubernetes: the manifests fit the schemas and each other, and runs become jobs whose steps ask for what they need.

No cluster is here: jobs are taken where Kubernetes' client would send them, and what their containers are told runs on this machine.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.test_utils import instance_for_test

from sd_assets.assets.common import GPU_POOL
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.definitions import ASSETS
from sd_assets.resources.storage import DATA_VARIABLE
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.deploy.manifests import FOLDER, faults, manifests, pods
from sd_assets_tests.optional import missing

PROJECT = FOLDER.parents[1]
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
INSTANCE: dict[str, Any] = yaml.safe_load((FOLDER / "dagster.yaml").read_text())
GENERATED = {it["name"]: it.get("files", []) for it in KUSTOMIZATION["configMapGenerator"]}
OBJECTS = [
    manifest
    for name in (*KUSTOMIZATION["resources"], "raycluster.yaml")
    for manifest in manifests(FOLDER / name)
]
PODS = [pod for manifest in OBJECTS for pod in pods(manifest)]
CONTAINERS = [container for pod in PODS for container in pod["containers"]]
PARTITION = "demo_prompts"
# One without a model, and one with.
STEPS = ("seed_prompts", "seed_embeddings")
GPU = "nvidia.com/gpu"
# What the Pod Security Standard `restricted` asks of a container.
RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [it for it in OBJECTS if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    return found


# --- the manifests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda it: f"{it['kind']}-{it['metadata']['name']}")
def test_manifests_fit_the_schemas(manifest: dict[str, Any]) -> None:
    assert faults(manifest) == []


def misspelt(manifest: dict[str, Any]) -> None:
    manifest["spec"]["template"]["spec"]["contaners"] = []


def wrong_type(manifest: dict[str, Any]) -> None:
    manifest["spec"]["replicas"] = "one"


def lacking(manifest: dict[str, Any]) -> None:
    del manifest["spec"]["selector"]


def deep(manifest: dict[str, Any]) -> None:
    manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = ["1Gi"]


def of_no_kind(manifest: dict[str, Any]) -> None:
    manifest["apiVersion"] = "apps/v1beta1"


@pytest.mark.parametrize("spoil", [misspelt, wrong_type, lacking, deep, of_no_kind])
def test_a_spoilt_deployment_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    manifest = deepcopy(named("Deployment", "sd-assets-daemon"))
    spoil(manifest)
    assert len(faults(manifest)) == 1


def test_a_spoilt_ray_cluster_is_refused() -> None:
    cluster = deepcopy(named("RayCluster", "sd-assets"))
    cluster["spec"]["workerGroups"] = cluster["spec"].pop("workerGroupSpecs")
    cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resource"] = {}
    assert len(faults(cluster)) == 3


def test_what_is_referred_to_is_there() -> None:
    for files in GENERATED.values():
        assert all((FOLDER / name).is_file() for name in files)
    assert KUSTOMIZATION["generatorOptions"]["disableNameSuffixHash"] is True
    launcher = INSTANCE["run_launcher"]["config"]
    of_pods = {volume["configMap"]["name"] for pod in PODS for volume in pod.get("volumes", [])}
    of_runs = {volume["config_map"]["name"] for volume in launcher["volumes"]} | {
        launcher["instance_config_map"]
    }
    sources = [source for container in CONTAINERS for source in container["envFrom"]]
    from_maps = {source["configMapRef"]["name"] for source in sources if "configMapRef" in source}
    assert of_pods | of_runs | from_maps | {*launcher["env_config_maps"]} == set(GENERATED)
    for container in CONTAINERS:
        for mount in container.get("volumeMounts", []):
            assert mount.get("subPath") in {None, *GENERATED["sd-assets-instance"]}
    # Secrets, which no file holds.
    secrets = {source["secretRef"]["name"] for source in sources if "secretRef" in source}
    assert secrets - {"sd-assets-alerts"} == {*launcher["env_secrets"]} == {"sd-assets", "sd-assets-data"}
    assert not [it for it in OBJECTS if it["kind"] == "Secret"]
    accounts = {pod["serviceAccountName"] for pod in PODS} | {launcher["service_account_name"]}
    assert accounts == {it["metadata"]["name"] for it in OBJECTS if it["kind"] == "ServiceAccount"}
    (server,) = yaml.safe_load((FOLDER / "workspace.yaml").read_text())["load_from"]
    service = named("Service", server["grpc_server"]["host"])
    assert service["spec"]["ports"][0]["port"] == server["grpc_server"]["port"]
    labels = named("Deployment", "sd-assets-code-server")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels


def test_dagster_s_variables_are_those_of_the_config_map_and_the_secret() -> None:
    given = set(re.findall(r"^(\w+)=", (FOLDER / "sd-assets.env").read_text(), re.MULTILINE))
    used = set(re.findall(r"\{env: (\w+)\}", (FOLDER / "dagster.yaml").read_text()))
    assert used - given == {"DAGSTER_PG_PASSWORD"}
    assert not [name for name in given if re.search("PASSWORD|SECRET|TOKEN|KEY", name)]


def test_runs_are_coordinated_as_without_kubernetes() -> None:
    shipped = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    own = {"storage", "compute_logs", "run_launcher"}
    assert {name: value for name, value in INSTANCE.items() if name not in own} == shipped


def test_nothing_is_reached_from_outside() -> None:
    services = [it for it in OBJECTS if it["kind"] == "Service"]
    assert {it["spec"]["type"] for it in services} == {"ClusterIP"}
    assert named("RayCluster", "sd-assets")["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    (web,) = [it["args"] for it in CONTAINERS if it.get("args", [""])[0] == "dagster-webserver"]
    assert web[web.index("--host") + 1] == "127.0.0.1"
    policy = named("NetworkPolicy", "within-namespace")["spec"]
    # Every pod of the namespace, from every pod of the namespace, and from nowhere else.
    assert policy == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}]}],
    }


def test_ray_has_no_rights_and_no_secrets_of_dagster() -> None:
    (bound,) = named("RoleBinding", "sd-assets")["subjects"]
    for pod in pods(named("RayCluster", "sd-assets")):
        assert pod["serviceAccountName"] != bound["name"]
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["envFrom"] == [
            {"configMapRef": {"name": "sd-assets-env"}},
            {"secretRef": {"name": "sd-assets-data"}},
        ]


def test_kuberay_finds_the_servers_that_its_probes_ask() -> None:
    """Without what this module imports, the agent of a Ray node has no HTTP server, and KubeRay ends the pod."""
    if importlib.util.find_spec("ray") is None:
        missing("Ray", "pip install -c constraints.txt -e '.[ray]'")
    importlib.import_module("ray.dashboard.optional_deps")


def test_every_container_has_no_more_rights_than_it_needs() -> None:
    launcher = INSTANCE["run_launcher"]["config"]["run_k8s_config"]["container_config"]
    of_containers = [it["securityContext"] for it in CONTAINERS] + [launcher["security_context"]]
    assert of_containers == [RESTRICTED] * len(of_containers)
    # Who is not root, by number: Kubernetes cannot tell by name.
    assert re.search(r"^USER [1-9]\d*$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)


def test_ray_places_work_on_workers_only_and_gpus_in_one_group() -> None:
    spec = named("RayCluster", "sd-assets")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert f"ray=={spec['rayVersion']}" in (PROJECT / "constraints.txt").read_text().splitlines()
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    limits = {
        name: group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for name, group in groups.items()
    }
    assert {name: GPU in of_group for name, of_group in limits.items()} == {"cpu": False, "gpu": True}


# --- the image -------------------------------------------------------------------------------------------------------


def test_all_pods_have_one_image() -> None:
    (current,) = [
        variable["value"]
        for container in CONTAINERS
        for variable in container.get("env", [])
        if variable["name"] == "DAGSTER_CURRENT_IMAGE"
    ]
    assert {container["image"] for container in CONTAINERS} == {current}


def test_the_image_has_what_the_project_installs() -> None:
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert copied and all((PROJECT / source).exists() for source in copied)
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*" and {f"!{source}" for source in copied} <= set(ignored)
    (install,) = [line for line in lines if "pip install" in line]
    assert "-c constraints.txt" in install
    extras = set(re.findall(r"\[([\w,-]+)\]", install)[0].split(","))
    by_make = re.search(r"EXTRAS := (dev[\w,-]+)", (PROJECT / "Makefile").read_text())
    assert by_make and extras == set(by_make[1].split(",")) - {"dev", "consumers"}
    for container in CONTAINERS:
        if "--python-file" in container.get("args", []):
            assert (PROJECT / container["args"][container["args"].index("--python-file") + 1]).is_file()


# --- runs ------------------------------------------------------------------------------------------------------------


class Cluster:
    """Takes the jobs that Kubernetes would get, and runs what their containers are told, each in a process here.

    It has no GPUs: a pod that asks for one dies.

    Attributes:
        jobs: by the name of their step; as they would go over the wire.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self._environment = {**os.environ, **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def create(self, namespace: str, body: Any, **options: Any) -> None:
        job: dict[str, Any] = kubernetes.client.ApiClient().sanitize_for_serialization(body)
        assert namespace == INSTANCE["run_launcher"]["config"]["job_namespace"]
        assert faults(job) == []
        (container,) = job["spec"]["template"]["spec"]["containers"]
        own = {variable["name"]: variable["value"] for variable in container["env"]}
        self.jobs[own["DAGSTER_RUN_STEP_KEY"]] = job
        # The instance is that of the test, in its folder.
        environment = {**self._environment, **own, "DAGSTER_HOME": self._environment["DAGSTER_HOME"]}
        command = ["false"] if GPU in container["resources"]["limits"] else container["args"]
        self._processes[body.metadata.name] = subprocess.Popen(command, env=environment, cwd=PROJECT)

    def status(self, name: str, namespace: str, **options: Any) -> Any:
        ended = self._processes[name].poll()
        status = kubernetes.client.V1JobStatus(
            active=int(ended is None), succeeded=int(ended == 0), failed=int(bool(ended))
        )
        return kubernetes.client.V1Job(status=status)

    def container(self, step: str) -> dict[str, Any]:
        found: dict[str, Any] = self.jobs[step]["spec"]["template"]["spec"]["containers"][0]
        return found

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def test_each_step_is_a_job_and_those_of_models_ask_for_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda **_: None)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SD_ASSETS_STEP_GPUS", "2")
    image = CONTAINERS[0]["image"]
    repository = ReconstructableRepository.for_file(
        str(FOLDER / "definitions.py"), "defs", container_image=image
    )
    with instance_for_test(
        overrides={"run_launcher": INSTANCE["run_launcher"]}, temp_dir=str(tmp_path), set_dagster_home=True
    ) as instance:
        cluster = Cluster({"DAGSTER_HOME": str(tmp_path)})
        monkeypatch.setattr(kubernetes.client.BatchV1Api, "create_namespaced_job", cluster.create)
        monkeypatch.setattr(kubernetes.client.BatchV1Api, "read_namespaced_job_status", cluster.status)
        try:
            job = repository.get_reconstructable_job(BUILD_DATASET).get_subset(
                asset_selection=frozenset(map(dg.AssetKey, STEPS)), asset_check_selection=frozenset()
            )
            with dg.execute_job(job, instance, tags={"dagster/partition": PARTITION}) as run:
                failed = {event.step_key for event in run.all_events if event.is_step_failure}
        finally:
            cluster.end()
    # The pod that died was noticed.
    assert failed == {"seed_embeddings"}
    # The other one computed, in a process of its own.
    assert TableStore(LocalFiles(tmp_path / "data")).open("seed_prompts", PARTITION).num_rows == 16
    # As the step's own, beside what the steps have and what all pods of runs have.
    assert "seed_embeddings" in {asset.op.name for asset in ASSETS if asset.op.pool == GPU_POOL}
    without = {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}
    assert {step: cluster.container(step)["resources"] for step in cluster.jobs} == {
        "seed_prompts": without,
        "seed_embeddings": {**without, "limits": {"memory": "16Gi", GPU: "2"}},
    }
    container = cluster.container("seed_embeddings")
    assert container["image"] == image
    assert container["envFrom"] == [
        {"configMapRef": {"name": "sd-assets-env"}},
        {"secretRef": {"name": "sd-assets"}},
        {"secretRef": {"name": "sd-assets-data"}},
    ]
    assert container["securityContext"] == RESTRICTED
    # Steps may not start pods: what may has another account, and a token.
    (bound,) = named("RoleBinding", "sd-assets")["subjects"]
    assert bound["name"] == INSTANCE["run_launcher"]["config"]["service_account_name"]
    for launched in cluster.jobs.values():
        pod = launched["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == "sd-assets-work"
        assert pod["automountServiceAccountToken"] is False
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/etc/sd-assets"}
