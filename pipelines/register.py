"""`textray register`: put a run's model into the MLflow registry, and make it the champion if it is better."""

import argparse

from pipelines.arguments import Parser, add_data, add_name, not_negative
from pipelines.evaluation.options import add_rule_argument
from pipelines.handles import shown_uri
from pipelines.ingestion.wordsets import open_sets
from pipelines.registry.champion import register


def parser() -> argparse.ArgumentParser:
    """The command line of `textray register`."""
    arguments = Parser(
        prog="textray register", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Store a run's model in the MLflow registry as a model that carries the code it needs.\n"
                    "Input: a column `image` of encoded images. Output: columns `text`, `confidence` and `characters`.\n"
                    "The champion changes only for a model that reads more words of --data, told apart by McNemar's exact test.",
        epilog="example:\n  textray register my-run --name words --promote --data IIIT5K=data/IIIT5K\n"
               "  mlflow models serve -m models:/words@champion --env-manager local")
    arguments.add_argument("run", help="a run's name or folder, a model folder, or the id of an MLflow run")
    add_name(arguments, required=True)
    arguments.add_argument("--promote", action="store_true",
                           help="make it the champion if it reads more words of --data than the champion does, told apart by a paired test; else the challenger")
    arguments.add_argument("--min-gain", type=not_negative, default=0.0, metavar="POINTS", help="with --promote: of accuracy, that it must read more (default: 0)")
    add_data(arguments, "the champion reads them, too")
    arguments.renamed("--gate", "--data NAME=PATH")
    add_rule_argument(arguments)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray register`: 0 whether or not the model became the champion."""
    options = parser().parse_args(argv)
    registered = register(options.run, options.name, promote=options.promote, gates=open_sets(options.data), rule=options.rule,
                          min_gain=options.min_gain)
    print(registered.sentence)
    print(f"made {registered.uri} in {shown_uri()}; serve it: "
          f"MLFLOW_TRACKING_URI={shown_uri()} mlflow models serve -m {registered.uri} --env-manager local")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("register"))
