"""What the command lines have in common: a mistake is one sentence, a number is a finite one, and an option that several commands have is one option.

Each name of an option is defined once in all of textray (`tests/pipelines/test_options.py` holds that). One that several commands have is a function
here, or in a room's `options.py`; what it says of the single command is its argument.
"""

import argparse
import difflib
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from pipelines.cluster import check_outlives
from pipelines.errors import BadInput
from pipelines.progress import silence

Holder = argparse._ActionsContainer  # a parser, or a group of options in one


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are BadInput, as every other mistake in a command line is, and not a page of usage; options are written out."""

    def __init__(self, prog: str | None = None, description: str | None = None, epilog: str | None = None,
                 formatter_class: type[argparse.HelpFormatter] = argparse.RawDescriptionHelpFormatter):
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=formatter_class, allow_abbrev=False)
        self.add_argument("--quiet", action="store_true", help="only results on stdout and errors on stderr: no progress, no remarks, no warnings")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> tuple[argparse.Namespace, list[str]]:
        """argparse's, which all its others call: the one place where `--quiet` is heard."""
        found, rest = super().parse_known_args(args, namespace)
        if getattr(found, "quiet", False):
            silence()
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Called by argparse for what it does not understand."""
        known = [option for action in self._actions if action.help != argparse.SUPPRESS for option in action.option_strings]
        unknown = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0] if message.startswith("unrecognized arguments: --") else ""
        near = [option for option in known if unknown and option.startswith(unknown)] or difflib.get_close_matches(unknown, known, n=1)
        meant = f": did you mean {near[0]}?" if near else ""
        raise BadInput(f"{' '.join(message.split())}{meant or ':'} `{self.prog} --help` shows what it takes")

    def renamed(self, old: str, now: str) -> None:
        """Answer the name that an option had in an earlier version with what it is called now, such as `--data NAME=PATH`."""
        self.add_argument(old, action=_Renamed, help=argparse.SUPPRESS, metavar=now)


class _Renamed(argparse.Action):
    """An option of an earlier version. Its metavar says what there is now."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str, metavar: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", default=argparse.SUPPRESS, help=help, metavar=metavar)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> NoReturn:
        raise BadInput(f"{option_string}: expected {self.metavar}, as `{parser.prog}` calls it now, found the name of an earlier version: say {self.metavar}")


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


def add_out(arguments: Holder, metavar: str, what: str, *, required: bool = False) -> None:
    """Where what a command makes goes. A command that has a place of its own choice without it calls `outliving` for that."""
    arguments.add_argument("--out", metavar=metavar, required=required, type=outliving, help=f"where it goes: {what}")


def outliving(place: str) -> str:
    """A place to write to, which a job on a cluster must not lose with its copy of the working folder. Raises BadInput."""
    check_outlives(place, "--out")
    return place


def add_overwrite(arguments: Holder, what: str) -> None:
    """Whether what lies there may go."""
    arguments.add_argument("--overwrite", action="store_true", help=f"replace what lies there: {what}")


def add_json(arguments: Holder, what: str) -> None:
    """What a script reads in place of what a person does."""
    arguments.add_argument("--json", action="store_true", help=f"print JSON: {what}")


def add_seed(arguments: Holder, what: str) -> None:
    """By which something is drawn."""
    arguments.add_argument("--seed", type=int, default=0, metavar="N", help=f"another seed draws others: {what} (default: %(default)s)")


def add_seeds(arguments: Holder, default: int, what: str) -> None:
    """With how many seeds something is done anew."""
    arguments.add_argument("--seeds", type=int, default=default, metavar="N", help=f"with how many seeds: {what} (default: %(default)s)")


def add_data(arguments: Holder, what: str, *, required: bool = False) -> None:
    """Sets of labeled words."""
    arguments.add_argument("--data", action="append", required=required, default=None if required else [], metavar="NAME=PATH",
                           help=f"labeled words, a corpus, or an LMDB or folder as `textray ingest` takes them: {what}; repeat for more sets")


def add_name(arguments: Holder, what: str = "", *, required: bool = False, default: str | None = None) -> None:
    """Of a model in the registry."""
    arguments.add_argument("--name", required=required, default=default, help=f"the registered model's name{what}")


def add_labels(arguments: Holder, what: str) -> None:
    """A file of labels."""
    arguments.add_argument("--labels", metavar="FILE", help="what images of a folder say, where that lies elsewhere: lines `image<TAB>text`, or a .csv or .jsonl "
                           f"with columns file_name and text; {what}")


def add_words(arguments: Holder) -> None:
    """What is drawn: words, or codes."""
    what = arguments.add_mutually_exclusive_group()
    what.add_argument("--words", metavar="FILE", help="draw these words as they stand, one a line (default: English words and numbers)")
    what.add_argument("--pattern", metavar="REGEX", help="draw codes of this form, such as '[A-Z]{1,2}[0-9]{2,4}', in their place")


def add_charset(arguments: Holder, what: str, default: str | None = None) -> None:
    """The characters of labels and recognizers."""
    arguments.add_argument("--charset", metavar="CHARACTERS", default=default, help=f"36, 62, 94, or the characters themselves{what}")


def add_max_length(arguments: Holder, default: int, what: str) -> None:
    """Of labels."""
    arguments.add_argument("--max-length", type=int, default=default, metavar="N", help=f"longest label in characters: {what}")


def add_min_confidence(arguments: Holder, default: float | None, what: str) -> None:
    """From which on readings count."""
    arguments.add_argument("--min-confidence", type=finite, default=default, metavar="P", help=f"least confidence of a reading that counts: {what}")


def add_guard(arguments: Holder, what: str) -> None:
    """Of the images that no corpus may hold."""
    arguments.add_argument("--guard", nargs="+", action="extend", default=[], metavar="SET", help=f"benchmarks, PATH or NAME=PATH: {what}")


def add_batch_size(arguments: Holder) -> None:
    """Of reading."""
    arguments.add_argument("--batch-size", type=int, default=256, metavar="N", help="images that are read at a time (default: %(default)s)")


def add_precision(arguments: Holder, choices: Sequence[str], what: str) -> None:
    """Of a model's arithmetic; the first choice is the default."""
    arguments.add_argument("--precision", choices=choices, default=choices[0], help=f"of the arithmetic: {what} (default: %(default)s)")


def add_both_ways_up(arguments: Holder) -> None:
    """For images of which some stand on their head."""
    arguments.add_argument("--both-ways-up", action="store_true", help="read every image also upside down, and take the reading of higher confidence")


def add_max_errors(arguments: Holder) -> None:
    """Of images that are broken or lack what a label file says."""
    arguments.add_argument("--max-errors", type=finite, default=0.01, metavar="SHARE",
                           help="give up when more than this share of all rows is unusable (default: %(default)s)")


def add_resume(arguments: Holder, what: str) -> None:
    """Of a run or a sweep, whatever its state."""
    arguments.add_argument("--resume", action="store_true", help=f"go on with the {what} of this name, whatever its state; a killed one goes on anyway")
