"""How `textray evaluate` and `textray predict` choose strings, if not greedily: by a beam, with or without language models, or from a lexicon."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from models.charset import Charset
from models.decoders.abinet import ABINetDecoder
from models.decoders.decoded import Reading, surer_way_up
from models.decoding.beam import WordModel, beam_reading, check_beam
from models.decoding.cloze import pseudo_log_likelihoods
from models.decoding.lexicon import Lexicon, lexicon_reading
from models.decoding.ngram import Ngram, trained_on
from models.recognizer import Recognizer
from pipelines.corpus.storage import read_bytes
from pipelines.errors import BadInput
from pipelines.reading.weights import find_model, load_recognizer

if TYPE_CHECKING:
    from pipelines.ingestion.wordsets import WordSet

Item = tuple[str, bytes | None, str | None]  # key, encoded image, text
Search = Callable[[Tensor, list[Item]], Reading]


@dataclass(frozen=True)
class Found:
    """A search, and what to say of it beside its numbers."""

    search: Search | None  # None: greedily
    note: str


def searches(recognizer: Recognizer, options: argparse.Namespace) -> Callable[["WordSet"], Found]:
    """What gives the search for each set of words, by the options of `options.add_options`.

    Raises:
        BadInput: options that exclude each other, a file that cannot be used, or a search that this recognizer does not have.
    """
    if options.lexicon == "full" or (options.lexicon or "").isdecimal():
        _check_together(options)
        drawn = partial(_full, recognizer) if options.lexicon == "full" else partial(_drawn, recognizer, int(options.lexicon))
        return lambda words: _ways_up(recognizer, options, drawn(words))
    found = search_of(recognizer, options)
    return lambda words: found


def search_of(recognizer: Recognizer, options: argparse.Namespace) -> Found:
    """The search that needs no labels, by the options of `options.add_options`: greedy, a beam, or the words of a file.

    Raises:
        BadInput: options that exclude each other, a file that cannot be used, or a search that this recognizer does not have.
    """
    _check_together(options)
    try:
        if options.beam is not None:
            return _ways_up(recognizer, options, _beam(recognizer, options))
        if options.lexicon is None:
            return _ways_up(recognizer, options, Found(None, ""))
        lexicon = Lexicon(read_lines(options.lexicon, "--lexicon"), recognizer.charset, recognizer.max_length)
    except ValueError as problem:
        raise BadInput(str(problem)) from None
    return _ways_up(recognizer, options, Found(_of(recognizer, lexicon), f"lexicon {Path(options.lexicon).name} of {len(lexicon):,} words"))


def _ways_up(recognizer: Recognizer, options: argparse.Namespace, found: Found) -> Found:
    """The search as it is, or asked both ways up."""
    if not options.both_ways_up:
        return found
    once = found.search or (lambda images, _: recognizer.read(images))

    def search(images: Tensor, items: list[Item]) -> Reading:
        return surer_way_up(once(images, items), once(images.flip(2, 3), items))

    return Found(search, ", ".join(note for note in (found.note, "both ways up") if note))


def _check_together(options: argparse.Namespace) -> None:
    """Raise BadInput for options that exclude each other."""
    if options.ngram and options.beam is None:
        raise BadInput("--ngram: expected --beam N with it, found none: the n-gram guides the beam")
    if options.bcn and options.beam is None:
        raise BadInput("--bcn: expected --beam N with it, found none: the language model ranks what the beam found")
    if options.lexicon and options.beam is not None:
        raise BadInput("expected --beam or --lexicon, found both: a lexicon's words are all scored, so that there is nothing to search")


def _beam(recognizer: Recognizer, options: argparse.Namespace) -> Found:
    language, note = None, f"beam of {options.beam}"
    if options.ngram:
        language = load_ngram(options.ngram, recognizer.charset).to(next(recognizer.parameters()).device)
        note += f", {language.order}-gram {Path(options.ngram).name} x {options.ngram_weight:g}"
    words = None
    if options.bcn:
        words = WordModel(load_bcn(options.bcn, next(recognizer.parameters()).device), options.bcn_weight)
        note += f", BCN of {options.bcn} x {options.bcn_weight:g}"
    check_beam(recognizer.decoder, options.beam, language, options.ngram_weight, words)

    def search(images: Tensor, items: list[Item]) -> Reading:
        return beam_reading(recognizer.decoder, recognizer.encode(images), options.beam, temperature=recognizer.temperature,
                            language=language, weight=options.ngram_weight, words=words)

    return Found(search, note)


def load_ngram(file: str, charset: Charset) -> Ngram:
    """A saved n-gram (.json), or one of order 5 of the words of a text file.

    Raises:
        ValueError: it is neither.
        BadInput: it cannot be read.
    """
    if not file.endswith(".json"):
        return trained_on((word for line in read_lines(file, "--ngram") for word in line.split()), charset)
    try:
        return Ngram.from_json(read_bytes(file), file)
    except OSError as problem:
        raise BadInput(f"--ngram: expected a file that can be read, found {file} ({problem.strerror})") from None


def load_bcn(model: str, device: torch.device) -> Callable[[list[str]], list[float]]:
    """The language model of a trained ABINet: texts -> log probabilities, each of what its charset and its length can write.

    Raises:
        BadInput: no such model, or one of another kind.
    """
    abinet = load_recognizer(find_model(model)).to(device)
    if not isinstance(abinet.decoder, ABINetDecoder):
        raise BadInput(f"--bcn: expected an abinet, whose language model ranks the strings, found {abinet.name} in {model}")

    def score(texts: list[str]) -> list[float]:
        spelt = [spelled(text, abinet.charset)[:abinet.max_length] for text in texts]
        return pseudo_log_likelihoods(abinet.decoder.language, abinet.decoder.tokens, spelt)

    return score


def read_lines(file: str, option: str) -> list[str]:
    """The lines of a UTF-8 text file, stripped.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return [line.strip() for line in read_bytes(file).decode("utf-8-sig").splitlines()]
    except OSError as problem:
        raise BadInput(f"{option}: expected a file that can be read, found {file} ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{option}: expected a text file in UTF-8, found something else in {file}") from None


