"""The command line that `textray pretrain` and `textray finetune` have in common."""

import argparse

from pipelines import tracking
from pipelines.arguments import Parser
from pipelines.corpus import storage
from pipelines.training.driver import train
from pipelines.training.recipe import load_recipe


def command(stage: str, description: str, example: str, argv: list[str] | None) -> int:
    """`textray pretrain` and `textray finetune`: read the recipe, train, say where everything is."""
    parser = Parser(prog=f"textray {stage}", description=description, epilog=f"example: {example}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe file (YAML)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fields of the recipe to change, such as training.steps=100")
    parser.add_argument("--resume", action="store_true", help="go on with the run of this name, whatever its state; a killed run goes on anyway")
    arguments = parser.parse_intermixed_args(argv)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    outcome = train(recipe, resume=arguments.resume)
    accuracy = f", word accuracy {outcome.metrics['word_accuracy']:.2%} on the validation words" if "word_accuracy" in outcome.metrics else ""
    run = storage.shown(outcome.place)
    print(f"run {recipe.name}: {recipe.training.steps} steps done{accuracy}\nmodel:  {storage.shown(outcome.model)}\n"
          f"next:   textray {'finetune RECIPE initialize_from=' if stage == 'pretrain' else 'evaluate '}{run}"
          f"{'' if stage == 'pretrain' else ' --data NAME=PATH'}\n"
          f"curves: mlflow ui --backend-store-uri {tracking.shown_uri()}")
    return 0
