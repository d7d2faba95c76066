"""Connectionist temporal classification (Graves et al., ICML 2006): one linear layer per frame, best-path reading."""

from itertools import groupby
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.charset import Charset, ctc_tokens
from models.decoders.ctc_loss import ctc_loss, string_losses
from models.decoders.decoded import Decoded, Reading
from models.precision import at_least_float32


class CTCDecoder(nn.Module):
    """Classifies every frame of the memory as a character or as the blank."""

    kind = "ctc"
    stops_early = False

    def __init__(self, charset: Charset, memory_width: int, *, max_length: int = 25, table: str = "benchmark") -> None:
        super().__init__()
        self.tokens = ctc_tokens(charset, table)
        self.max_length = max_length
        self.classifier = nn.Linear(memory_width, self.tokens.classes)

    def forward(self, memory: Tensor, tokens: Tensor | None = None, projection: nn.Module | None = None) -> Decoded:
        """(n, frames, width) -> logits for every frame. `tokens` is ignored: frames do not depend on each other here.

        `projection` (width -> width), if given, is applied to the memory just before the classifier.
        """
        features = memory if projection is None else projection(memory)
        return Decoded(logits=self.classifier(features), glimpses=memory)

    def encode(self, texts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Targets (n, max_length) int64: the characters' ids, padded with 0.

        ValueError for a text that is longer than max_length or holds a character outside the charset.
        """
        targets = torch.zeros(len(texts), self.max_length, dtype=torch.int64)
        for row, text in zip(targets, texts, strict=True):
            ids = self.tokens.ids(text, self.max_length)
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return targets.to(device)

    def inputs(self, targets: Tensor) -> None:
        """Nothing: a CTC decoder is not fed its own output."""
        return None

    def loss(self, decoded: Decoded, targets: Tensor) -> Tensor:
        """The mean over the batch of each sample's negative log likelihood divided by its length.

        A text that cannot be written in so few frames (repeated characters need a blank between) contributes 0.
        """
        log_probabilities = at_least_float32(decoded.logits).log_softmax(-1).transpose(0, 1)  # (frames, n, classes)
        if log_probabilities.is_cuda:
            return ctc_loss(log_probabilities, targets, self.tokens.blank)
        frames = torch.full((targets.shape[0],), decoded.logits.shape[1], dtype=torch.int64, device=targets.device)
        lengths = (targets != self.tokens.blank).sum(1)
        return F.ctc_loss(log_probabilities, targets, frames, lengths, blank=self.tokens.blank, zero_infinity=True)

    def read(self, decoded: Decoded) -> Reading:
        """The best path: the likeliest class of each frame, repeats collapsed, blanks dropped.

        The confidence is the probability of the string, over all its alignments to the frames. A character's probability is the largest of its run of
        frames; their product would say nothing of the frames that were read as blanks and might have been characters.
        """
        log_probabilities = at_least_float32(decoded.logits.detach()).log_softmax(-1)  # (n, frames, classes)
        largest, best = log_probabilities.exp().max(-1)
        texts, characters, strings = [], [], torch.full(best.shape, self.tokens.blank)
        if not len(best):
            return Reading([], torch.empty(0), [])
        for row, (frame_probabilities, frame_ids) in enumerate(zip(largest.tolist(), best.tolist(), strict=True)):
            runs = [(token, max(probability for _, probability in run))
                    for token, run in groupby(zip(frame_ids, frame_probabilities, strict=True), key=itemgetter(0))]
            written = [(token, probability) for token, probability in runs if token != self.tokens.blank]
            texts.append("".join(self.tokens.character(token) for token, _ in written))
            characters.append([probability for token, probability in written if self.tokens.is_character(token)])
            strings[row, :len(written)] = torch.tensor([token for token, _ in written], dtype=torch.int64)
        strings = strings.to(best.device)
        losses = string_losses(log_probabilities.transpose(0, 1), strings, self.tokens.blank)
        confidences = (-losses * (strings != self.tokens.blank).sum(1).clamp(min=1)).exp().clamp(max=1)
        return Reading(texts, confidences.float().cpu(), characters)
