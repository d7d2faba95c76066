"""Prefix beam search for CTC (Graves, "Supervised sequence labelling", 2012, section 7.5.3; Hannun et al., arXiv 1408.2873, algorithm 1).

After frame t a prefix l has two probabilities, of the paths that collapse to it and end in a blank, b(l), and that do not, a(l). With y the
probabilities of the next frame and c the last character of l:
    b'(l)     = (b(l) + a(l)) y(blank),      a'(l) = a(l) y(c)            the prefix stays,
    a'(l + x) = (b(l) + a(l)) y(x), but b(l) y(x) where x = c             a character is appended.
Where l + x is in the beam, too, the two a' are added up. The best `width` prefixes go on; a beam of all prefixes sums over all paths.

With a language model a prefix is ranked by log(b + a) + weight * log p(characters), and at the last frame by the probability of the whole
word, its end included. (Hannun et al. weigh words of a sentence and add a bonus for each; we weigh characters and add none.)
All images and all prefixes are searched at once, in logarithms. Only characters are appended: what else a token table may write
(padding, unknown) stays out, though its probability counts in the softmax.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.charset import CTCTokens
from models.decoding.hypotheses import Hypothesis, hypotheses
from models.decoding.ngram import Ngram


@dataclass
class _Prefixes:
    """The beam: for each of n images its prefixes, the best first. Those that are impossible have probability 0."""

    positions: Tensor  # (n, width, frames) of the characters in the charset; -1 behind the prefix
    lengths: Tensor  # (n, width)
    blank: Tensor  # (n, width): log b
    character: Tensor  # (n, width): log a
    language: Tensor  # (n, width): log p(characters) by the n-gram
    states: Tensor | None  # (n, width): of the n-gram

    @property
    def total(self) -> Tensor:
        """log (b + a), (n, width)."""
        return torch.logaddexp(self.blank, self.character)

    @property
    def last(self) -> Tensor:
        """The last character of each prefix, (n, width); -1 for an empty one."""
        last = self.positions.gather(2, (self.lengths - 1).clamp(min=0).unsqueeze(2)).squeeze(2)
        return torch.where(self.lengths > 0, last, -1)


@torch.no_grad()
def prefix_beam(log_probabilities: Tensor, tokens: CTCTokens, width: int, language: Ngram | None = None, weight: float = 0.0
                ) -> list[list[Hypothesis]]:
    """(n, frames, classes) log-softmaxed -> for each image at most `width` strings, the best first. Any length may come out.

    language: over the same charset and on the same device; weight: of its log probability.
    """
    first, count = tokens.first_character, len(tokens.charset)
    blanks = log_probabilities[..., tokens.blank]  # (n, frames)
    characters = log_probabilities[..., first : first + count]  # (n, frames, characters)
    beam = _empty(log_probabilities, width, language)
    for frame in range(log_probabilities.shape[1]):
        beam = _advance(beam, blanks[:, frame], characters[:, frame], language, weight)
    own = beam.total
    ends = 0.0 if language is None else language.log_probabilities[beam.states, -1]
    score, order = (own + weight * (beam.language + ends)).sort(dim=1, descending=True, stable=True)
    rows = beam.positions.gather(1, order.unsqueeze(2).expand_as(beam.positions))
    return hypotheses(rows, beam.lengths.gather(1, order), own.gather(1, order), score, tokens.charset)


def _empty(log_probabilities: Tensor, width: int, language: Ngram | None) -> _Prefixes:
    """The empty prefix, certain, and below it none."""
    n, frames, _ = log_probabilities.shape
    impossible = log_probabilities.new_full((n, width), -torch.inf)
    blank = impossible.clone()
    blank[:, 0] = 0
    positions = torch.full((n, width, frames), -1, dtype=torch.int64, device=blank.device)
    return _Prefixes(positions, torch.zeros_like(positions[..., 0]), blank, impossible, torch.zeros_like(blank),
                     None if language is None else language.start_states(n, width))


def _advance(beam: _Prefixes, blank: Tensor, characters: Tensor, language: Ngram | None, weight: float) -> _Prefixes:
    """One frame: blank (n,) and characters (n, characters) are its log probabilities."""
    n, width = beam.blank.shape
    total, last = beam.total, beam.last
    of_last = characters.gather(1, last.clamp(min=0))  # (n, width); an empty prefix has probability 0 of ending in a character
    stay_blank = total + blank.unsqueeze(1)
    stay_character = beam.character + of_last
    append = total.unsqueeze(2) + characters.unsqueeze(1)  # (n, width, characters)
    is_last = torch.arange(append.shape[2], device=append.device) == last.unsqueeze(2)
    append = torch.where(is_last, (beam.blank + of_last).unsqueeze(2), append)
    append, stay_character = _merge(beam, append, stay_character)

    spoken = beam.language.unsqueeze(2).expand_as(append)
    if language is not None:
        spoken = spoken + language.log_probabilities[beam.states, :-1]
    stay = torch.logaddexp(stay_blank, stay_character)
    ranks = torch.cat([stay + weight * beam.language, (append + weight * spoken).flatten(1)], 1)  # (n, width + width * characters)
    chosen = ranks.topk(width, 1).indices
    stays = chosen < width
    of_append = (chosen - width).clamp(min=0)
    parent = torch.where(stays, chosen, of_append // characters.shape[1])
    appended = torch.where(stays, -1, of_append % characters.shape[1])

    positions = beam.positions.gather(1, parent.unsqueeze(2).expand_as(beam.positions))
    lengths = beam.lengths.gather(1, parent)
    place = lengths.unsqueeze(2)  # there is room: a prefix has at most one character for each frame before
    positions = positions.scatter(2, place, torch.where(stays.unsqueeze(2), positions.gather(2, place), appended.unsqueeze(2)))
    states = None if language is None else torch.where(stays, beam.states.gather(1, parent),
                                                       language.following[beam.states.gather(1, parent), appended.clamp(min=0)])
    return _Prefixes(positions, lengths + (~stays).long(),
                     torch.where(stays, stay_blank.gather(1, parent), -torch.inf),
                     torch.where(stays, stay_character.gather(1, parent), append.flatten(1).gather(1, of_append)),
                     torch.where(stays, beam.language.gather(1, parent), spoken.flatten(1).gather(1, of_append)), states)


def _merge(beam: _Prefixes, append: Tensor, stay_character: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the probability of an appended prefix that is in the beam already to that one.

    append (n, width, characters), stay_character (n, width).
    """
    cut = beam.positions.scatter(2, (beam.lengths - 1).clamp(min=0).unsqueeze(2), -1)  # each without its last character
    possible = beam.total > -torch.inf
    is_parent = (beam.positions.unsqueeze(2) == cut.unsqueeze(1)).all(3)  # (n, parent, child)
    is_parent &= possible.unsqueeze(2) & possible.unsqueeze(1) & (beam.lengths > 0).unsqueeze(1)
    last = beam.last.clamp(min=0)
    moved = append.gather(2, last.unsqueeze(1).expand(-1, append.shape[1], -1))  # (n, parent, child)
    moved = torch.where(is_parent, moved, -torch.inf)
    stay_character = torch.logaddexp(stay_character, moved.amax(1))  # a child has one parent
    taken = torch.zeros_like(append).scatter_reduce(2, last.unsqueeze(1).expand_as(is_parent), is_parent.to(append.dtype), "amax")
    return append.masked_fill(taken > 0, -torch.inf), stay_character
