"""The command line that `textray pretrain` and `textray finetune` have in common."""

import argparse
from collections.abc import Mapping
from typing import Any

from pipelines.arguments import Parser, add_resume, positive
from pipelines.errors import BadInput
from pipelines.handles import shown_uri
from pipelines.training.recipe import load_recipe


def command(stage: str, description: str, example: str, argv: list[str] | None) -> int:
    """`textray pretrain` and `textray finetune`: read the recipe, train, say where everything is."""
    parser = Parser(prog=f"textray {stage}", description=description, epilog=f"example: {example}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields of the recipe to change, such as training.steps=100")
    add_resume(parser, "run")
    parser.add_argument("--dry-run", action="store_true",
                        help="print the plan (images, epochs, memory, time), refuse what would not fit, and start nothing")
    parser.add_argument("--gpu-memory", type=positive, metavar="GIB", help="with --dry-run: plan for GPUs of this size, one for each worker "
                        "(default: what this machine has)")
    parser.add_argument("--images-per-second", type=positive, metavar="N",
                        help="with --dry-run: what a worker trains on (default: what was measured)")
    arguments = parser.parse_intermixed_args(argv)
    recipe = load_recipe(arguments.recipe, arguments.overrides)  # a slip is answered before what follows is imported
    from pipelines.corpus import storage
    from pipelines.training.corpora import with_corpora
    from pipelines.training.driver import train
    from pipelines.training.dry_run import Given, plan
    if arguments.dry_run:  # what is no corpus is brought in, as for the run: only then it is known what the run would be
        for section in plan(with_corpora(recipe), Given(arguments.gpu_memory, arguments.images_per_second), resume=arguments.resume):
            print(section, flush=True)
        return 0
    for option in ("gpu_memory", "images_per_second"):
        if getattr(arguments, option) is not None:
            raise BadInput(f"--{option.replace('_', '-')}: expected --dry-run beside it, found none: add it, or leave this out")
    outcome = train(with_corpora(recipe), resume=arguments.resume)
    if (told := without_words(outcome.metrics)) is not None:
        print(told)
    run = storage.shown(outcome.place)
    print(f"run {recipe.name}: {outcome.metrics.get('step', recipe.training.steps)} steps done{on_words(outcome.metrics)}\nmodel:  {storage.shown(outcome.model)}\n"
          f"next:   textray {'finetune RECIPE initialize_from=' if stage == 'pretrain' else 'evaluate '}{run}"
          f"{'' if stage == 'pretrain' else ' --data NAME=PATH'}\n"
          f"report: {storage.shown(storage.join(outcome.place, 'report.html'))}\n"
          f"curves: mlflow ui --backend-store-uri {shown_uri()}")
    return 0


def on_words(metrics: Mapping[str, Any]) -> str:
    """What the model reads of the validation words, for a sentence; empty where there are none."""
    if "word_accuracy" not in metrics:
        return ""
    from pipelines.evaluation.metrics import with_interval
    best = metrics.get("best_step", metrics["step"])
    which = "" if best == metrics["step"] else f"; the model is that of step {best}, which read the most of them"
    return f", word accuracy on the validation words {with_interval(metrics['word_accuracy'], metrics.get('validation_words'))}{which}"


def without_words(metrics: Mapping[str, Any]) -> str | None:
    """What a run without validation words can tell of itself; None where it has them, or has no unlabeled images."""
    from pipelines.training.unlabeled import COUNT, DECIDES
    if "word_accuracy" in metrics or DECIDES not in metrics:
        return None
    return (f"no validation words: {DECIDES.replace('_', ' ')} {metrics[DECIDES]:.2%} on {metrics[COUNT]:,} images is what textray can tell "
            "without labels, see docs/training.md")
