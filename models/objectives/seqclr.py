"""SeqCLR: sequence-to-sequence contrastive learning.

Aberdam et al., "Sequence-to-Sequence Contrastive Learning for Text Recognition", CVPR 2021, arXiv 2012.10873.

Two augmented views of each of B images go through the base encoder f (rectifier, visual encoder, sequence stage), a
projection head per frame, and an instance mapping m that turns T frames into T' instances. With Z = Za u Zb, the
2 B T' instances of both views, and sim the cosine similarity, the paper's noise contrastive loss is

    l(u, v; U) = -log( exp(sim(u, v) / temperature) / sum over w in U without u of exp(sim(u, w) / temperature) )
    L(Za, Zb)  = sum over r of  l(z_r^a, z_r^b; Za u Zb) + l(z_r^b, z_r^a; Za u Zb)

so that the other frames of the same image are negatives too. Here
- L is divided by its 2 B T' terms, as in the authors' later code, so that its size does not depend on the batch;
- the temperature is 0.1 (authors' code);
- the head's hidden layer (of each direction of the LSTM) and its output have `projection_width`. 256, the width of the
  full-size encoders, is the authors' later choice; it is a field so that a small recognizer can have a small head;
- in distributed training U is the union over all ranks, gathered with its gradient (see distributed.py). Each rank
  takes the terms of its own instances, equally many on each, and the mean over the ranks is L.

Where the memory is a map (ABINet, HGA, vision transformers) its rows are averaged into frames, one for each column.

The two views go through f as one batch: batch normalization sees both. Head and mapping are thrown away afterwards;
only f moves on. The decoder takes no part, and is frozen (`requires_grad` False), because distributed training needs a
gradient for every parameter that asks for one: fine-tuning builds a fresh recognizer and loads rectifier, encoder and
sequence stage.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.checks import check_positive
from models.objectives.contrast import contrast
from models.objectives.heads import head as projection_head
from models.objectives.instances import columns_of, memory_of_one, windows_of
from models.recognizer import Recognizer


class SeqCLR(nn.Module):
    """Contrasts parts of words across two views.

    mapping: `all` averages all frames into one instance, `window` averages them into `windows` of equal width,
        `frame` takes every frame for itself.
    head: `none`, `mlp` (linear, ReLU, linear, on each frame) or `bilstm` (one bidirectional LSTM and a linear layer).
    """

    views = {"unlabeled": ("seqclr", "seqclr")}

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        mapping: Literal["all", "window", "frame"] = "window",
        windows: int = 5,
        head: Literal["none", "mlp", "bilstm"] = "bilstm",
        projection_width: int = 256,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive("seqclr", {"windows": windows, "projection_width": projection_width, "temperature": temperature})
        frames, width = columns_of(recognizer, memory_of_one(recognizer)).shape[1:]
        self.instances = {"all": 1, "window": windows, "frame": frames}[mapping]
        if self.instances > frames:
            raise ValueError(f"seqclr expects at most as many windows as the encoder gives frames, found {windows} "
                             f"windows of {frames} frames: lower windows, or use mapping=frame")
        self.recognizer = recognizer
        self.recognizer.decoder.requires_grad_(False)
        self.head = projection_head(head, width, projection_width)
        self.mapping, self.temperature = mapping, temperature

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has two views."""
        first, second = batch.unlabeled.views  # (n, 3, height, width) each
        frames = columns_of(self.recognizer, self.recognizer.encode(torch.cat([first, second])))  # (2 n, frames, memory width)
        projected = self.head(frames)  # (2 n, frames, projection_width)
        instances = self._map(projected)  # (2 n, instances, projection_width)
        loss, matched = contrast(instances.flatten(0, 1), self.temperature)
        return Losses(loss, {"contrastive_loss": loss.detach(), "matched_fraction": matched})

    def _map(self, projected: Tensor) -> Tensor:
        """The instance mapping m: (n, frames, width) -> (n, instances, width)."""
        return projected if self.mapping == "frame" else windows_of(projected, self.instances)

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""
