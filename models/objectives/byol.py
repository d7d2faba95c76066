"""BYOL: the online model predicts what its moving average says of another view.

Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv 2006.07733:

    online:  z = projection(h),  p = predictor(z)          target:  z' = projection'(h') of the averaged model, no gradient
    L = 1/2 (D(p_1, z'_2) + D(p_2, z'_1)),   D = -cosine                          (equation 2; the paper's 2 - 2 cosine has another offset and factor)
    xi <- tau xi + (1 - tau) theta,   tau = 1 - (1 - tau_0) (cos(pi k / (K - 1)) + 1) / 2     (section 3.3; k steps of K are done)

h is an image's vector (see image_vectors.py); projection and predictor are linear, BatchNorm, ReLU, linear. Each view is a pass of its own in both
models. The target is in the mode of the online model, with batch statistics when training, and keeps running statistics of its own.
"""

import math

import torch
from torch import nn

from models.batch import Batch, Losses
from models.objectives.checks import check_decay, check_positive, check_steps
from models.objectives.image_vectors import Features, negative_cosine, normalised_mlp, spread, train_for_vectors, vectors, width_of
from models.objectives.moving_average import follow, follower
from models.recognizer import Recognizer


class BYOL(nn.Module):
    """Predicts the average's vector of one view from the other view.

    projection_width, hidden_width: of projection and predictor; the paper's 256 and 4096 are for a ResNet-50.
    ema_decay: tau_0. ramp_steps: K, the steps of the run, over which the decay rises to 1; null: it stays.

    The target starts as a copy: load pretrained weights before building this.
    """

    views = {"unlabeled": ("seqclr", "seqclr")}

    def __init__(self, recognizer: Recognizer, *, features: Features = "visual", projection_width: int = 256, hidden_width: int = 4096,
                 ema_decay: float = 0.996, ramp_steps: int | None = None) -> None:
        super().__init__()
        check_positive("byol", {"projection_width": projection_width, "hidden_width": hidden_width})
        check_decay("byol", "ema_decay", ema_decay, 0.996)
        check_steps("byol", "ramp_steps", ramp_steps, needed=False)
        self.recognizer, self.features = recognizer, features
        self.projection = normalised_mlp([width_of(recognizer, features), hidden_width, projection_width], "linear")
        self.predictor = normalised_mlp([projection_width, hidden_width, projection_width], "linear")
        train_for_vectors(recognizer, features)
        self.target, self.target_projection = follower(recognizer), follower(self.projection)
        self.ema_decay, self.ramp_steps = ema_decay, ramp_steps

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has two views."""
        views = batch.unlabeled.views
        first, second = (self.projection(vectors(self.recognizer, view, self.features)) for view in views)  # (n, projection_width)
        with torch.no_grad():
            of_first, of_second = (self.target_projection(vectors(self.target, view, self.features)) for view in views)
        loss = (negative_cosine(self.predictor(first), of_second) + negative_cosine(self.predictor(second), of_first)) / 2
        return Losses(loss, {"cosine_loss": loss.detach(), "spread": spread(first)})

    def after_step(self, step: int) -> None:
        """Moves the target, as far as the schedule says for the step, which counts from 1."""
        decay = self.ema_decay if self.ramp_steps is None else cosine_decay(self.ema_decay, step - 1, self.ramp_steps)
        follow(self.target, self.recognizer, decay, buffers=False)
        follow(self.target_projection, self.projection, decay, buffers=False)


def cosine_decay(start: float, done: int, steps: int) -> float:
    """From `start` at the first of so many steps to 1 at the last, along half a cosine."""
    return 1 - (1 - start) * (math.cos(math.pi * min(1, done / max(1, steps - 1))) + 1) / 2
