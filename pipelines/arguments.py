"""What the command lines have in common: a mistake is one sentence, and a number is a finite one."""

import argparse
import math
from typing import NoReturn

from pipelines.errors import BadInput


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are BadInput, as every other mistake in a command line is, and not a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for what it does not understand."""
        raise BadInput(f"{' '.join(message.split())}: `{self.prog} --help` shows what it takes")


def finite(text: str) -> float:
    """The type of an argument that is a number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, found {text!r}")
    return number


def not_negative(text: str) -> float:
    """The type of an argument that is a weight."""
    number = finite(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text}")
    return number


def positive(text: str) -> float:
    """The type of an argument that is a size or a rate."""
    number = finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return number
