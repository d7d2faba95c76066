"""A run on a cluster that has no machine yet: an autoscaler, Ray's own with its provider for one machine, starts what the run asks for.

    python benchmarks/drills/growing.py

The head has no CPU. Two workers of one CPU each are asked for; machines of two CPUs come as processes of this machine. Port 6379 must be free: the provider knows no other.
Prints a row for docs/reliability.md.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name: grown
recognizer: {name: crnn_tiny}
objective: {name: supervised}
data: {labeled: {corpus: words, batch_size: 8}}
training: {steps: 4, log_every: 1, workers: 2, cpus_per_worker: 1, threads_per_worker: 1, gpu: false}
"""
BIN = Path(sys.executable).parent


def config(head: dict[str, float], kinds: dict[str, dict[str, float]]) -> dict:
    """Of a cluster of Ray's fake machines: kinds of them, at most two of each."""
    empty = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
             "cluster_synced_files", "rsync_exclude", "rsync_filter")
    types = {name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2} for name, resources in kinds.items()}
    return {"cluster_name": "growing", "max_workers": 4, "upscaling_speed": 1.0, "idle_timeout_minutes": 5, "auth": {}, "docker": {}, "file_mounts": {},
            "file_mounts_sync_continuously": False, "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
            "head_node_type": "head", "available_node_types": {"head": {"resources": head, "node_config": {}, "max_workers": 0}, **types}} | {name: [] for name in empty}


def main() -> None:
    """Start the head, train, print."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder, "cluster.json").write_text(json.dumps(config({"CPU": 0}, {"two_cpus": {"CPU": 2}})), encoding="utf-8")
        Path(folder, "grown.yaml").write_text(RECIPE, encoding="utf-8")
        known = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        subprocess.run([BIN / "textray", "render", "--out", "words", "-n", "60", "--style", "plain"], cwd=folder, env=known, check=True, capture_output=True)
        subprocess.run([BIN / "ray", "start", "--head", "--num-cpus=0", "--port=6379", "--include-dashboard=false", f"--autoscaling-config={folder}/cluster.json",
                        f"--temp-dir={folder}/ray", "--object-store-memory=200000000"], cwd=folder, env=known, check=True, capture_output=True)
        joined = {**known, "RAY_ADDRESS": "127.0.0.1:6379"}
        try:
            unsaid = subprocess.run([BIN / "textray", "finetune", "grown.yaml", "name=unsaid", "training.gpu=null"], cwd=folder, env=joined, capture_output=True, text=True)
            began = time.monotonic()
            done = subprocess.run([BIN / "textray", "finetune", "grown.yaml"], cwd=folder, env=joined, capture_output=True, text=True)
            took = time.monotonic() - began
        finally:
            subprocess.run(["pkill", "-9", "-f", f"{folder}/ray"], check=False)
    print("| what was there | what the command did |\n|---|---|")
    print(f"| no machine, an autoscaler, training.gpu not said | status {unsaid.returncode}: {unsaid.stderr.strip().splitlines()[-1].partition(', found')[0]} |")
    print(f"| no machine, an autoscaler, two workers on CPUs | status {done.returncode}, {'step 4/4' in done.stderr and 'trained' or 'not trained'}, {took:.0f} s |")
    if done.returncode or unsaid.returncode != 2:
        sys.exit(done.stderr[-2000:] + unsaid.stderr[-2000:])


if __name__ == "__main__":
    main()
