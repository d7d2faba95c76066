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

The two views go through f as one batch: batch normalization sees both (`batches="two"`: each by itself, as in the authors'
later code). Head and mapping are thrown away afterwards; only f moves on. The decoder takes no part, and is frozen (`requires_grad` False), because distributed training needs a
gradient for every parameter that asks for one: fine-tuning builds a fresh recognizer and loads rectifier, encoder and
sequence stage.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.batch import Batch, Losses, View
from models.objectives.checks import check_positive
from models.objectives.contrast import contrast
from models.objectives.heads import head as projection_head
from models.objectives.image_vectors import Features, train_for_vectors
from models.objectives.instances import columns_of, memory_of_one, windows_of
from models.recognizer import Recognizer


class SeqCLR(nn.Module):
    """Contrasts parts of words across two views.

    mapping: `all` averages all frames into one instance, `window` averages them into `windows` of equal width,
        `frame` takes every frame for itself.
    features: `contextual` behind the sequence stage, as in the paper, or `visual` before it, of which the sequence stage learns nothing.
    view: the augmentation of both views; the paper's unless told otherwise.
    head: `none`, `mlp` (linear, ReLU, linear, on each frame) or `bilstm` (one bidirectional LSTM and a linear layer).
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        mapping: Literal["all", "window", "frame"] = "window",
        windows: int = 5,
        head: Literal["none", "mlp", "bilstm"] = "bilstm",
        projection_width: int = 256,
        temperature: float = 0.1,
        features: Features = "contextual",
        batches: Literal["one", "two"] = "one",
        view: View = "seqclr",
    ) -> None:
        super().__init__()
        self.views = {"unlabeled": (view, view)}
        check_positive("seqclr", {"windows": windows, "projection_width": projection_width, "temperature": temperature})
        frames, width = columns_of(recognizer, memory_of_one(recognizer, visual=features == "visual")).shape[1:]
        if features == "visual" and memory_of_one(recognizer, visual=True).shape[1] != memory_of_one(recognizer).shape[1]:
            raise ValueError(f"seqclr expects features: contextual of {recognizer.name or 'this recognizer'}, whose columns are made by the sequence stage, found "
                             "visual")
        self.instances = {"all": 1, "window": windows, "frame": frames}[mapping]
        if self.instances > frames:
            raise ValueError(f"seqclr expects at most as many windows as the encoder gives frames, found {windows} "
                             f"windows of {frames} frames: lower windows, or use mapping=frame")
        self.recognizer, self.features, self.batches = recognizer, features, batches
        train_for_vectors(recognizer, features)
        self.head = projection_head(head, width, projection_width)
        self.mapping, self.temperature = mapping, temperature

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has two views."""
        views = batch.unlabeled.views  # (n, 3, height, width) each
        frames = torch.cat([self._frames(images) for images in ([torch.cat(views)] if self.batches == "one" else views)])  # (2 n, frames, memory width)
        projected = self.head(frames)  # (2 n, frames, projection_width)
        instances = self._map(projected)  # (2 n, instances, projection_width)
        loss, matched = contrast(instances.flatten(0, 1), self.temperature)
        return Losses(loss, {"contrastive_loss": loss.detach(), "matched_fraction": matched})

    def _frames(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) -> (n, frames, memory width)."""
        return columns_of(self.recognizer, self.recognizer.visual(images) if self.features == "visual" else self.recognizer.encode(images))

    def _map(self, projected: Tensor) -> Tensor:
        """The instance mapping m: (n, frames, width) -> (n, instances, width)."""
        return projected if self.mapping == "frame" else windows_of(projected, self.instances)

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""
