"""BCN: ABINet's language model learns to spell from texts alone, before it sees an image.

Fang et al., "Read Like Humans", CVPR 2021, section 3.2; SemiMTR's second stage of pretraining (Aberdam et al., 2022, section 4.2):

    L = the mean over the characters and end symbols of all words of the batch of CE(language model(word), word)

The word goes in as one-hot symbols. Its length is told; what the model says of a place it says from all other places, as its attention never sees the place
itself (see decoders/language.py). Vision head, fusion and encoder rest: `initialize_from` this run brings the language model into vision pretraining or fusion.

Words are drawn from a text as often as they stand in it, every step anew, from the step's seed: a run that goes on draws what it would have drawn. Those that
the recognizer cannot write, or are longer than it writes, are left out; upper and lower case are as the charset has them.

Offered, and off in the released configurations:
- `smoothing`: the input is (1 - d) one-hot + d noise, d uniform below it for each symbol, the noise uniform and of sum 1.
- `mutation`: misspelt input, the word itself as target: 70 % of the words unchanged, 15 % with one edit, 10 % two, 5 % three; of words of 2 to 4 characters at most
  one, of longer ones at most half as many as they have; none of one character, and none of words half of which or more are digits. An edit replaces (70 %), inserts
  before (15 %) or deletes (15 %) a character that is drawn evenly; what comes in is a letter. A word that fills all steps gets nothing inserted.
"""

import re
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import own
from models.batch import Batch, Losses
from models.charset import Charset
from models.decoders.abinet import ABINetDecoder
from models.objectives.checks import check_positive, check_thresholds
from models.objectives.distributed import over_all_ranks
from models.recognizer import Recognizer

EDITS = (0.70, 0.15, 0.10, 0.05)  # how many words get 0, 1, 2 and 3
REPLACE, INSERT = 0.70, 0.85  # below the first an edit replaces, below the second it inserts, else it deletes


