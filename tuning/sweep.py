"""`textray tune`: search a recipe's confidence threshold, EMA rate and loss weight with Ray Tune (ASHA)."""

import argparse

from pipelines.arguments import Parser, add_resume
from pipelines.errors import BadInput
from pipelines.training.recipe import load_recipe


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = Parser(prog="textray tune", description="Search a recipe's confidence threshold, EMA rate and loss weight (ASHA).",
                                     epilog="example: textray tune recipes/ccr_crnn_tiny.yaml --trials 16 data.validation.corpus=V "
                                            "training.validate_every=500", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="the recipe to search around; its data.validation decides, or else its unlabeled images")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields of the recipe to change")
    parser.add_argument("--trials", type=int, default=8, help="how many to run (default 8); the first is the recipe itself")
    parser.add_argument("--concurrency", type=int, help="trials at once (default: as many as fit)")
    add_resume(parser, "sweep")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.trials < 1:
        raise BadInput(f"expected --trials of at least 1, found {arguments.trials}")
    if arguments.concurrency is not None and arguments.concurrency < 1:
        raise BadInput(f"expected --concurrency of at least 1, found {arguments.concurrency}")
    recipe = load_recipe(arguments.recipe, arguments.overrides)  # a slip is answered before what follows is imported
    from pipelines.corpus import storage
    from pipelines.training.corpora import with_corpora
    from tuning.search import sweep
    from tuning.trials import called, metric_of
    ranked = sweep(with_corpora(recipe), trials=arguments.trials, concurrency=arguments.concurrency, resume=arguments.resume)
    fields = list(ranked[0].values)
    decides = called(metric_of(recipe))
    print("  ".join([decides, "steps", *fields]))
    for result in ranked:
        shown = "failed" if result.error else f"{result.accuracy:.2%}" if result.accuracy is not None else "none"
        print("  ".join([f"{shown:>{len(decides)}}", f"{result.steps:>5}", *(f"{result.values[name]:>{len(name)}g}" for name in fields)])
              + ("  stopped early" if result.stopped else ""))
    folder = storage.shown(storage.join(recipe.runs, recipe.name))
    print(f"best recipe: {folder}/best.yaml\nbest model:  {storage.shown(ranked[0].model)}\nreport:      {folder}/report.html")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run

    raise SystemExit(run("tune"))
