"""Beam search for any decoder that has one: over prefixes (ctc), over symbols (attention)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from models.decoders.decoded import Reading
from models.decoders.decoder import Decoder
from models.decoding.attention_beam import attention_beam
from models.decoding.ctc_beam import prefix_beam
from models.decoding.hypotheses import Hypothesis, best_reading, rescored
from models.decoding.ngram import Ngram
from models.decoding.temperature import log_probabilities


@dataclass(frozen=True)
class WordModel:
    """A language model of whole words, which ranks what the search found: score + weight * log p(text)."""

    score: Callable[[list[str]], list[float]]  # texts -> their log probabilities
    weight: float


def check_beam(decoder: Decoder, width: int, language: Ngram | None = None, weight: float = 0.0, words: WordModel | None = None) -> None:
    """ValueError if this decoder has no such search."""
    if width < 1:
        raise ValueError(f"expected a beam of at least 1, found {width}")
    if decoder.kind not in ("ctc", "attention"):
        raise ValueError(f"expected a decoder that writes step by step for a beam, found one of the kind {decoder.kind}, which writes all "
                         "symbols at once: read it greedily or with a lexicon")
    if words is not None and words.weight < 0:
        raise ValueError(f"expected a weight of the language model of at least 0, found {words.weight}")
    if hasattr(decoder, "read_beams") and (language is not None or words is not None):
        raise ValueError(f"expected no language model, found one: the beam search of {type(decoder).__name__}, in two directions, takes none")
    if language is None:
        return
    if weight < 0:
        raise ValueError(f"expected a weight of the n-gram of at least 0, found {weight}")
    if language.charset != decoder.tokens.charset:
        raise ValueError(f"expected an n-gram over the recognizer's {len(decoder.tokens.charset)} characters, found one over "
                         f"{len(language.charset)}: train it with the recognizer's charset")


def beam_hypotheses(decoder: Decoder, memory: Tensor, width: int, *, temperature: float = 1.0, language: Ngram | None = None,
                    weight: float = 0.0) -> list[list[Hypothesis]]:
    """(n, frames, width) -> for each image at most `width` strings, the best first. ValueError as `check_beam` raises it."""
    check_beam(decoder, width, language, weight)
    if decoder.kind == "ctc":
        return prefix_beam(log_probabilities(decoder(memory).logits, temperature), decoder.tokens, width, language, weight)
    return attention_beam(decoder, memory, width, temperature=temperature, language=language, weight=weight)


def beam_reading(decoder: Decoder, memory: Tensor, width: int, *, temperature: float = 1.0, language: Ngram | None = None,
                 weight: float = 0.0, words: WordModel | None = None) -> Reading:
    """The best of `beam_hypotheses`, ranked anew by `words`. A decoder with a search of its own (`read_beams`) does that, at temperature 1.

    Confidence: a string's share, by exp(score), of what the recognizer gives to all strings that were found; p(text | image) without a
    language model. With CTC the strings that were found count as all there are: a sum over paths at a temperature that was fitted to the best path
    of a greedy reading is far too small.
    """
    check_beam(decoder, width, language, weight, words)
    if hasattr(decoder, "read_beams"):
        return decoder.read_beams(memory, width)
    found = beam_hypotheses(decoder, memory, width, temperature=temperature, language=language, weight=weight)
    if words is not None:
        found = rescored(found, words.score, words.weight)
    return best_reading(found, together=1.0 if decoder.kind == "ctc" else None)
