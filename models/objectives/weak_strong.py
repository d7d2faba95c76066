"""What FixMatch and its relatives share: the current weights read the weak view, and learn to read the same in the strong one.

There is no second model. The reading has no gradient. For words (ours; the papers classify single images): the decoder that looks at the strong
view is fed the symbols that were read in the weak one, so that their steps speak of one character; parallel decoders are compared position by
position and CTC by the string that was read. Only the logits that are read learn from unlabeled words; further branches of a decoder (ABINet's
vision and language, other directions and orders) learn from labels alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from models.batch import Batch
from models.decoders.decoded import Decoded
from models.objectives.distances import hard_distances
from models.objectives.readings import GreedyReading, read
from models.recognizer import Recognizer

VIEWS = {"labeled": ("strong",), "unlabeled": ("weak", "strong")}


@dataclass
class Branches:
    """What one step computes of n labeled and m unlabeled words."""

    labeled: Decoded  # (n, ...) fed with the labels
    weak_logits: Tensor  # (m, steps, classes) without gradient
    reading: GreedyReading  # of these
    online: Decoded  # (m, ...) of the strong view, fed with the reading
    own: GreedyReading  # what these say themselves


def branches(recognizer: Recognizer, batch: Batch, score: str, use_cat: bool = False) -> Branches:
    """Labeled words (one view, targets), the weak view read, the strong view fed with what was read.

    use_cat: labeled, weak and strong images go through the encoder in one batch of the current mode, and share its BatchNorm statistics. Else each
    has a pass of its own, and the weak view is read in eval mode, as the recognizer reads when it is used.
    """
    decoder = recognizer.decoder
    (labeled_view,), (weak, strong) = batch.labeled.views, batch.unlabeled.views
    if use_cat:
        sizes = [len(labeled_view), len(weak), len(strong)]
        labeled_memory, weak_memory, strong_memory = recognizer.encode(torch.cat([labeled_view, weak, strong])).split(sizes)
        labeled = decoder(labeled_memory, decoder.inputs(batch.labeled.targets))
        with torch.no_grad(), to_the_end(recognizer):
            weak_logits = decoder(weak_memory.detach()).logits
    else:
        labeled = recognizer(labeled_view, decoder.inputs(batch.labeled.targets))
        with torch.no_grad(), in_use(recognizer):
            weak_logits, strong_memory = recognizer(weak).logits, None
    reading = read(weak_logits, decoder.tokens, score)
    online = decoder(recognizer.encode(strong) if strong_memory is None else strong_memory, reading.inputs)
    return Branches(labeled, weak_logits, reading, online, read(online.logits, decoder.tokens, score))


def check_use_cat(objective: str, recognizer: Recognizer, use_cat: bool) -> None:
    """ValueError where images of several widths would have to lie in one batch."""
    if use_cat and recognizer.aspect == "keep":
        raise ValueError(f"{objective} expects images of one width for use_cat, found a recognizer with aspect keep: use aspect pad or stretch, "
                         "or use_cat=false")


def word_consistency(reading: GreedyReading, logits: Tensor, weights: Tensor, tokens) -> Tensor:
    """The mean over ALL n words of weight times `hard_distances`: words of weight 0 stay in the denominator. weights (n,), bools or numbers."""
    return (hard_distances(reading, logits, tokens) * weights).mean()


@contextmanager
def to_the_end(recognizer: Recognizer) -> Iterator[None]:
    """Reads all steps: whether all words have ended is a question for which the host would wait for the device."""
    early, recognizer.decoder.stops_early = recognizer.decoder.stops_early, False
    try:
        yield
    finally:
        recognizer.decoder.stops_early = early


@contextmanager
def in_use(recognizer: Recognizer) -> Iterator[None]:
    """Reads in eval mode and all steps; afterwards every module is in the mode that it was in."""
    training = [module for module in recognizer.modules() if module.training]
    recognizer.eval()
    try:
        with to_the_end(recognizer):
            yield
    finally:
        for module in training:
            module.training = True
