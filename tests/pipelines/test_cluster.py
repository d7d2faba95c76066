"""Joining a cluster, and starting a local Ray."""

import os
import subprocess
import sys

import pytest

from pipelines.cluster import cluster_cpus, start_ray
from pipelines.errors import BadInput


def test_nothing_happens_when_ray_runs_already(ray_session, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    start_ray(num_cpus=1)
    assert cluster_cpus() == 4


def test_an_address_where_nothing_listens_is_bad_input(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BadInput, match="RAY_ADDRESS=127.0.0.1:1: expected a running Ray cluster.*unset RAY_ADDRESS"):
        start_ray()


def test_a_local_ray_asks_for_a_token_but_leaves_none_behind(tmp_path):
    """A token file would turn authentication on for the next `ray start --head` of this user."""
    script = ("import ray\n"
              "from pipelines.cluster import start_ray, cluster_cpus\n"
              "start_ray(num_cpus=1, object_store_memory=100 * 2**20)\n"
              "import os\n"
              "print(os.environ['RAY_AUTH_MODE'], cluster_cpus(), ray.get(ray.remote(lambda: 7).remote()))\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", script], env={**environment, "HOME": str(tmp_path)},
                          capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "token 1 7", done.stderr
    assert not (tmp_path / ".ray").exists()
