"""Files for clusters: what can be held without a cluster."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.__main__ import parser

DEPLOY = Path(__file__).parents[1] / "deploy"
CLUSTERS = ("raycluster", "rayjob")


def loaded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    return document


def cluster(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = loaded(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def command(text: str) -> Any:
    """The words after ``python -m harness``, as the command line takes them."""
    words = shlex.split(text)
    return parser().parse_args(words[words.index("harness") + 1 :])


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_are_what_a_ray_cluster_needs(name: str) -> None:
    spec = cluster(name)
    assert spec["rayVersion"] == importlib.metadata.version("ray")
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        tokens = {entry["name"]: entry for entry in container["env"]}
        assert tokens["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in tokens["RAY_AUTH_TOKEN"]["valueFrom"], "no secret in a file"
        assert container["resources"]["limits"] == container["resources"]["requests"]
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def test_the_job_runs_a_command_that_is_one() -> None:
    arguments = command(loaded("rayjob")["spec"]["entrypoint"])
    assert (DEPLOY.parent / arguments.conf).is_file()
    assert arguments.runner == "ray"
    assert arguments.storage.startswith("s3://")
    (mount,) = cluster("rayjob")["headGroupSpec"]["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    assert arguments.data_root == mount["mountPath"]


def test_services_wait_for_what_they_need() -> None:
    composed = loaded("compose")
    services = composed["services"]
    for service in services.values():
        for other, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert "healthcheck" in services[other], other
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "only this machine reaches the pages"
    assert services["worker"]["deploy"]["replicas"] == 2
    text = (DEPLOY / "compose.yaml").read_text()
    (line,) = [x for x in text.replace("\\\n#", "").splitlines() if "python -m harness run" in x]
    assert (DEPLOY.parent / command(line).conf).is_file()


def test_the_image_has_what_is_copied() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (DEPLOY.parent / source).exists(), source


def test_the_slurm_script_starts_a_cluster_and_hands_signals_on(tmp_path: Path) -> None:
    """With stand-ins for Slurm's and Ray's commands: their order, and the driver's exit status."""
    log = tmp_path / "log"
    tools = {
        "scontrol": "printf 'n1\\nn2\\n'",
        "srun": f'echo "srun $*" >>{log}; case "$*" in *hostname*) echo 10.0.0.1;; esac',
        "sleep": ":",
        "python": f'case "$*" in *secrets*) echo token;; *harness*) echo "run $*" >>{log}; exit 1;;'
        " *) echo 2;; esac",
        "ray": ":",
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    variables = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }
    script = ["bash", str(DEPLOY / "slurm.sh"), "conf/table1.yaml", "--storage", "/shared/runs"]
    done = subprocess.run(script, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    calls = log.read_text()
    assert "--nodelist=n1" in calls
    assert "start --head --node-ip-address=10.0.0.1" in calls
    assert "--exclude=n1" in calls
    run = next(line for line in calls.splitlines() if line.startswith("run "))
    assert command(run).address == "10.0.0.1:6379"
