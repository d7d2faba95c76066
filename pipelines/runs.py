"""`textray runs`: the runs in a folder, how far they are, how good, and which of them are being trained."""

import argparse
import json
import time

from pipelines.arguments import Parser, add_json
from pipelines.evaluation.columns import as_text
from pipelines.progress import clock
from pipelines.training.listing import FAILED, KILLED, TRAINING, Overview, ago, as_record, follow, overview, runs_in

HEADER = ("run", "step", "of", "left", "accuracy %", "logged", "state")


def main(argv: list[str] | None = None) -> int:
    """Run `textray runs`."""
    parser = Parser(prog="textray runs", formatter_class=argparse.RawDescriptionHelpFormatter,
                    description="List runs and sweeps, those that logged last first: their step, the time left, their last accuracy on the validation\n"
                                "words, and whether they are being trained, were killed, have finished or failed.",
                    epilog="examples:\n  textray runs\n  textray runs --follow my-run")
    parser.add_argument("folders", nargs="*", default=["runs"], metavar="FOLDER", help="folders of runs, or single runs, paths or URIs (default: runs)")
    parser.add_argument("--follow", metavar="RUN", help="show what a run logs, until nobody trains it any more; its name in the folder, or its own folder")
    add_json(parser, "a list with an object for each run")
    options = parser.parse_args(argv)
    if options.follow:
        place = options.follow if "/" in options.follow else f"{options.folders[0]}/{options.follow}"
        for line in follow(place):
            print(line, flush=True)
        print(_sentence(overview(place)))
        return 0
    found = [each for folder in options.folders for each in runs_in(folder)]
    if options.json:
        print(json.dumps([as_record(each) for each in found], indent=1, ensure_ascii=False))
    elif found:
        print(as_text([_row(each) for each in found], HEADER))
    else:
        print(f"no runs in {', '.join(options.folders)}")
    return 0


def _row(found: Overview) -> tuple[str, ...]:
    accuracy = "" if found.accuracy is None else f"{100 * found.accuracy:.2f}"
    logged = "" if found.seen is None else f"{ago(time.time() - found.seen)} ago"
    return (found.name, f"{found.step:,}", f"{found.steps:,}" + (" trials" if found.sweep else ""), "" if found.left is None else clock(found.left), accuracy, logged,
            f"{found.state}: {found.problem or found.what}{_remedy(found)}")


def _remedy(found: Overview) -> str:
    return {KILLED: "; the same command goes on", FAILED: "; the same command with --resume goes on"}.get(found.state, "")


def _sentence(found: Overview) -> str:
    """How it ended."""
    accuracy = "" if found.accuracy is None else f", word accuracy {found.accuracy:.2%} on the validation words"
    return f"run {found.name}: {found.state} at step {found.step:,} of {found.steps:,}{accuracy}{_remedy(found)}" if found.state != TRAINING else ""


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("runs"))
