"""The Helm chart: rendered by Helm, checked against Kubernetes' own schemas, and against what the server accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rtc_server import metrics
from rtc_server.config import load_settings
from rtc_server.errors import ServerFullError
from scripts.deploy_tools import KUBERNETES_VERSIONS
from tests.support.deployment import DEPLOY, drain_seconds, kubernetes_problems, read_yaml, run, tool

CHART = DEPLOY / "kubernetes" / "rtc-server"
HASH = f"phone sha256:{'0' * 64}"
KEYS = f"keys.hashes[0]={HASH}"
CUSTOM = ("ray.io/v1", "monitoring.coreos.com/v1")
"""Kinds of operators: their schemas are in no package index."""

EVERYTHING = (
    "autoscaling.enabled=true",
    "metrics.podMonitor=true",
    "metrics.keySecret=prometheus",
    "ingress.enabled=true",
    "ingress.host=talk.example",
    "ingress.tlsSecret=talk-tls",
    "ray.enabled=true",
    "settings.server.media_workers=3",
    "media.gpu.enabled=true",
    "media.gpu.runtimeClassName=nvidia",
    "media.nodeSelector.media=yes",
    "ray.nodes.gpu.count=1",
    "networkPolicy.extraEgress[0].ports[0].port=4317",
    "networkPolicy.httpFrom[0].namespaceSelector.matchLabels.ingress=yes",
)
VARIANTS = {
    "default": (),
    "everything": EVERYTHING,
    "host network": ("media.network=hostNetwork", "media.publicAddresses={203.0.113.5,203.0.113.6}"),
    "baked models": ("models.source=image", "recordings.existingClaim=recordings"),
    "shared models": ("models.source=volume", "models.existingClaim=models"),
    "ray alone": ("media.enabled=false", "ray.enabled=true", "ingress.enabled=true", "ingress.host=talk.example"),
}


def template(*values: str) -> list[dict[str, Any]]:
    done = run(
        tool("helm"), "template", "talk", CHART, *(part for value in (KEYS, *values) for part in ("--set", value))
    )
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def one(kind: str, *values: str) -> dict[str, Any]:
    (found,) = (found for found in template(*values) if found["kind"] == kind)
    return found


def pod(*values: str) -> dict[str, Any]:
    spec: dict[str, Any] = one("Deployment", *values)["spec"]["template"]["spec"]
    return spec


def pods(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The pod specifications in it, those of KubeRay too."""
    for found in objects:
        if found["kind"] == "Deployment":
            yield found["spec"]["template"]["spec"]
        if found["kind"] == "RayService":
            cluster = found["spec"]["rayClusterConfig"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                yield group["template"]["spec"]


def settings_file(folder: Path, *values: str) -> Path:
    path = folder / "server.toml"
    path.write_text(one("ConfigMap", *values)["data"]["server.toml"])
    return path


def test_helm_finds_nothing_to_complain_about() -> None:
    done = run(tool("helm"), "lint", "--strict", CHART, "--set", KEYS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_knows_every_field(variant: str, version: str) -> None:
    objects = template(*VARIANTS[variant])
    own = [found for found in objects if found["apiVersion"] not in CUSTOM]
    own += [{"apiVersion": "v1", "kind": "Pod", "spec": spec} for spec in pods(objects)]
    assert kubernetes_problems(version, own) == []


def test_the_check_itself_finds_a_misspelled_field() -> None:
    wrong = one("Deployment")
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    assert "terminationGracePeriod" in kubernetes_problems(KUBERNETES_VERSIONS[0], [wrong])[0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("image.tag=latest", "tag"),
        ("media.network=bridge", "network"),
        ("media.replica=3", "replica"),
        ("media.udpPort=70000", "udpPort"),
        ("keys.hashes[0]=sk_secret", "hashes"),
        ("media.enabled=false", "ray"),
        ("metrics.podMonitor=true", "metrics.keySecret"),
    ],
)
def test_values_that_cannot_work_are_refused(value: str, said: str) -> None:
    done = run(tool("helm"), "template", "talk", CHART, "--set", KEYS, "--set", value)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_server_without_keys_is_refused() -> None:
    done = run(tool("helm"), "template", "talk", CHART)
    assert done.returncode != 0
    assert "rtc-server keys add" in done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_server_accepts_its_settings(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain_seconds(load_settings())
    values = VARIANTS[variant]
    if variant != "ray alone":
        for entry in pod(*values)["containers"][0]["env"]:
            if entry["name"].startswith("RTC_SERVER__"):
                monkeypatch.setenv(entry["name"], entry.get("value", "192.0.2.1"))  # the node's address
    settings = load_settings(settings_file(tmp_path, *values))
    assert settings.server.host == "0.0.0.0"
    assert not settings.server.tls
    assert settings.webrtc.udp_port == 50000
    assert settings.webrtc.external_addresses or variant == "ray alone"


def test_settings_of_the_operator_reach_the_server(tmp_path: Path) -> None:
    drain_seconds(load_settings())
    path = settings_file(tmp_path, "settings.server.max_calls=3", "settings.turns.silence_duration_ms=250")
    settings = load_settings(path)
    assert (settings.server.max_calls, settings.turns.silence_duration_ms) == (3, 250)


def test_a_pod_has_time_to_drain(tmp_path: Path) -> None:
    drain_seconds(load_settings())
    spec = pod("media.drainSeconds=600")
    settings = load_settings(settings_file(tmp_path, "media.drainSeconds=600"))
    pause = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert drain_seconds(settings) >= 600
    assert spec["terminationGracePeriodSeconds"] > pause + drain_seconds(settings)


def test_every_media_worker_has_its_port() -> None:
    ports = pod("settings.server.media_workers=3", "media.udpPort=40000")["containers"][0]["ports"]
    assert [p["hostPort"] for p in ports if p["protocol"] == "UDP"] == [40000, 40001, 40002]
    policy = one("NetworkPolicy", "settings.server.media_workers=3", "media.udpPort=40000")
    media = policy["spec"]["ingress"][1]["ports"][0]
    assert (media["port"], media["endPort"], media["protocol"]) == (40000, 40002, "UDP")


@pytest.mark.parametrize("variant", ["default", "everything", "host network"])
def test_containers_are_confined(variant: str) -> None:
    """The "restricted" Pod Security Standard, but for host ports and the host's network, which media needs."""
    for spec in pods(template(*VARIANTS[variant])):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            is_ray = container["name"].startswith("ray-")  # Ray writes beside its code
            assert own.get("readOnlyRootFilesystem") is not is_ray or is_ray
        assert all("hostPath" not in volume for volume in spec["volumes"])


def test_pods_cannot_speak_to_the_api_of_kubernetes() -> None:
    assert one("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod()["automountServiceAccountToken"] is False


def test_startup_waits_for_the_models_and_the_other_probes_for_it() -> None:
    container = pod("media.startupSeconds=900")["containers"][0]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 900
    paths = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")]
    assert paths == ["/readyz", "/readyz", "/healthz"]


def test_the_autoscaler_asks_for_metrics_that_there_are() -> None:
    asked = {
        entry["pods"]["metric"]["name"] for entry in one("HorizontalPodAutoscaler", *EVERYTHING)["spec"]["metrics"]
    }
    rules = read_yaml(DEPLOY / "kubernetes" / "prometheus-adapter-values.yaml")["rules"]["custom"]
    assert asked == {rule["name"]["as"] for rule in rules}
    families = metrics.REGISTRY.collect()
    known = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    for rule in rules:
        series = rule["seriesQuery"].split("{")[0]
        assert series in known
        assert re.fullmatch(rule["name"]["matches"], series)
    codes = [code for rule in rules for code in re.findall(r'code="(\w+)"', rule["metricsQuery"])]
    assert codes == [ServerFullError.code]


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on:DeprecationWarning")  # by Ray's own schema
def test_ray_gets_arguments_that_its_applications_take() -> None:
    config = yaml.safe_load(one("RayService", *EVERYTHING)["spec"]["serveConfigV2"])
    workers, controller = config["applications"]
    assert workers["import_path"] == "rtc_server.inference.ray:workers"
    assert controller["import_path"] == "rtc_server.inference.ray:controller"
    assert workers["args"] == controller["args"]
    assert all("-" not in name for name in workers["args"])
    from ray.serve.schema import ServeDeploySchema

    from rtc_server.inference.ray.options import ClusterOptions

    ServeDeploySchema.model_validate(config)
    options = ClusterOptions.of(workers["args"])
    assert options.settings == {"webrtc.udp_port": 0}