class BCN(nn.Module):
    """Pretrains the language model of an ABINet.

    texts: a file of text in UTF-8, such as WikiText-103's, of which the words between spaces are taken.
    batch_size: words a step and worker.
    """

    views: dict[str, tuple[str, ...]] = {}  # no images
    files = ("texts",)  # fields that name files, which workers may not have

    def __init__(self, recognizer: Recognizer, *, texts: str, batch_size: int = 4096, smoothing: float = 0.0, mutation: bool = False) -> None:
        super().__init__()
        check_positive("bcn", {"batch_size": batch_size})
        check_thresholds("bcn", {"smoothing": smoothing})
        decoder = recognizer.decoder
        if not isinstance(decoder, ABINetDecoder) or decoder.iterations == 0:
            raise ValueError(f"bcn expects an abinet with a language model, which it trains, found {recognizer.name or 'another recognizer'}"
                             + (" with iterations: 0" if isinstance(decoder, ABINetDecoder) else "") + ": take abinet or abinet_small")
        self.recognizer, self.batch_size, self.smoothing, self.mutation = recognizer, batch_size, smoothing, mutation
        recognizer.requires_grad_(False)
        decoder.language.requires_grad_(True)
        counted = words_of(own.text(texts), recognizer.charset, recognizer.max_length)
        if not counted:
            raise ValueError(f"{texts}: expected words of 1 to {recognizer.max_length} characters of the charset, found none")
        shares = torch.tensor(list(counted.values()), dtype=torch.float64)
        self.register_buffer("words", decoder.encode(list(counted), torch.get_default_device()).to(torch.int32), persistent=False)  # (words, steps + 1)
        self.register_buffer("bounds", shares.cumsum(0) / shares.sum(), persistent=False)  # in [0, 1], where each word's share of the text ends
        letters = [number for number, character in enumerate(recognizer.charset.characters) if character.isalpha()]
        if mutation and not letters:
            raise ValueError("bcn expects a charset with letters where mutation is true, found none: leave mutation out")
        self.register_buffer("shares_of_edits", torch.tensor(EDITS).cumsum(0)[:-1], persistent=False)
        digits = [number for number, character in enumerate(recognizer.charset.characters) if character.isdigit()]
        first = decoder.tokens.first_character
        self.register_buffer("letters", torch.tensor(letters, dtype=torch.int64) + first, persistent=False)
        self.register_buffer("digits", torch.tensor(digits, dtype=torch.int64) + first, persistent=False)
        # The same on all ranks and never changed: nothing to send before each step.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, ["words", "bounds", "letters", "digits", "shares_of_edits"])

    def forward(self, batch: Batch) -> Losses:
        """The loss of words that are drawn anew; the batch holds no images."""
        place = torch.rand(self.batch_size, dtype=torch.float64, device=self.bounds.device)
        return self.loss_of(self.words[torch.searchsorted(self.bounds, place).clamp(max=len(self.bounds) - 1)].long())

    def loss_of(self, targets: Tensor) -> Losses:
        """Targets (n, steps + 1) int64: start, characters, end, padding, as the decoder encodes them."""
        decoder = self.recognizer.decoder
        given = targets[:, 1:]  # (n, steps)
        lengths = decoder.tokens.is_character(given).sum(1)
        if self.mutation:
            given, lengths = self.misspelt(given, lengths)
        inside = torch.arange(given.shape[1], device=given.device) < lengths.unsqueeze(1)
        given = given.where(inside, decoder.tokens.end)  # behind the word stand end symbols, which are not looked at
        logits = decoder.language(self.smoothed(one_hot(given, decoder.tokens.classes)), (lengths + 1).clamp(min=2))[1]
        count = decoder.tokens.is_character(targets).sum() + len(targets)  # each word has one end symbol
        (everyones,), ranks = over_all_ranks(count.view(1))
        loss = decoder.branch_loss(logits, targets) * count * ranks / everyones
        right = (logits.detach().argmax(2) == targets[:, 1:]) & decoder.tokens.is_character(targets[:, 1:])
        return Losses(loss, {"spelling_loss": loss.detach(), "characters_right": right.sum() / decoder.tokens.is_character(targets).sum()})

    def smoothed(self, symbols: Tensor) -> Tensor:
        """(n, steps, classes), one-hot -> the same with noise, whose rows still add up to 1."""
        if not self.smoothing:
            return symbols
        share = torch.rand(*symbols.shape[:2], 1, device=symbols.device) * self.smoothing
        noise = torch.rand_like(symbols)
        return (1 - share) * symbols + share * noise / noise.sum(2, keepdim=True)

    def misspelt(self, given: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols (n, steps) int64 of words of these lengths (n,) -> other symbols and lengths."""
        wanted = torch.bucketize(torch.rand(len(given), device=given.device), self.shares_of_edits, right=True)
        most = torch.where(lengths <= 4, (lengths > 1).long(), lengths // 2)
        inside = torch.arange(given.shape[1], device=given.device) < lengths.unsqueeze(1)
        digits = (torch.isin(given, self.digits) & inside).sum(1)
        edits = torch.minimum(wanted, most).where(2 * digits < lengths, 0)
        for number in range(len(EDITS) - 1):
            draws = torch.rand(3, len(given), device=given.device)
            changed, changed_lengths = edited(given, lengths, draws[0], draws[1], self.letters[(draws[2] * len(self.letters)).long()])
            given = torch.where((number < edits).unsqueeze(1), changed, given)
            lengths = torch.where(number < edits, changed_lengths, lengths)
        return given, lengths

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""


def words_of(text: str, charset: Charset, longest: int) -> Counter[str]:
    """The words between spaces that the charset can write, as it spells them, and how often each stands there; in the order of their first."""
    found: Counter[str] = Counter()
    for word, count in Counter(each.group() for each in re.finditer(r"\S+", text)).items():  # one by one: a corpus of texts may be large
        word = charset.normalise(word)
        if word and not charset.fault(word, longest):
            found[word] += count
    return found


def one_hot(symbols: Tensor, classes: int) -> Tensor:
    """(n, steps) int64 -> (n, steps, classes) float32. F.one_hot would wait for the device."""
    return torch.zeros(*symbols.shape, classes, device=symbols.device).scatter_(2, symbols.unsqueeze(2), 1)


def edited(given: Tensor, lengths: Tensor, place: Tensor, kind: Tensor, letter: Tensor) -> tuple[Tensor, Tensor]:
    """One edit of each word.

    given: (n, steps) int64, of whose symbols the first `lengths` (n,) are the word. place, kind: (n,) in [0, 1): where in the word, and whether it replaces,
    inserts or deletes. letter: (n,) int64, what comes in.
    """
    steps = given.shape[1]
    at = torch.minimum((place * lengths).long(), lengths - 1).clamp(min=0).unsqueeze(1)  # (n, 1)
    inserts = (kind >= REPLACE) & (kind < INSERT) & (lengths < steps - 1)  # the last step is the end symbol's
    deletes = (kind >= INSERT) & (lengths > 1)
    replaces = kind < REPLACE
    columns = torch.arange(steps, device=given.device).expand_as(given)
    source = columns - (inserts.unsqueeze(1) & (columns > at)).long() + (deletes.unsqueeze(1) & (columns >= at)).long()
    moved = given.gather(1, source.clamp(0, steps - 1))
    comes_in = (columns == at) & (replaces | inserts).unsqueeze(1)
    return torch.where(comes_in, letter.unsqueeze(1), moved), lengths + inserts.long() - deletes.long()
