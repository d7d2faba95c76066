"""What every command asks for that reads labeled words."""

import argparse

import torch

from pipelines.arguments import add_batch_size, add_data, add_precision
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import RULE_NAMES


def add_reading_arguments(arguments: argparse.ArgumentParser) -> None:
    """What every command asks for that reads labeled words."""
    add_data(arguments, "they are read", required=True)
    add_batch_size(arguments)
    add_rule_argument(arguments)
    add_device_arguments(arguments)


def add_device_arguments(arguments: argparse.ArgumentParser) -> None:
    """Where and how precisely a model computes."""
    arguments.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add_precision(arguments, ("float32", "bf16"), "bf16 is faster where the processor has it, and reads a few words differently")


def add_rule_argument(arguments: argparse.ArgumentParser) -> None:
    """How strings are compared."""
    arguments.add_argument("--rule", choices=RULE_NAMES,
                           help="what of a label and a reading is compared: charset: what the model's charset has, as it spells it; 36: lower-case letters "
                                "and digits; 62, 94; exact: every character (default: 36 for the known benchmarks, the model's own for other sets)")


def check_batch_size(options: argparse.Namespace) -> None:
    """Raise BadInput unless there is an image in a batch."""
    if options.batch_size < 1:
        raise BadInput(f"--batch-size: expected at least 1, found {options.batch_size}")


def device_named(name: str | None) -> torch.device:
    """The device called `name`; without a name a GPU if there is one.

    Raises:
        BadInput: this machine has no such device.
    """
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= gpus):
        known = ", ".join(["cpu", *(f"cuda:{index}" for index in range(gpus))])
        raise BadInput(f"--device: expected a device of this machine ({known}), found {name!r}")
    return device
