"""Stops MLflow's server for a minute in the middle of a run, and looks whether a step took longer meanwhile, and whether a number is missing in the end.

    python benchmarks/drills/tracking.py

The server is stopped (SIGSTOP), not ended: it accepts connections and does not answer, which holds up a client longest. The run has one worker and logs every step.
Prints a row for docs/reliability.md.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from mlflow import MlflowClient

from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.journal import read_journal
from pipelines.training.runs import RunFolder

BEFORE, STOPPED, AFTER = 25.0, 60.0, 15.0  # seconds
STEPS = 100_000  # more than there is time for: the drill ends the run


def begin_server(folder: Path) -> tuple[subprocess.Popen, str]:
    """An MLflow server in a process group of its own, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("mlflow"), "server", "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
               "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.2)
    return server, f"http://127.0.0.1:{port}"


def main() -> None:
    """Train, stop the server, go on, end, and compare."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus = render_corpus(folder / "words", 1000, Settings(style="plain", charset="36")).path
        server, address = begin_server(folder)
        tree = {"name": "drill", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "data": {"labeled": {"corpus": corpus, "batch_size": 32}},
                "training": {"steps": STEPS, "log_every": 1, "checkpoint_every": 1000, "threads_per_worker": 1}}
        (folder / "drill.yaml").write_text(json.dumps(tree), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_TRACKING_URI": address}
        environment.pop("RAY_ADDRESS", None)
        with open(folder / "said.txt", "w", encoding="utf-8") as said:
            run = subprocess.Popen([sys.executable, "-m", "pipelines.finetune", "drill.yaml"], cwd=folder, env=environment, stdout=said, stderr=said)
        journal = str(folder / "runs" / "drill" / "progress.jsonl")
        try:
            while not read_journal(journal):
                time.sleep(0.5)
            time.sleep(BEFORE)
            stopped = time.time()
            os.killpg(server.pid, signal.SIGSTOP)
            time.sleep(STOPPED)
            os.killpg(server.pid, signal.SIGCONT)
            resumed = time.time()
            time.sleep(AFTER)
            run.send_signal(signal.SIGINT)
            run.wait()
            lines = read_journal(journal)
            handle = RunFolder(folder / "runs" / "drill").state().handle
            stored = {point.step for point in MlflowClient(tracking_uri=address).get_metric_history(handle.run, "loss")}
        finally:
            run.kill()
            os.killpg(server.pid, signal.SIGKILL)
        before = median(32 / line["images_per_second"] for line in lines[20:] if line["time"] < stopped)
        during = median(32 / line["images_per_second"] for line in lines if stopped <= line["time"] < resumed)
        missing = {int(line["step"]) for line in lines if "loss" in line} - stored
        told = (folder / "said.txt").read_text(encoding="utf-8")
        print("| MLflow's server | a step, ms | of before | steps |\n|---|---|---|---|")
        print(f"| answers | {1000 * before:.1f} | | {sum(line['time'] < stopped for line in lines)} |")
        print(f"| stands still for {STOPPED:.0f} s | {1000 * during:.1f} | {100 * during / before - 100:+.1f} % | {sum(stopped <= line['time'] < resumed for line in lines)} |")
        print(f"\nof {len(lines)} logged steps {len(missing)} are missing in MLflow after the run; {told.count('cannot be stored')} warnings in the terminal")
        if missing:
            sys.exit(told[-2000:])


if __name__ == "__main__":
    main()
