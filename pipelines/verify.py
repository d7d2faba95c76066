"""`textray verify`: whether corpora, models and runs are what was written."""

import argparse

from pipelines.arguments import Parser
from pipelines.corpus import storage
from pipelines.corpus.manifest import MANIFEST
from pipelines.corpus.verification import Findings, verify_corpus
from pipelines.errors import BadInput
from pipelines.reading.verification import verify_model
from pipelines.reading.weights import DESCRIPTION, WEIGHTS, find_model
from pipelines.training.verification import verify_run

DESCRIPTION_OF_COMMAND = """Read every byte of corpora, models and runs, and compare it with the checksums and counts that were written with it: the sha256
of shards and weights, rows, row groups, labels and keys of a corpus, its rejected rows, the numbers and checkpoints of a run. Exit
status 1 if something is damaged."""
EXAMPLE = "examples:\n  textray verify corpora/words s3://bucket/corpora/real\n  textray verify my-run models:/words@champion"


def main(argv: list[str] | None = None) -> int:
    """Run `textray verify`: 0 if everything is whole, 1 if something is damaged."""
    parse = Parser(prog="textray verify", description=DESCRIPTION_OF_COMMAND, epilog=EXAMPLE,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("paths", nargs="+", metavar="PATH", help="a corpus, a model, or a run: a folder or URI, a run's name, models:/NAME@champion")
    parse.add_argument("--decode", action="store_true", help="decode every image of a corpus too, about 15,000 a second and core")
    parse.renamed("--images", "--decode")
    arguments = parse.parse_args(argv)
    places = [locate(path) for path in arguments.paths]  # a mistyped name shows before hours of reading
    damaged = 0
    for path, (kind, place) in zip(arguments.paths, places):
        findings = {"corpus": lambda place: verify_corpus(place, arguments.decode), "model": verify_model, "run": verify_run}[kind](place)
        print(report(path, findings), flush=True)
        damaged += bool(findings.damaged)
    return 1 if damaged else 0


def locate(path: str) -> tuple[str, str]:
    """What lies at a path, "corpus", "model" or "run", and where. Raises BadInput for anything else."""
    if path.startswith("models:/"):
        return "model", str(find_model(path))
    for place in (path, storage.join("runs", path)):
        for name, kind in ((MANIFEST, "corpus"), (DESCRIPTION, "model"), (WEIGHTS, "model"), ("run.json", "run"), ("recipe.yaml", "run")):
            if storage.kind(storage.join(place, name)) == "file":
                return kind, place
        if storage.kind(storage.join(place, "model", DESCRIPTION)) == "file":
            return "model", storage.join(place, "model")
    raise BadInput(f"{path}: expected a corpus, a model or a run, found {storage.kind(path) and 'none of these' or 'nothing'} there: give its folder or "
                   "URI, a run's name under runs/, or models:/NAME@champion")


def report(path: str, findings: Findings) -> str:
    """What was found, a line each, and the verdict in the first."""
    verdict = f"{len(findings.damaged)} damaged" if findings.damaged else "whole"
    return "\n".join([f"{path}: {findings.what}, {verdict}", *(f"  whole    {line}" for line in findings.whole),
                      *(f"  DAMAGED  {line}" for line in findings.damaged)])


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("verify"))
