"""Supervised recognition: the decoder's own loss on labeled words.

Baek et al., "What Is Wrong With Scene Text Recognition Model Comparisons?", ICCV 2019, arXiv 1904.01906: connectionist
temporal classification for a CTC decoder, cross-entropy per symbol with teacher forcing for an attention decoder. That
benchmark trains without augmentation (`view="none"`); the default is the strong policy that CCR (arXiv 2204.07714)
gives its labeled images, so that the two compare at equal augmentation.
"""

from typing import Literal

from torch import nn

from models.batch import Batch, Losses
from models.recognizer import Recognizer


class Supervised(nn.Module):
    """L = the decoder's loss on the labeled part."""

    def __init__(self, recognizer: Recognizer, *, view: Literal["none", "weak", "strong"] = "strong") -> None:
        super().__init__()
        self.recognizer = recognizer
        self.views = {"labeled": (view,)}

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose labeled part has one view and targets."""
        (images,) = batch.labeled.views
        targets = batch.labeled.targets
        decoded = self.recognizer(images, self.recognizer.decoder.inputs(targets))
        loss = self.recognizer.decoder.loss(decoded, targets)
        return Losses(loss, {"recognition_loss": loss.detach()})

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""
