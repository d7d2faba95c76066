"""What becomes of `textray predict` when it is killed again and again: is anything lost, doubled, or read twice?

    python benchmarks/drills/predictions.py MODEL CORPUS [--every 2]

Runs the command once, whole. Then again with another --out, killed by SIGKILL each time so many more blocks are finished, and once more while
shards are written, until it ends by itself. Exits with 1 if the two corpora differ in a byte, or if a finished block was written again.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(model: str, corpus: str, out: Path) -> subprocess.Popen:
    """The command, in a process group of its own."""
    command = [sys.executable, "-m", "pipelines.predict", model, corpus, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def finished(out: Path) -> dict[str, int]:
    """The blocks that are finished, with the time of their readings."""
    found = {}
    for mark in Path(f"{out}.readings/blocks").glob("*.json"):
        try:
            found[mark.stem] = mark.with_name(mark.stem).stat().st_mtime_ns
        except FileNotFoundError:  # the command has just ended
            pass
    return found


def until_killed(model: str, corpus: str, out: Path, blocks: int) -> int | None:
    """Run the command and kill it when so many blocks are finished, or when the first shard is being written if there are no so many. Its
    status if it ended before that."""
    running = start(model, corpus, out)
    while running.poll() is None:
        if len(finished(out)) >= blocks or any(Path(f"{out}.partial/corpus").glob("*")):
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            return None
        time.sleep(0.02)
    return running.returncode


def main() -> int:
    """Print the account."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("model")
    parse.add_argument("corpus")
    parse.add_argument("--every", type=int, default=2, help="finished blocks between two kills")
    options = parse.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary, "whole"), Path(temporary, "killed")
        if start(options.model, options.corpus, whole).wait():
            return 1
        before: dict[str, int] = {}
        kills, again, status = 0, 0, None
        while status is None:
            status = until_killed(options.model, options.corpus, killed, len(before) + options.every)
            now = finished(killed)
            again += sum(now[name] != written for name, written in before.items() if name in now)
            if status is None:
                kills += 1
                print(f"kill {kills}: {len(now)} blocks finished", flush=True)
                if len(now) == len(before):  # all are read: now the shards
                    status = start(options.model, options.corpus, killed).wait()
            before = now
        same = {path.name: path.read_bytes() for path in whole.iterdir()} == {path.name: path.read_bytes() for path in killed.iterdir()}
        left = sorted(path.name for path in Path(temporary).iterdir())
    print(f"{kills} kills: status {status}, {again} finished blocks written again, {'the same bytes' if same else 'other bytes'}, left {', '.join(left)}")
    return int(bool(status) or bool(again) or not same or left != ["killed", "whole"])


if __name__ == "__main__":
    sys.exit(main())