def _of(recognizer: Recognizer, lexicon: Lexicon, places: Callable[[list[Item]], list[list[int]]] | None = None) -> Search:
    """The search in a lexicon, or in that part of it that `places` says for each item."""
    def search(images: Tensor, items: list[Item]) -> Reading:
        return lexicon_reading(recognizer.decoder, recognizer.encode(images), lexicon, places and places(items),
                               temperature=recognizer.temperature)
    return search


def labels_as_lexicon(words: "WordSet", charset: Charset, max_length: int) -> Lexicon:
    """The labels of a set, without the characters that the charset lacks.

    Raises:
        BadInput: not one of them can be written.
    """
    labels = [spelled(text, charset) for _, _, text in words.read() if text]
    try:
        return Lexicon(labels, charset, max_length)
    except ValueError as problem:
        raise BadInput(f"{words.name}: {problem}") from None


def spelled(text: str, charset: Charset) -> str:
    """The text as the charset spells it, without the characters that it lacks."""
    return "".join(character for character in charset.normalise(text) if character in charset.index)


def _full(recognizer: Recognizer, words: "WordSet") -> Found:
    lexicon = labels_as_lexicon(words, recognizer.charset, recognizer.max_length)
    return Found(_of(recognizer, lexicon), f"lexicon of its {len(lexicon):,} different labels")


def _drawn(recognizer: Recognizer, count: int, words: "WordSet") -> Found:
    if count < 2:
        raise BadInput(f"--lexicon: expected the true word and at least 1 other, found {count}")
    lexicon = labels_as_lexicon(words, recognizer.charset, recognizer.max_length)
    draw = Draw(lexicon.words)

    def places(items: list[Item]) -> list[list[int]]:
        return [draw.of(key, lexicon.places.get(spelled(text or "", recognizer.charset)), count) for key, _, text in items]

    return Found(_of(recognizer, lexicon, places), f"lexicon of {min(count, len(lexicon)):,}: the true word and others of its labels")


class Draw:
    """Draws words for a key by a hash of both: always the same, whatever else is in the set or was drawn before."""

    def __init__(self, words: list[str]) -> None:
        self.hashes = np.array([_hash(word) for word in words], np.uint64)

    def of(self, key: str, own: int | None, count: int) -> list[int]:
        """The places of `count` different words, `own` among them unless it is None; all where there are no more."""
        mixed = self.hashes ^ np.uint64(_hash(key))
        for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):  # the finaliser of MurmurHash3: neighbours end up far apart
            mixed = (mixed ^ mixed >> np.uint64(33)) * np.uint64(multiplier)
        if own is not None:
            mixed[own] = 0
        return np.argsort(mixed, kind="stable")[:count].tolist()


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
