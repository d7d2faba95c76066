"""What the field agreed on: which characters are compared, and how many words the benchmarks hold."""

import re
import string
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from models.charset import Charset

ALPHANUMERIC_36 = string.digits + string.ascii_lowercase
ALPHANUMERIC_62 = ALPHANUMERIC_36 + string.ascii_uppercase
PRINTABLE_94 = ALPHANUMERIC_62 + string.punctuation


def _only(characters: str) -> Callable[[str], str]:
    foreign = re.compile(f"[^{re.escape(characters)}]")
    return lambda text: foreign.sub("", text)


_only_36 = _only(ALPHANUMERIC_36)


def compared_36(text: str) -> str:
    """The rule of the scene-text benchmarks (Baek et al. 2019, and all tables since): lower-case, then delete what is
    not one of 0-9 a-z. Recognizers with more characters are scored the same way."""
    return _only_36(text.lower())


# name: how a label and a prediction are brought to the strings that are compared
RULES: dict[str, Callable[[str], str]] = {
    "36": compared_36,
    "62": _only(ALPHANUMERIC_62),
    "94": _only(PRINTABLE_94),
    "exact": lambda text: unicodedata.normalize("NFC", text),  # for scripts and handwriting: every character counts
}

RULE_NAMES = ("charset", *RULES)


@dataclass(frozen=True)
class Rule:
    """How readings are compared with labels."""

    name: str  # one of RULE_NAMES
    compared: Callable[[str], str]  # a label or a reading -> the string of it that is compared

    def same(self, label: str, reading: str) -> bool:
        """Whether a reading is right. It is not where nothing of the label is left to compare: then any reading would be."""
        wanted = self.compared(label)
        return bool(wanted) and wanted == self.compared(reading)


def rule_of(name: str, charset: Charset) -> Rule:
    """The rule of that name, for a recognizer that writes this charset.

    "charset" compares what the charset can write as it spells it: case counts where it has capital letters, punctuation where it has some, and
    canonically equal strings are equal (Unicode annex 15). For the charset 36 it is the rule "36".
    """
    if name != "charset":
        return Rule(name, RULES[name])
    known = set(charset.characters).union(*(unicodedata.normalize(form, charset.characters) for form in ("NFC", "NFD")))

    def compared(text: str) -> str:
        return unicodedata.normalize("NFC", "".join(character for character in charset.normalise(text) if character in known))

    return Rule("charset", compared)


# name: the published numbers of test words. Where a set has several, papers use different subsets and must say which.
BENCHMARKS: dict[str, tuple[int, ...]] = {
    "IIIT5K": (3000,),
    "SVT": (647,),
    "IC03": (860, 867),
    "IC13": (857, 1015, 1095),
    "IC15": (1811, 2077),
    "SVTP": (645,),
    "CUTE80": (288,),
    "COCO": (9825,),
    "RCTW": (1030,),
    "Uber": (80551,),
    "ArT": (35149,),
    "LSVT": (4133,),
    "MLT19": (5686,),
    "ReCTS": (2592,),
}

# Their published words are those in Latin letters; whoever measures on all of them reads other scripts, too.
MANY_SCRIPTS = ("RCTW", "ArT", "LSVT", "MLT19", "ReCTS")

# other names in use for the same sets, in lower case without punctuation
OTHER_NAMES = {"iiit": "IIIT5K", "iiit5": "IIIT5K", "iiit5kwords": "IIIT5K", "icdar2003": "IC03", "icdar2013": "IC13",
               "icdar2015": "IC15", "svtperspective": "SVTP", "cute": "CUTE80", "cocotext": "COCO", "mlt2019": "MLT19"}


def published(name: str) -> tuple[str, tuple[int, ...]] | None:
    """The benchmark that a set's name means, with its published sizes; None if the name is not a benchmark's.

    Case and punctuation do not matter, and a size may follow: `ic13_857` is IC13 and only its subset of 857 words.
    """
    plain = re.sub(r"[\W_]+", "", name.lower())
    known = {benchmark.lower(): benchmark for benchmark in BENCHMARKS} | OTHER_NAMES
    if plain in known:
        return known[plain], BENCHMARKS[known[plain]]
    for other, benchmark in known.items():
        sizes = tuple(size for size in BENCHMARKS[benchmark] if plain == f"{other}{size}")
        if sizes:
            return benchmark, sizes
    return None


def rule_for(set_name: str, words: int, own: str) -> str:
    """The name of the rule by which a set of so many words is compared: a benchmark by the field's, every other by the model's own."""
    benchmark = published(set_name)
    if benchmark is None or (benchmark[0] in MANY_SCRIPTS and words not in benchmark[1]):
        return own
    return "36"


def size_note(name: str, words: int) -> str | None:
    """What to say about the size of a set: which published subset it is, or that it is none; None for other sets."""
    benchmark = published(name)
    if benchmark is None:
        return None
    of, sizes = benchmark
    if words not in sizes:
        return f"not the published set: {of} has {' or '.join(f'{size:,}' for size in sizes)} words, this is {words:,}"
    return f"the published subset of {words:,}" if len(BENCHMARKS[of]) > 1 else None
