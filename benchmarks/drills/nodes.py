"""Takes workers, machines and the command itself away from a run on a cluster of three machines, and looks whether it ends with the same bits.

    python benchmarks/drills/nodes.py [worker machine slow command head]

The machines are processes of this one (Ray's own cluster for tests): a head without CPUs and three machines of two. The run has two workers, 600 steps and a checkpoint
every 25. Each row: what was done to it after step 60, how long no step was logged at the most, which steps were trained twice, whether the model has the bits of the
run that nothing happened to. What is printed stands in docs/reliability.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.journal import read_journal

os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.5", RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0")
STEPS, AFTER, MACHINES = 600, 60, 3
COMMAND = [sys.executable, "-m", "pipelines.finetune", "drill.yaml"]


class Ground:
    """A cluster, a corpus, and one run on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.corpus = render_corpus(folder / "words", 400, Settings(style="plain", charset="36")).path
        self.begin_cluster()

    def begin_cluster(self) -> None:
        """A head and its machines."""
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 150_000_000, "include_dashboard": False})
        self.machines = [self.add() for _ in range(MACHINES)]

    def add(self):
        """One more machine."""
        return self.cluster.add_node(num_cpus=2, object_store_memory=150_000_000)

    def begin(self, name: str) -> subprocess.Popen:
        """Start the command of a run, or start it again."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        tree = {"name": "drill", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "data": {"labeled": {"corpus": self.corpus, "batch_size": 16}},
                "training": {"steps": STEPS, "checkpoint_every": 25, "log_every": 1, "workers": 2, "cpus_per_worker": 1, "threads_per_worker": 1, "gpu": False}}
        (place / "drill.yaml").write_text(json.dumps(tree), encoding="utf-8")
        known = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_TRACKING_URI": "", "RAY_ADDRESS": self.cluster.address}
        return subprocess.Popen(COMMAND, cwd=place, env=known, stdout=subprocess.DEVNULL, stderr=open(place / "said.txt", "a", encoding="utf-8"), start_new_session=True)

    def lines(self, name: str) -> list[dict]:
        """What the run has logged."""
        return read_journal(str(self.folder / name / "runs" / "drill" / "progress.jsonl"))

    def reached(self, name: str, process: subprocess.Popen) -> None:
        """Wait until the run has come far enough."""
        while not any(line["step"] >= AFTER for line in self.lines(name)):
            if process.poll() is not None:
                raise SystemExit((self.folder / name / "said.txt").read_text(encoding="utf-8")[-3000:])
            time.sleep(0.2)


def workers(machine=None) -> list[psutil.Process]:
    """The processes that train, of one machine or of all."""
    above = machine and psutil.Process(machine.all_processes["raylet"][0].process.pid)
    found = above.children(recursive=True) if above else psutil.process_iter()
    return [process for process in found if _trains(process)]


def _trains(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return False


def nothing(ground: Ground, name: str, process: subprocess.Popen) -> subprocess.Popen:
    """Nothing."""
    return process


def worker(ground: Ground, name: str, process: subprocess.Popen) -> subprocess.Popen:
    """One of the two workers is killed."""
    workers()[0].kill()
    return process


def machine(ground: Ground, name: str, process: subprocess.Popen) -> subprocess.Popen:
    """A machine with a worker is killed; another one takes its place."""
    lost = next(found for found in ground.machines if workers(found))
    ground.machines.remove(lost)
    ground.cluster.remove_node(lost, allow_graceful=False)
    ground.machines.append(ground.add())
    return process


def slow(ground: Ground, name: str, process: subprocess.Popen) -> subprocess.Popen:
    """A worker stands still for twenty seconds."""
    stopped = workers()[0]
    stopped.send_signal(signal.SIGSTOP)
    time.sleep(20)
    stopped.send_signal(signal.SIGCONT)
    return process


def command(ground: Ground, name: str, process: subprocess.Popen) -> subprocess.Popen:
    """The command is killed, and repeated."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return ground.begin(name)


def head(ground: Ground, name: str, process: subprocess.Popen) -> subprocess.Popen:
    """The head goes, and all with it; the command is repeated on a new cluster."""
    ground.cluster.shutdown()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ground.begin_cluster()
    return ground.begin(name)


DRILLS: dict[str, Callable[[Ground, str, subprocess.Popen], subprocess.Popen]] = {"worker": worker, "machine": machine, "slow": slow, "command": command, "head": head}


def drilled(ground: Ground, name: str, do: Callable[[Ground, str, subprocess.Popen], subprocess.Popen]) -> tuple[int, float, int, str]:
    """Status, seconds without a step, steps trained twice, and the sha256 of the model's weights."""
    process = ground.begin(name)
    ground.reached(name, process)
    process = do(ground, name, process)
    status = process.wait()
    lines = ground.lines(name)
    steps = [line["step"] for line in lines]
    gap = max(after["time"] - before["time"] for before, after in zip(lines, lines[1:], strict=False))
    about = ground.folder / name / "runs" / "drill" / "model" / "recognizer.json"
    bits = json.loads(about.read_text(encoding="utf-8"))["weights_sha256"] if about.is_file() else "no model"
    missing = set(range(1, STEPS + 1)) - set(steps)
    if missing:
        bits = f"steps {sorted(missing)[:3]} were never trained"
    return status, gap, len(steps) - len(set(steps)), bits


def main() -> None:
    """Drill, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drills", nargs="*", help=f"of {', '.join(DRILLS)} (default: all)")
    chosen = parser.parse_args().drills or list(DRILLS)
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    ground = Ground(folder)
    try:
        status, gap, twice, wanted = drilled(ground, "nothing", nothing)
        print("| what was taken away | longest pause, s | steps trained twice | what came of the run |\n|---|---|---|---|")
        print(f"| {nothing.__doc__} | {gap:.0f} | {twice} | status {status} |", flush=True)
        for name in chosen:
            print(f"{name} …", file=sys.stderr, flush=True)
            status, gap, twice, bits = drilled(ground, name, DRILLS[name])
            print(f"| {DRILLS[name].__doc__} | {gap:.0f} | {twice} | status {status}, {'the same bits' if bits == wanted else f'other bits ({bits[:40]})'} |", flush=True)
    finally:
        ground.cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
