"""The templates, as far as they can be checked without the systems they are for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path, PurePath

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import cluster
from cluster.clusters import WORKER_ENVIRONMENT
from raysim.version import __version__

TEMPLATES = Path(cluster.__file__).parent / "templates"
RAY_UP, KUBERAY, SLURM = (TEMPLATES / name for name in ("ray_up.yaml", "kuberay.yaml", "slurm.sh"))
DOCKERFILE = TEMPLATES / "Dockerfile"

STUB = """#!/bin/bash
[ "${0##*/}" = srun ] || echo "${0##*/} $*" >> "$CALLS"
case ${0##*/} in
    srun) echo "srun $*" >> "$CALLS"; while [[ $1 == --* ]]; do shift; done; exec "$@" ;;
    scontrol) printf 'n0\\nn1\\nn2\\n' ;;
    hostname) echo '192.0.2.10 192.0.2.99' ;;
    ray) if [[ $* == *--block* ]]; then exec sleep 60; fi ;;
    raysim)
        until grep -q '^ray start --address' "$CALLS"; do sleep 0.05; done
        stat -c '%a %s' "$RAY_AUTH_TOKEN_PATH" > "$CALLS.token"
        env > "$CALLS.env"
        exit 3 ;;
esac
"""


@pytest.mark.parametrize("template", [RAY_UP, KUBERAY, SLURM], ids=lambda path: path.name)
def test_every_template_starts_raysim_the_same_way(template: Path):
    text = re.sub(r'\{name: (\w+), value: "?(\w+)"?\}', r"\1=\2", template.read_text())
    set_there = dict(re.findall(r"\b([A-Z][A-Z_]+)=(\w+)", text))
    assert {key: set_there.get(key) for key in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT
    command = " ".join(line.strip("# \\").strip() for line in text.splitlines())
    assert re.search(r"raysim cluster run address --address \S+ --nodes \S+ --\s+raysim run ", command)
    assert "dashboard-host=0.0.0.0" not in text


def test_machines_and_images_get_the_wheel_of_this_version():
    wheel = f"raysim_fl-{__version__}-py3-none-any.whl"
    shipped = yaml.safe_load(RAY_UP.read_text())["file_mounts"]
    assert shipped[f"~/{wheel}"] == f"dist/{wheel}"
    for template in (RAY_UP, DOCKERFILE):
        installs = re.findall(r"pip install .*", template.read_text())
        assert len(installs) == 1
        assert wheel in installs[0]
        assert "--constraint" in installs[0]
    for template in (KUBERAY, DOCKERFILE):
        named = set(re.findall(r"\braysim:([\w.]+)", template.read_text()))
        assert named == {__version__}, template.name
    kept = (TEMPLATES / "Dockerfile.dockerignore").read_text().split()
    copied = re.search(r"COPY (.+) \S+\n", DOCKERFILE.read_text())
    assert copied
    for source in copied[1].split():
        assert any(PurePath(source).match(pattern.removeprefix("!")) for pattern in kept[1:]), source


def test_ray_up_fits_rays_schema():
    config = yaml.safe_load(RAY_UP.read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    prepared = prepare_config(config)
    validate_config(prepared)
    starts = [prepared["head_start_ray_commands"], prepared["worker_start_ray_commands"]]
    for commands in starts:
        assert commands[0] == "ray stop"
        assert commands[1].startswith(". ~/.raysim.env && ")
        assert 'ulimit -n "$(ulimit -Hn)" && ray start ' in commands[1]
    assert "--include-dashboard=false" in starts[0][1]
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]


def test_the_environment_file_of_ray_up_is_a_shell_script(tmp_path: Path):
    (write,) = [line for line in yaml.safe_load(RAY_UP.read_text())["setup_commands"] if "printf" in line]
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    script = f"{write}; . ~/.raysim.env; env"
    said = subprocess.run(["sh", "-ec", script], env=home, capture_output=True, text=True, check=True).stdout
    given = dict(line.split("=", 1) for line in said.splitlines())
    assert {key: given[key] for key in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT
    assert given["RAY_AUTH_TOKEN_PATH"] == f"{tmp_path}/.ray/auth_token"


def test_kuberay_has_the_structure_of_a_ray_cluster():
    resource = yaml.safe_load(KUBERAY.read_text())
    assert (resource["apiVersion"], resource["kind"]) == ("ray.io/v1", "RayCluster")
    assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}
    spec = resource["spec"]
    assert set(spec) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(head) == {"rayStartParams", "template"}
    assert head["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    for group in workers:
        assert set(group) == {*head, "groupName", "replicas", "minReplicas", "maxReplicas"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    secret = {"secretKeyRef": {"name": "raysim-token", "key": "auth_token"}}
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        given = {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}
        assert given == {**WORKER_ENVIRONMENT, "RAY_AUTH_TOKEN": secret}
        assert container["resources"]["limits"]["cpu"] == group["rayStartParams"]["num-cpus"]
        assert container["image"] == head["template"]["spec"]["containers"][0]["image"]
    nodes = 1 + sum(group["replicas"] for group in workers)
    assert f"--nodes {nodes} --" in KUBERAY.read_text()


def test_slurm_is_sound_bash():
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", str(SLURM)], check=True)


def test_slurm_starts_head_others_and_driver(tmp_path: Path):
    """With stand-ins for Slurm, Ray and raysim that write down how they are called."""
    for name in ("srun", "scontrol", "hostname", "ray", "raysim"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    allocation = {
        "SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[0-2]",
        "SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_ON_NODE": "2",
    }  # fmt: skip
    environment = {
        **allocation, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(SLURM), "quickstart", "rounds=2"],
        env=environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    said = calls.read_text().splitlines()
    starts = [line for line in said if line.startswith("ray start")]
    node = "--num-cpus=16 --num-gpus=2 --temp-dir=/tmp/raysim-123456"
    head = "--head --node-ip-address=192.0.2.10 --port=23456 --include-dashboard=false"
    assert any(line.startswith(f"ray start {head} {node}") for line in starts)
    assert any(line.startswith(f"ray start --address=192.0.2.10:23456 {node}") for line in starts)
    assert any(line.startswith("srun --overlap --nodes=2 --ntasks=2 --exclude=n0 ray start") for line in said)
    driver = (
        "raysim cluster run address --address 192.0.2.10:23456 --nodes 3 -- raysim run quickstart rounds=2"
    )
    assert driver in said
    assert Path(f"{calls}.token").read_text() == "600 64\n", "its mode and its length"
    given = dict(line.split("=", 1) for line in Path(f"{calls}.env").read_text().splitlines() if "=" in line)
    assert {key: given[key] for key in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT
    assert not Path(given["RAY_AUTH_TOKEN_PATH"]).parent.exists(), "gone with the job"
