"""Reading with a lexicon: the word of a list that the recognizer holds for the likeliest.

Small lexicons (SVT's 50 words, IIIT5K's 50 and 1,000) are scored word by word. In a large one only the words near the greedy reading are:
those within an edit distance of 3, as in "An end-to-end trainable neural network for image-based sequence recognition" (Shi, Bai and Yao,
TPAMI 2017, section 2.3.2, where a BK-tree finds them; here a lower bound from the words' letters does). If there is none, the nearest are.

The score of a word is its exact log probability:
    CTC         the forward algorithm (Graves et al., ICML 2006), all pairs of image and word in batches;
    attention   the sum of the log-softmaxes of its symbols, the end included, when the decoder is fed with the word (teacher forcing);
    parallel    the same sum, from the decoder's own outputs.
A decoder that writes in two directions is scored from left to right. Confidence is what the lexicon leaves: p(word | image) divided by the
sum of that of all words that were scored.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.charset import Charset
from models.decoders.decoded import Decoded, Reading
from models.decoders.decoder import Decoder
from models.decoders.symbols import encode_symbols
from models.decoding.hypotheses import whole_strings
from models.decoding.temperature import log_probabilities

MOST_SCORED = 1000  # words: in a larger lexicon only those near the greedy reading are scored
NEAR = 3  # edits
PAIRS = 4096  # of image and word, scored at a time
BAGS = 64  # the letters of a large alphabet share bags, which keeps a lower bound a lower bound


class Lexicon:
    """Distinct words that a recognizer can write, in the order in which they came.

    They are spelled as the charset spells them. Left out are words with a character outside it, words longer than max_length, empty ones.
    """

    def __init__(self, words: Sequence[str], charset: Charset, max_length: int) -> None:
        """ValueError if no word is left."""
        self.charset, self.max_length = charset, max_length
        spelled = dict.fromkeys(charset.normalise(word) for word in words)
        self.words = [word for word in spelled if 0 < len(word) <= max_length and not charset.outside(word)]
        if not self.words:
            raise ValueError(f"expected words of at most {max_length} characters out of the charset's {len(charset)}, found none among "
                             f"{len(spelled):,} words: check the lexicon")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each word, from 0."""
        return {word: place for place, word in enumerate(self.words)}

    @cached_property
    def positions(self) -> np.ndarray:
        """(words, longest) of the characters in the charset; -1 behind a word."""
        rows = np.full((len(self.words), max(map(len, self.words))), -1, np.int32)
        for row, word in zip(rows, self.words, strict=True):
            row[: len(word)] = [self.charset.index[character] for character in word]
        return rows

    @cached_property
    def lengths(self) -> np.ndarray:
        """(words,)."""
        return np.array([len(word) for word in self.words])

    @cached_property
    def _letters(self) -> np.ndarray:
        """(BAGS, words): how many characters of each word fall into each bag."""
        letters = np.zeros((BAGS, len(self.words)), np.int16)
        rows, columns = np.nonzero(self.positions >= 0)
        np.add.at(letters, (self.positions[rows, columns] % BAGS, rows), 1)
        return letters

    def near(self, text: str, edits: int = NEAR) -> list[int]:
        """The places of the words within so many edits of a text; if there is none, of the words with the fewest."""
        wanted = [self.charset.index[character] for character in text if character in self.charset.index]
        # An edit puts at most one new letter into the bags: no word is nearer than what it lacks of the longer one's letters.
        shared = sum((np.minimum(count, self._letters[bag]) for bag, count in Counter(position % BAGS for position in wanted).items()),
                     np.zeros(len(self.words), np.int16))
        bound = np.maximum(len(wanted), self.lengths) - shared
        while True:
            places = np.flatnonzero(bound <= edits)
            distances = edit_distances(wanted, self.positions[places], self.lengths[places])
            if (distances <= edits).any():
                return places[distances <= edits].tolist()
            edits += 1


