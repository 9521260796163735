"""`rtc-server cluster` and the builders for KubeRay, before anything is started. Ray stays out of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from rtc_server.cli import main; main()"
BUILD = """
import json, sys
from rtc_server.inference.ray import controller, workers
found = {}
for build in (workers, controller):
    deployment = build(json.loads(sys.argv[1]))._bound_deployment
    found[deployment.name] = {
        "actor": deployment.ray_actor_options,
        "autoscaling": deployment._deployment_config.autoscaling_config
        and deployment._deployment_config.autoscaling_config.model_dump(include={"min_replicas", "max_replicas"}),
        "class": deployment.func_or_class.__name__,
    }
print(json.dumps(found))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RTC_SERVER__")}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, env=env)


def test_without_ray_it_says_what_to_install() -> None:
    done = run("-c", WITHOUT_RAY, "cluster")
    assert done.returncode == 2
    assert "pip install 'rtc-server[cluster]'" in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--workers", "many"), "--workers 'many' is not MIN or MIN:MAX"),
        (("--workers", "4:2"), "max_workers 2 is less than min_workers 4"),
        (("--workers", "0"), "min_workers"),
        (("--backend", "nothing"), "nothing"),
        (("--host", "0.0.0.0"), "would let everybody"),
        (("--address", "127.0.0.1:1"), "There is no Ray cluster at '127.0.0.1:1'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options: tuple[str, ...], sentence: str) -> None:
    done = run("-m", "rtc_server", "cluster", *options)
    assert done.returncode == 2, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_kuberay_builds_both_applications_from_the_same_arguments() -> None:
    arguments = {"settings": {"engine.backend": "echo"}, "min_workers": 2, "max_workers": 5, "worker_gpus": 1}
    done = run("-c", BUILD, json.dumps(arguments))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["EngineWorker"]["autoscaling"] == {"min_replicas": 2, "max_replicas": 5}
    assert found["EngineWorker"]["actor"]["num_gpus"] == 1
    assert found["Controller"]["actor"]["num_cpus"] == 0
    unknown = run("-c", BUILD, json.dumps({"worker": 3}))
    assert "worker: Extra inputs are not permitted" in unknown.stderr
