"""`textray calibrate`: one temperature for a model, so that words read with confidence 0.8 are right in 8 of 10 cases."""

import argparse

import torch

from pipelines.arguments import Parser
from pipelines.errors import BadInput
from pipelines.evaluation.calibration import HEADER, calibrate
from pipelines.evaluation.columns import as_text
from pipelines.evaluation.measure import rule_on
from pipelines.evaluation.options import add_reading_arguments, check_batch_size, device_named
from pipelines.ingestion.wordsets import open_sets
from pipelines.reading.weights import DESCRIPTION, find_model, load_recognizer, read_description, save_temperature


def parser() -> argparse.ArgumentParser:
    """The command line of `textray calibrate`."""
    arguments = Parser(
        prog="textray calibrate", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make a model's confidences honest: fit one temperature on labeled words that it was not trained on, and\n"
                    "write it into the model. What it reads stays the same.",
        epilog="example:\n  textray calibrate my-run --data corpora/validation")
    arguments.add_argument("model", help="a run's name or folder, or a model folder")
    add_reading_arguments(arguments)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray calibrate`."""
    options = parser().parse_args(argv)
    check_batch_size(options)
    if options.model.startswith("models:/"):
        raise BadInput(f"expected a run or a model folder, found the registered model {options.model}, which cannot change: calibrate the "
                       "run's model and register it again")
    sets, folder = open_sets(options.data), find_model(options.model)
    device = device_named(options.device)
    recognizer = load_recognizer(folder).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        rules = [rule_on(words, recognizer, read_description(folder), options.rule) for words in sets]
        temperature, table = calibrate(recognizer, sets, rules, batch_size=options.batch_size)
    save_temperature(folder, temperature)
    print(as_text(table, HEADER))
    print(f"\nmade {folder}/{DESCRIPTION}: temperature {temperature:g} (it was {recognizer.temperature:g})")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run
    raise SystemExit(run("calibrate"))
