"""Kills a small training run at random moments, repeats the command until it ends, and looks whether its record in MLflow is complete.

    python benchmarks/drills/records.py --kills 8

Each kill has a fresh folder, with no store in it: the run's first second is the store's birth. Half of the kills are spread over the whole run,
half over its end, between the last step and the exit. What is printed stands in docs/reliability.md.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.tracking import client_of
from pipelines.training.runs import RunFolder

STEPS = 12


def write_recipe(place: Path, corpus: Path) -> list[str]:
    """A run of seconds; returns the command."""
    tree = {"name": "drill", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
            "data": {"labeled": {"corpus": str(corpus), "batch_size": 8}},
            "training": {"steps": STEPS, "checkpoint_every": 4, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5}}
    (place / "drill.yaml").write_text(json.dumps(tree), encoding="utf-8")
    return [sys.executable, "-m", "pipelines.finetune", "drill.yaml"]


def environment() -> dict[str, str]:
    """Of the command: this code, and the store of the working folder."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_TRACKING_URI": ""}


def killed_after(command: list[str], place: Path, seconds: float, last_step: bool) -> bool:
    """Start the command and SIGKILL it so many seconds after its start, or after its last step; whether it was still running."""
    process = subprocess.Popen(command, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = place / "runs" / "drill" / "progress.jsonl"
    while last_step and process.poll() is None and not (progress.is_file() and f'"step": {STEPS},' in progress.read_text(encoding="utf-8")):
        time.sleep(0.05)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process.returncode == -signal.SIGKILL


def lacking(folder: RunFolder, last: int = STEPS) -> list[str]:
    """What the record of a run of so many steps lacks: nothing, if it is complete."""
    state = folder.state()
    client = client_of(state.handle.uri)
    runs = client.search_runs([state.handle.experiment])
    entry = client.get_run(state.handle.run)
    steps = sorted(point.step for point in client.get_metric_history(state.handle.run, "loss"))
    files = {file.path for file in client.list_artifacts(state.handle.run)}
    checks = {"one run": len(runs) == 1, "FINISHED": entry.info.status == "FINISHED", "its model": entry.data.tags.get("model") == str(folder.model),
              "every step once": steps == list(range(1, last + 1)), "its files": files == {"recipe.yaml", "versions.txt"}}
    return [name for name, passed in checks.items() if not passed]


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=25.0, help="how long the run takes here: kills are spread over this time")
    options = parser.parse_args()
    draw, complete, hits, commands = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(temporary) / "corpus"
        render_corpus(corpus, 100, Settings(style="plain", charset="36"))
        for number in range(options.kills):
            place, at_end = Path(temporary) / str(number), number % 2 == 1
            place.mkdir()
            command = write_recipe(place, corpus)
            seconds = draw.uniform(0, 4 if at_end else options.seconds)
            hit = killed_after(command, place, seconds, at_end)
            statuses = []
            while not statuses or (statuses[-1] != 0 and len(statuses) < 3):
                statuses.append(subprocess.run(command, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode)
            missing = lacking(RunFolder(place / "runs" / "drill")) if statuses[-1] == 0 else ["an end"]
            missing += [] if sorted(path.name for path in place.glob("mlflow.db*")) == ["mlflow.db"] else ["a whole store"]
            complete, hits, commands = complete + (not missing), hits + hit, commands + len(statuses)
            when = f"{seconds:.1f} s after {'the last step' if at_end else 'the start'}"
            print(f"{when}: {'killed' if hit else 'had ended'}, then status {', '.join(map(str, statuses))}; lacks {', '.join(missing) or 'nothing'}", flush=True)
    print(f"{options.kills} runs, {hits} killed: {complete} of {options.kills} have a complete record, after {commands} repeated commands")


if __name__ == "__main__":
    main()
