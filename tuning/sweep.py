"""`textray tune`: search the fields of a recipe with Ray Tune and Optuna, and judge the winner."""

import argparse

from pipelines.arguments import Parser, add_data, add_resume, add_seeds, finite
from pipelines.training.recipe import load_recipe

DESCRIPTION = """Search a recipe: what its section `search` names (every number, choice and switch of a recipe), or what its method's paper
tuned by hand. The first trial is the recipe itself; the best one is judged with further seeds (--seeds) and on test sets,
which it alone reads, once (--data). The same command goes on where it was killed; more --trials go on from there."""
EXAMPLE = """examples:
  textray tune ccr_crnn_tiny --trials 16 data.validation.corpus=V
  textray tune my.yaml --searcher tpe --trials 32 --seeds 3 --data SVT=words/test/SVT
  textray tune my.yaml 'search={optimizer.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}, objective.alignment: {choice: [string, frames]}}'"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = Parser(prog="textray tune", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("recipe", help="the recipe to search around; its data.validation decides, or else its unlabeled images")
    arguments.add_argument("overrides", nargs="*", metavar="key=value", help="fields of the recipe to change")
    arguments.add_argument("--trials", type=int, metavar="N", help="how many in all, the recipe itself among them (default: 8; all of a grid)")
    arguments.add_argument("--concurrency", type=int, metavar="N", help="trials at once (default: as many as fit)")
    arguments.add_argument("--searcher", choices=("random", "tpe", "grid"), default="random",
                           help="random; tpe: learns from the trials before (Optuna); grid: of every field its choices, or three values (default: random)")
    arguments.add_argument("--scheduler", choices=("asha", "median", "none"), default="asha",
                           help="which trials end early: asha: the worse half, at steps that double; median: those below the median of the others (default: asha)")
    arguments.add_argument("--speed", action="store_true", help="with --searcher tpe: look for images per second, too")
    add_seeds(arguments, 0, "the best trial and the recipe itself are trained again with N further ones, which tell whether they differ")
    add_data(arguments, "what the winner reads at the end, once")
    arguments.add_argument("--gpus-per-trial", type=finite, metavar="N", help="of a trial of one worker; 0.5 lets two share a GPU (default: 1 if there is one)")
    arguments.add_argument("--disk", type=finite, metavar="GB", help="what the trials may take at most; refused if they may take more (default: whatever is free)")
    add_resume(arguments, "sweep")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_intermixed_args(argv)
    recipe = load_recipe(arguments.recipe, arguments.overrides)  # a slip is answered before what follows is imported
    from pipelines.corpus import storage
    from pipelines.evaluation.columns import as_text
    from pipelines.training.corpora import with_corpora
    from tuning.plan import Plan
    from tuning.report import columns
    from tuning.search import sweep
    from tuning.space import space_of
    plan = Plan(arguments.trials, arguments.concurrency, arguments.searcher, arguments.scheduler, arguments.speed, arguments.seeds, tuple(arguments.data),
                arguments.gpus_per_trial, arguments.disk)
    recipe = with_corpora(recipe)
    ranked, judged = sweep(recipe, plan, resume=arguments.resume)
    header, rows = columns(recipe, space_of(recipe), ranked)
    folder = storage.shown(storage.join(recipe.runs, recipe.name))
    print(as_text(rows, header))
    print(f"\n{judged.verdict(ranked[0])}")
    for name, found in judged.tests.items():
        low, high = found["interval_95"]
        print(f"{name}: {100 * found['accuracy']:.2f} % of {found['words']:,} words ({100 * low:.2f} to {100 * high:.2f}), read once, by the winner")
    print(f"best recipe: {folder}/best.yaml\nbest model:  {storage.shown(ranked[0].model)}\nreport:      {folder}/report.html")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run

    raise SystemExit(run("tune"))
