"""A character n-gram model with interpolated Witten-Bell smoothing, as an automaton that a batched search can walk.

With c(h) the number of times that history h was seen, c(h, x) how often x followed it and T(h) how many different symbols did,
    p(x | h) = (c(h, x) + T(h) p(x | h')) / (c(h) + T(h)),   h' = h without its first symbol,
down to the empty history, below which all symbols are equally likely (Witten and Bell, IEEE Trans. Information Theory 1991; the
interpolated form of Chen and Goodman 1999, equation 17). We prefer it to Kneser-Ney, whose discounts are estimated from the numbers of
n-grams that were seen once and twice: over an alphabet of a few dozen characters hardly any low-order n-gram is so rare.
A word begins with a symbol of its own, which is never written, and ends with another.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.charset import Charset

BEGIN, END = "\x02", "\x03"  # Unicode's start and end of text
MOST_CELLS = 2 ** 28  # of the table of probabilities: 1 GiB


class Ngram:
    """p(next character, or the end | the characters before), for any word over a charset.

    A state stands for what is remembered of the word so far. On the model's device:
    log_probabilities: (states, characters + 1), the end last. following: (states, characters) int64, the state behind a character.
    start: the state of an empty word.
    """

    def __init__(self, charset: Charset, order: int, counts: dict[str, dict[str, int]]) -> None:
        """counts: for each history (at most order - 1 symbols, BEGIN the first symbol of a word) how often each symbol followed.

        With a history they hold its beginnings and its endings, as the counts of whole words do. See `trained_on`.
        """
        if len(counts) * (len(charset) + 1) > MOST_CELLS:
            raise ValueError(f"expected at most {MOST_CELLS // (len(charset) + 1):,} histories with {len(charset)} characters, found "
                             f"{len(counts):,}: choose a smaller order than {order}, or fewer words")
        self.charset, self.order, self.counts = charset, order, counts
        states = {history: number for number, history in enumerate(sorted(counts, key=len))}  # the empty history is state 0
        probabilities = np.full((len(states), len(charset) + 1), 1 / (len(charset) + 1))
        following = np.zeros((len(states), len(charset)), np.int64)
        column = {**charset.index, END: len(charset)}
        for history, state in states.items():
            lower, followed = states[history[1:]], counts[history]
            probabilities[state] = len(followed) * probabilities[lower]
            probabilities[state, [column[symbol] for symbol in followed]] += list(followed.values())
            probabilities[state] /= sum(followed.values()) + len(followed)
            following[state] = following[lower]
            for symbol in followed.keys() - {END}:
                following[state, column[symbol]] = states.get(history + symbol, following[lower, column[symbol]])
        self.start = states.get(BEGIN, 0)
        self.log_probabilities = torch.from_numpy(np.log(probabilities).astype(np.float32))
        self.following = torch.from_numpy(following)

    def to(self, device: torch.device | str) -> "Ngram":
        """Moves the tables to a device; returns the model."""
        self.log_probabilities, self.following = self.log_probabilities.to(device), self.following.to(device)
        return self

    def start_states(self, *shape: int) -> Tensor:
        """The state of an empty word, in a tensor of this shape."""
        return torch.full(shape, self.start, dtype=torch.int64, device=self.following.device)

    def log_probability(self, text: str) -> float:
        """log p(text, and then the end). ValueError if a character is outside the charset."""
        state, total = self.start, 0.0
        for position in self.charset.positions(text, len(text)):
            total += float(self.log_probabilities[state, position])
            state = int(self.following[state, position])
        return total + float(self.log_probabilities[state, -1])

    def to_json(self) -> bytes:
        """The counts, from which `from_json` makes the model again."""
        model = {"order": self.order, "characters": self.charset.characters, "counts": self.counts}
        return (json.dumps(model, ensure_ascii=False, separators=(",", ":")) + "\n").encode()

    def save(self, file: str | Path) -> None:
        """Write the counts as JSON, replacing the file whole."""
        partial = Path(f"{file}.partial")
        partial.write_bytes(self.to_json())
        os.replace(partial, file)

    @classmethod
    def load(cls, file: str | Path) -> "Ngram":
        """What `save` wrote. ValueError if it is something else, OSError if there is no such file."""
        return cls.from_json(Path(file).read_bytes(), str(file))

    @classmethod
    def from_json(cls, data: bytes, file: str) -> "Ngram":
        """What `to_json` gave. ValueError, which names the file, if it is something else."""
        try:
            model = json.loads(data.decode())
            return cls(Charset(model["characters"]), model["order"], model["counts"])
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
            raise ValueError(f"expected an n-gram model that was saved by Ngram.save, found something else in {file}: "
                             "train it again") from None


def trained_on(words: Iterable[str], charset: Charset, order: int = 5) -> Ngram:
    """The model of these words; a word that comes twice counts twice.

    They are taken as the charset spells them; those with a character outside it are left out. ValueError if none is left.
    """
    if order < 1:
        raise ValueError(f"expected an order of at least 1 (characters alone), found {order}: 5 is usual")
    distinct = Counter(charset.normalise(word) for word in words)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for word, times in distinct.items():
        if not word or charset.outside(word):
            continue
        symbols = f"{BEGIN}{word}{END}"
        for place in range(1, len(symbols)):
            for first in range(max(0, place - order + 1), place + 1):
                counts[symbols[first:place]][symbols[place]] += times
    if not counts:
        raise ValueError(f"expected words of the charset's {len(charset)} characters, found none among {len(distinct):,}: check the file")
    return Ngram(charset, order, {history: dict(followed) for history, followed in counts.items()})