def edit_distances(one: list[int], others: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Levenshtein's distance of `one` to each row of `others` (words, longest), of which the first `lengths` count: (words,) int16."""
    step = np.arange(others.shape[1] + 1, dtype=np.int16)
    row = np.repeat(step[None], len(others), 0)  # (words, longest + 1): from the empty beginning of `one` to each beginning of a word
    for place, character in enumerate(one, 1):
        substituted = row[:, :-1] + (others != character)
        row[:, 0], row[:, 1:] = place, np.minimum(substituted, row[:, 1:] + 1)
        row = np.minimum.accumulate(row - step, 1) + step  # a run of insertions costs its length
    return row[np.arange(len(others)), lengths]


def lexicon_reading(decoder: Decoder, memory: Tensor, lexicon: Lexicon, places: list[list[int]] | None = None, *, temperature: float = 1.0
                    ) -> Reading:
    """(n, frames, width) -> for each image the likeliest word of the lexicon.

    places: the words that each image may hold, at least one; if it is None all of the lexicon's, pruned where they are over MOST_SCORED.
    temperature: what the decoder's logits are divided by.
    """
    with torch.no_grad():
        decoded = decoder(memory)
        places = _considered(decoder, decoded, lexicon) if places is None else places
        counts = torch.tensor([len(each) for each in places])
        words = [lexicon.words[place] for each in places for place in each]
        images = torch.repeat_interleave(torch.arange(len(places)), counts)  # (pairs,)
        lengths = torch.tensor([len(word) for word in words])
        scores = memory.new_empty(len(words), dtype=torch.promote_types(decoded.logits.dtype, torch.float32))
        for pairs in lengths.argsort(stable=True).split(PAIRS):  # words of like lengths together: fewer steps
            some = [words[pair] for pair in pairs.tolist()]
            scores[pairs] = _scores(decoder, memory, decoded.logits, images[pairs].to(memory.device), some, temperature)
    return _likeliest(scores.cpu().split(counts.tolist()), words)


def _considered(decoder: Decoder, decoded: Decoded, lexicon: Lexicon) -> list[list[int]]:
    """The places of the words to score for each image."""
    if len(lexicon) <= MOST_SCORED:
        return [list(range(len(lexicon)))] * len(decoded.logits)
    return [lexicon.near(text) for text in decoder.read(decoded).texts]


def _scores(decoder: Decoder, memory: Tensor, logits: Tensor, images: Tensor, words: list[str], temperature: float) -> Tensor:
    """log p(word | image) of pairs: images (pairs,) are rows of the memory and of the decoder's own logits."""
    tokens, longest = decoder.tokens, max(map(len, words))
    if decoder.kind == "ctc":
        log_p = log_probabilities(logits, temperature).transpose(0, 1)[:, images]  # (frames, pairs, classes)
        lengths = [len(word) for word in words]
        targets = torch.tensor([position for word in words for position in tokens.ids(word, longest)])
        frames = torch.full_like(images, log_p.shape[0])
        return -F.ctc_loss(log_p, targets.to(images.device), frames, torch.tensor(lengths, device=images.device),
                           blank=tokens.blank, reduction="none")
    rows = encode_symbols(words, tokens, longest).to(images.device)  # (pairs, longest + 2): start, characters, end, padding
    own = decoder(memory[images], rows[:, :-1]).logits if decoder.kind == "attention" else logits[images, : longest + 1]
    targets = rows[:, 1:]
    counted = (targets == tokens.end).cumsum(1) - (targets == tokens.end).long() == 0  # up to the end symbol
    # Padding may be no class at all; where it stands nothing is counted.
    of_symbols = log_probabilities(own, temperature).gather(2, targets.where(counted, 0).unsqueeze(2)).squeeze(2)
    return of_symbols.where(counted, 0).sum(1)


def _likeliest(scores: tuple[Tensor, ...], words: list[str]) -> Reading:
    """The best word of each image's own; one that cannot be written in so few frames has confidence 0."""
    texts, confidences, first = [], [], 0
    for own in scores:
        best = int(own.argmax())
        texts.append(words[first + best])
        confidences.append(float(own.softmax(0)[best].nan_to_num(0.0)))
        first += len(own)
    return whole_strings(texts, confidences)
