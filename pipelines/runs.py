"""`textray runs`: the runs in a folder, how far they are, how good, and which of them are being trained."""

import argparse
import json
import time

from pipelines.arguments import Parser, add_json
from pipelines.corpus import storage
from pipelines.evaluation.columns import as_text
from pipelines.progress import clock, say
from pipelines.training.listing import FAILED, KILLED, RUNS, TRAINING, Overview, ago, as_record, follow, logged, overview, runs_in

HEADER = ("run", "step", "of", "left", "accuracy %", "logged", "state")


def main(argv: list[str] | None = None) -> int:
    """Run `textray runs`."""
    parser = Parser(prog="textray runs", formatter_class=argparse.RawDescriptionHelpFormatter,
                    description="List runs and sweeps, those that logged last first: their step, the time left, their last accuracy on the validation\n"
                                "words, and whether they are being trained, were killed, have finished or failed.",
                    epilog="examples:\n  textray runs\n  textray runs --follow my-run")
    parser.add_argument("folders", nargs="*", default=["runs"], metavar="FOLDER", help="folders of runs, or single runs, paths or URIs (default: runs)")
    parser.add_argument("--follow", metavar="RUN", help="show what a run logs, until nobody trains it any more; its name in the folder, or its own folder")
    add_json(parser, "a list with an object for each run; with --follow an object a line, all that its progress.jsonl holds and what comes")
    options = parser.parse_args(argv)
    if options.follow:
        place = options.follow if "/" in options.follow else _named(options.folders[0], options.follow)
        for line in (json.dumps(each.numbers) for each in logged(place)) if options.json else follow(place):
            print(line, flush=True)
        (say if options.json else print)(_sentence(overview(place)))
        return 0
    found = [each for folder in options.folders for each in runs_in(folder)]
    if options.json:
        print(json.dumps([as_record(each) for each in found], indent=1, ensure_ascii=False))
    elif found:
        print(as_text([_row(each) for each in found], HEADER))
    else:
        print(f"no runs in {', '.join(options.folders)}")
    return 0


def _named(folder: str, name: str) -> str:
    """A run's place by its name in a folder, or in the subfolder `runs` of it."""
    places = [storage.join(folder, name), storage.join(folder, RUNS, name)]
    return next((place for place in places if storage.kind(storage.join(place, "run.json")) == "file"), places[0])


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
