"""`textray self-train`: rounds of pseudo-labels, each a run of its own (Pseudo-Label, Noisy Student)."""

import argparse
from typing import TYPE_CHECKING

from pipelines.arguments import Parser, add_batch_size, add_min_confidence, add_precision, finite
from pipelines.corpus import storage
from pipelines.corpus.account import table
from pipelines.errors import BadInput
from pipelines.reading.options import add_options
from pipelines.training.recipe import load_recipe

if TYPE_CHECKING:
    from pipelines.training.rounds import Round

DESCRIPTION = """Train in rounds. Round 0 is the recipe's supervised run (or --teacher). Then the last model reads the recipe's data.unlabeled, what
it is sure of becomes labels (RUNS/NAME/round-K/labels, a corpus), and a student learns from labels and pseudo-labels (the run NAME-round-K).
Stopped or killed, the same command goes on.
  Pseudo-Label (Lee 2013; Baek et al. 2021)   each student goes on from the last model: the default
  Noisy Student (Xie et al. 2020)             each student begins anew: --from-scratch, or a larger one: --student NAME"""
EXAMPLE = """examples:
  textray self-train recipes/supervised_crnn_tiny.yaml 'data.unlabeled={corpus: corpora/real, batch_size: 64}' --rounds 3
  textray self-train recipe.yaml --rounds 2 --teacher words@champion --student trba --min-confidence 0.6
  textray self-train recipe.yaml --rounds 3 --both-ways-up --beam 10 --own-ngram 0.3"""


def parser() -> argparse.ArgumentParser:
    """The command line of `textray self-train`."""
    arguments = Parser(prog="textray self-train", description=DESCRIPTION, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("recipe", help="a recipe file (YAML) with objective supervised, data.labeled and data.unlabeled")
    arguments.add_argument("overrides", nargs="*", metavar="key=value", help="fields of the recipe to change, such as training.steps=100")
    arguments.add_argument("--rounds", type=int, default=1, metavar="N", help="of pseudo-labels (default: 1)")
    add_min_confidence(arguments, 0.5, "it becomes a pseudo-label (default: %(default)s; 0.9 for a beam with an n-gram)")
    arguments.add_argument("--teacher", metavar="MODEL", help="a run, a model folder or NAME@champion in place of round 0")
    arguments.add_argument("--student", metavar="NAME", help="another recognizer from round 1 on, with its defaults; it begins anew")
    arguments.add_argument("--from-scratch", action="store_true", help="each student begins anew, or from the recipe's initialize_from")
    arguments.add_argument("--share", type=finite, metavar="P", help="share of pseudo-labels in each batch (default: every row counts the same)")
    arguments.add_argument("--own-ngram", type=finite, metavar="P", help="with --beam: an n-gram of what the model itself reads in these images "
                           "with a confidence of P or more guides it; reads twice (0.3 is a good start for codes and names)")
    add_batch_size(arguments)
    add_precision(arguments, ("float32", "bf16"), "of reading")
    add_options(arguments)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray self-train`."""
    options = parser().parse_intermixed_args(argv)
    if not 0 <= options.min_confidence <= 1:
        raise BadInput(f"--min-confidence: expected a confidence from 0 to 1, found {options.min_confidence:g}: correct it")
    if options.own_ngram is not None and not 0 <= options.own_ngram <= 1:
        raise BadInput(f"--own-ngram: expected a confidence from 0 to 1, found {options.own_ngram:g}: correct it")
    if options.share is not None and not 0 < options.share < 1:
        raise BadInput(f"--share: expected a share between 0 and 1, found {options.share:g}: correct it")
    recipe = load_recipe(options.recipe, options.overrides)  # a slip is answered before what follows is imported
    from pipelines.prediction.labeler import Manner
    from pipelines.training.corpora import with_corpora
    from pipelines.training.rounds import Rounds, self_train
    plan = Rounds(with_corpora(recipe), options.rounds, options.min_confidence, Manner.of(options), options.teacher, options.student, options.from_scratch,
                  options.share, options.own_ngram)
    rounds = []
    for done in self_train(plan):
        rounds.append(done)
        print(f"round {done.number} of {options.rounds}: {storage.shown(done.run)}", flush=True)
    print("\n" + table(("round", "pseudo-labels", "word accuracy %", "run"), [_row(done) for done in rounds]))
    print(f"\nnext: textray evaluate {storage.shown(rounds[-1].run)} --data NAME=PATH")
    return 0


def _row(done: "Round") -> tuple[str, ...]:
    accuracy, labels = done.metrics.get("word_accuracy"), "-" if done.labels is None else f"{done.labels:,}"
    return str(done.number), labels, "-" if accuracy is None else f"{100 * accuracy:.2f}", storage.shown(done.run)


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("self-train"))
