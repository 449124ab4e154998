"""deploy/kubernetes: every overlay against the schemas of what it is applied to, and against the running service."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from service_client import FakeEngine, ask, encode, fake_app, quadrants
from service_process import Server, start

from service.errors import Problem
from service.settings import Settings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OVERLAYS = ("cpu", "gpu")
BUILDERS = (["kubectl", "kustomize"], ["kustomize", "build"])

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    return built(FOLDER / overlay)


def built(folder: Path) -> list[Manifest]:
    for builder in BUILDERS:
        if shutil.which(builder[0]):
            done = subprocess.run([*builder, folder], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    pytest.skip("neither kubectl nor kustomize is here")


def only(overlay: str, kind: str) -> Manifest:
    [manifest] = [manifest for manifest in rendered(overlay) if manifest["kind"] == kind]
    return manifest


def pod(overlay: str) -> Manifest:
    """The specification of the pods, KServe's own fields among it."""
    if overlay == "kserve":
        spec: Manifest = only(overlay, "InferenceService")["spec"]["predictor"]
        return spec
    spec = only(overlay, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(overlay: str) -> Manifest:
    [one] = pod(overlay)["containers"]
    found: Manifest = one
    return found


def settings_of(overlay: str) -> dict[str, str]:
    """The container's variables."""
    variables = {one["name"]: one["value"] for one in container(overlay).get("env", [])}
    for source in container(overlay).get("envFrom", []):
        config = only(overlay, "ConfigMap")
        assert source == {"configMapRef": {"name": config["metadata"]["name"]}}
        variables |= config["data"]
    return variables


# --- schemas


KSERVE_FIELDS = {"minReplicas": int, "maxReplicas": int, "scaleMetric": str, "scaleTarget": int, "timeout": int}
"""Of a predictor, besides those of a pod; as in KServe's Python SDK (0.21)."""


def built_in(overlay: str) -> list[Manifest]:
    return [m for m in rendered(overlay) if m["apiVersion"] in ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1")]


@pytest.mark.parametrize("version", ["1.27", "1.37"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_built_in_kinds_keep_to_their_schemas(overlay: str, version: str) -> None:
    kinds = {manifest["kind"] for manifest in built_in(overlay)}
    assert kinds == {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}
    for manifest in built_in(overlay):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_refuse_what_is_not_in_them() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_kinds_keep_to_their_schemas(overlay: str) -> None:
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1", reason="no schemas of KEDA here")
    prometheus = pytest.importorskip("cloudcoil.models.prometheus_operator.v1", reason="no schemas of its operator")
    models = {"ScaledObject": keda.ScaledObject, "ServiceMonitor": prometheus.ServiceMonitor}
    others = [manifest for manifest in rendered(overlay) if manifest not in built_in(overlay)]
    assert {manifest["kind"] for manifest in others} == set(models)
    for manifest in others:
        # The models leave out what they do not know, so that a misspelt field is missing afterwards.
        model = models[manifest["kind"]].model_validate(manifest)
        assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == manifest


def test_the_inference_service_is_a_pod_with_fields_of_kserve() -> None:
    service = only("kserve", "InferenceService")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(service["spec"]) == {"predictor"}
    predictor = dict(service["spec"]["predictor"])
    for name, type_ in KSERVE_FIELDS.items():
        assert type(predictor.pop(name)) is type_
    as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": predictor}
    kubernetes_validate.validate(as_pod, "1.37", strict=True)
    # The container that KServe takes as the model's.
    assert container("kserve")["name"] == "kserve-container"


# --- within themselves


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_selects_the_pods_selects_them(overlay: str) -> None:
    deployment = only(overlay, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    service = only(overlay, "Service")
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        only(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in pod(overlay)["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    monitored = only(overlay, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored and monitored.items() <= service["metadata"]["labels"].items()
    assert only(overlay, "ScaledObject")["spec"]["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_lead_to_the_one_of_the_image(overlay: str) -> None:
    [port] = container(overlay)["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in DOCKERFILE
    assert port["containerPort"] == Settings.model_fields["port"].default
    [exposed] = only(overlay, "Service")["spec"]["ports"]
    assert exposed["targetPort"] == port["name"]
    assert only(overlay, "ServiceMonitor")["spec"]["endpoints"][0]["port"] == exposed["name"]
    [allowed] = only(overlay, "NetworkPolicy")["spec"]["ingress"]
    assert allowed["ports"] == [{"protocol": "TCP", "port": port["name"]}]
    assert {probe["httpGet"]["port"] for probe in probes(overlay)} == {port["name"]}
    # The service calls nobody.
    assert only(overlay, "NetworkPolicy")["spec"]["egress"] == []


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_pods_are_confined(overlay: str) -> None:
    [user] = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    of_pod = pod(overlay)["securityContext"]
    assert (str(of_pod["runAsUser"]), str(of_pod["runAsGroup"])) == user
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(overlay)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(overlay)["automountServiceAccountToken"] is False
    assert pod(overlay)["enableServiceLinks"] is False
    # HOME and what libraries write.
    assert [mount["mountPath"] for mount in container(overlay)["volumeMounts"]] == ["/tmp"]
    assert "hostPath" not in str(pod(overlay)["volumes"])


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_resources(overlay: str) -> None:
    resources = container(overlay)["resources"]
    # Whole cores that are the pod's own, and no memory that a neighbour may want back.
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"].isdecimal()
    assert resources["limits"]["memory"].endswith("Gi")
    assert resources["limits"].get("nvidia.com/gpu") == ("1" if overlay == "gpu" else None)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_images_are_targets_of_the_dockerfile(overlay: str) -> None:
    target = container(overlay)["image"].rpartition(":")[2]
    assert target == ("gpu" if overlay == "gpu" else "cpu")
    assert f"\nFROM runtime AS {target}\n" in DOCKERFILE


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_a_pod_may_take_as_long_to_end_as_the_service_does(overlay: str) -> None:
    settings = Settings(**{name.removeprefix("SEGDEPTH_").lower(): v for name, v in settings_of(overlay).items()})
    assert settings.drain_s > 0
    # A request that comes last has all of its time, and the kubelet waits for more than all of it.
    assert settings.drain_s + settings.timeout_s < settings.grace_s < pod(overlay)["terminationGracePeriodSeconds"]
    if overlay == "kserve":
        assert pod(overlay)["timeout"] > settings.timeout_s


def test_an_empty_node_is_not_kept_for_the_last_pod() -> None:
    budget = only("cpu", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert "replicas" not in only("cpu", "Deployment")["spec"]


def test_a_rollout_does_not_wait_for_a_gpu_that_nobody_gives_away() -> None:
    strategies = {overlay: only(overlay, "Deployment")["spec"]["strategy"] for overlay in OVERLAYS}
    assert strategies["gpu"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert strategies["cpu"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    least = {overlay: only(overlay, "ScaledObject")["spec"]["minReplicaCount"] for overlay in OVERLAYS}
    assert least == {"cpu": 2, "gpu": 1}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_keda_or_the_operator_of_prometheus(overlay: str, tmp_path: Path) -> None:
    """docs/kubernetes.md: leave out the line. A patch of what is not there is none."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    file = copy / overlay / "kustomization.yaml"
    text = file.read_text().replace("components:\n", "").replace("  - ../prometheus\n", "").replace("  - ../keda\n", "")
    file.write_text(text)
    assert "keda\n" not in text
    kinds = {manifest["kind"] for manifest in built(copy / overlay)}
    assert kinds == {manifest["kind"] for manifest in built_in(overlay)}


def test_the_patch_for_nvidias_runtime(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    [fence] = [one for one in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S) if "runtimeClassName" in one]
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    (tmp_path / "kustomization.yaml").write_text(f"resources: [kubernetes/gpu]\n{fence}")
    [deployment] = [manifest for manifest in built(tmp_path) if manifest["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["runtimeClassName"] == "nvidia"
    kubernetes_validate.validate(deployment, "1.37", strict=True)


# --- against the service


@pytest.fixture(scope="module")
def as_configured(tiny_model: Path) -> Iterator[Server]:
    """A server with the variables of the manifests, which has answered a picture."""
    assert settings_of("cpu") == settings_of("gpu") == settings_of("kserve")
    with start("--model", str(tiny_model), **settings_of("cpu")) as server:
        server.wait_ready()
        assert httpx.post(f"{server.url}/predict", content=encode(quadrants())).status_code == 200
        yield server


def probes(overlay: str) -> list[Manifest]:
    return [container(overlay)[f"{name}Probe"] for name in ("startup", "liveness", "readiness")]


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_probes_are_answered(as_configured: Server, overlay: str) -> None:
    paths = [probe["httpGet"]["path"] for probe in probes(overlay)]
    assert [path.rpartition("/")[2] for path in paths] == ["live", "live", "ready"]
    for path in paths:
        assert httpx.get(as_configured.url + path).status_code == 200


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_probes_tell_a_pod_that_warms_up_from_a_dead_one(overlay: str) -> None:
    """While the model is loaded the pod lives and is not ready: it is neither restarted nor asked."""
    engine = FakeEngine()
    engine.warm_gate.clear()

    async def test(client: httpx.AsyncClient) -> list[int]:
        statuses = [(await client.get(probe["httpGet"]["path"])).status_code for probe in probes(overlay)]
        engine.warm_gate.set()
        return statuses

    assert ask(test, fake_app(engine), ready=False) == [200, 200, 503]


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_probes_have_a_pod_restarted_that_lost_its_device(overlay: str) -> None:
    engine = FakeEngine()
    engine.fail = True

    async def test(client: httpx.AsyncClient) -> list[int]:
        while (await client.post("/predict", content=encode(quadrants()))).status_code == 500:
            pass
        return [(await client.get(probe["httpGet"]["path"])).status_code for probe in probes(overlay)]

    assert ask(test, fake_app(engine)) == [503, 503, 503]


def test_prometheus_finds_the_metrics(as_configured: Server) -> None:
    [endpoint] = only("cpu", "ServiceMonitor")["spec"]["endpoints"]
    answer = httpx.get(as_configured.url + endpoint["path"])
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    annotations = only("kserve", "InferenceService")["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == endpoint["path"]
    assert int(annotations["prometheus.io/port"]) == container("kserve")["ports"][0]["containerPort"]


def test_the_autoscaler_asks_for_metrics_that_there_are(as_configured: Server) -> None:
    families = text_string_to_metric_families(httpx.get(f"{as_configured.url}/metrics").text)
    labels = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    triggers = only("cpu", "ScaledObject")["spec"]["triggers"]
    asked = [
        (name, dict(re.findall(r'(\w+)="([^"]*)"', selector)))
        for trigger in triggers
        for name, selector in re.findall(r"(\bsegdepth_\w+)\{([^}]*)\}", trigger["metadata"]["query"])
    ]
    assert "segdepth_queue_oldest_seconds" in dict(asked)
    for name, selector in asked:
        # Prometheus' operator names the job after the Service.
        assert selector.pop("job") == only("cpu", "Service")["metadata"]["name"]
        assert selector.keys() <= labels[name]
        kinds = {problem.kind for problem in subclasses(Problem)}
        assert selector.get("reason", "overloaded") in kinds
    # The threshold in seconds is far from a request's time-out.
    assert 0 < float(triggers[0]["metadata"]["threshold"]) < Settings().timeout_s / 10


def subclasses(kind: type[Problem]) -> set[type[Problem]]:
    return {kind}.union(*(subclasses(one) for one in kind.__subclasses__()))


def test_clients_of_kserve_find_the_model_by_the_name_of_its_service(as_configured: Server) -> None:
    name = only("kserve", "InferenceService")["metadata"]["name"]
    assert httpx.get(f"{as_configured.url}/v2/models/{name}/ready").status_code == 200
