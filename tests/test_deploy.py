"""The files that bring up a cluster: what their tools can be asked without one."""

import copy
import re
import string
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from pipelines.cluster import TESTED

ROOT = Path(__file__).parents[1]
GIVEN = {"TEXTRAY_IMAGE": "registry.example/textray:0.1.0", "TEXTRAY_BUCKET": "bucket", "TEXTRAY_PROFILE": "textray", "TEXTRAY_AMI": "ami-0"}


def filled(name: str) -> dict:
    """The file as `envsubst` leaves it, of which every variable is known."""
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"\$(TEXTRAY_\w+)", text))
    assert named <= GIVEN.keys() and all(f"export {name}=" in text or f" {name}=" in text for name in named)  # each is set by the commands at its head
    return yaml.safe_load(string.Template(text).safe_substitute(GIVEN))


def test_the_cluster_file_is_what_ray_up_expects():
    from ray.autoscaler._private.util import prepare_config, validate_config
    config = filled("cluster.yaml")
    validate_config(prepare_config(copy.deepcopy(config)))
    for broken, said in (({"head_node_type": "nobody"}, "head_node_type"), ({"max_worker": 3}, "max_worker")):
        with pytest.raises(Exception, match=said):
            validate_config(prepare_config({**copy.deepcopy(config), **broken}))


def test_no_machine_of_the_cluster_needs_a_variable_that_nobody_sets():
    """In a command that runs there only those that Ray sets itself, and those that the commands set."""
    config = filled("cluster.yaml")
    commands = [command for part in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands", "setup_commands") for command in config.get(part, [])]
    assert set(re.findall(r"\$\{?([A-Za-z_]\w*)", " ".join(commands))) == {"RAY_HEAD_IP"}


def test_machines_of_the_cluster_can_hold_the_workers_of_a_paper():
    nodes = filled("cluster.yaml")["available_node_types"]
    assert nodes["a100_40gb"]["node_config"]["InstanceType"] == "p4d.24xlarge" and nodes["a100_40gb"]["max_workers"] * 8 == 32
    assert nodes["head"]["resources"]["CPU"] == 0 and all(node["node_config"]["IamInstanceProfile"] == {"Name": "textray"} and node["node_config"]["ImageId"] == "ami-0" for node in nodes.values())
    assert all(node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for name, node in nodes.items() if name != "head")


def test_both_clusters_ask_for_a_token_and_open_no_port():
    config = filled("cluster.yaml")
    assert "RAY_AUTH_MODE=token" in " ".join(config["docker"]["run_options"]) and "/home/ray/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    kube = filled("kuberay.yaml")["spec"]
    assert kube["authOptions"] == {"mode": "token"} and kube["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_image_and_manifest_have_the_tested_ray():
    version = f"{TESTED[0]}.{TESTED[1]}.0"
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"FROM rayproject/ray:{version}-py311-gpu" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert filled("kuberay.yaml")["spec"]["rayVersion"] == version


def test_the_image_is_built_of_what_is_there():
    """By a linter, for want of a builder; what it copies is all that the package is made from."""
    linted = subprocess.run([Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")
    copied = {name for line in re.findall(r"(?m)^COPY --chown=ray (.*) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8")) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    assert copied >= {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "models", "pipelines", "tuning", "textray", "recipes"}


def test_a_job_brings_all_code_and_no_corpus(tmp_path):
    """What Ray packs of a working folder in which somebody has worked."""
    from ray._private.runtime_env.packaging import create_package
    for name in (".rayignore", "pipelines/reports/html.py", "recipes/ccr_crnn.yaml", "corpora/words/corpus.json", "runs/a/run.json", "data/a.png", "mlflow.db", ".venv/bin/python"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_bytes((ROOT / ".rayignore").read_bytes() if name == ".rayignore" else b"x")
    create_package(str(tmp_path / "work"), tmp_path / "package.zip", include_gitignore=True)
    packed = set(zipfile.ZipFile(tmp_path / "package.zip").namelist())
    assert {name for name in packed if not name.endswith("/")} == {".rayignore", "pipelines/reports/html.py", "recipes/ccr_crnn.yaml"}
