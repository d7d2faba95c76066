"""How long a small run takes from the command to its model: by one worker in the process of the command, and under Ray Train on this machine.

    python benchmarks/start.py --rounds 3

A run of four steps of crnn_tiny is trained in both ways by turns, each in a process of its own; prints the seconds of each, and the ratio of
their medians. Nothing else should run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.synthesis.corpus import Settings, render_corpus

RECIPE = """name: {name}
recognizer: {{name: crnn_tiny}}
objective: {{name: supervised}}
data: {{labeled: {{corpus: words, batch_size: 8}}}}
training: {{steps: 4}}
"""


def seconds(folder: Path, name: str, ray: bool) -> float:
    """Of one run."""
    (folder / f"{name}.yaml").write_text(RECIPE.format(name=name), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | ({"RAY_ADDRESS": "local"} if ray else {})
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipelines.finetune", f"{name}.yaml"], cwd=folder, env=environment, check=True, capture_output=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="example: python benchmarks/start.py --rounds 3")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way (default 3)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_corpus(folder / "words", 64, Settings(style="plain", charset="36"))
        seconds(folder, "first", ray=False)  # makes the store, warms the disk
        found = [(seconds(folder, f"alone-{each}", ray=False), seconds(folder, f"ray-{each}", ray=True)) for each in range(rounds)]
    for alone, ray in found:
        print(f"alone {alone:5.1f} s   Ray Train {ray:5.1f} s")
    print(f"ratio of the medians: {statistics.median(ray for _, ray in found) / statistics.median(alone for alone, _ in found):.1f}")


if __name__ == "__main__":
    main()
