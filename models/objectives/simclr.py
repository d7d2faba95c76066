"""SimCLR on words: one vector for each image is contrasted, whatever stands in it.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv 2002.05709, as the SeqCLR paper (Aberdam et al.,
CVPR 2021) compares with it:

    SimCLR               h = the mean of the visual features over all places of the image         (features: visual)
    SimCLR-Contextual    the same behind the sequence stage                                       (features: contextual)
    z = W_2 ReLU(W_1 h),   L = the contrast of the 2 B vectors z of both views (see contrast.py)

In SeqCLR's `all` the head runs on each frame before the mean; here the mean comes first. The temperature is SeqCLR's, 0.1, as is the augmentation.
The two views are one batch for batch normalization. What is not used (decoder, and sequence stage for `visual`) rests, and does not move on.
"""

import torch
from torch import nn

from models.batch import Batch, Losses
from models.objectives.checks import check_positive
from models.objectives.contrast import contrast
from models.objectives.heads import head
from models.objectives.image_vectors import Features, spread, train_for_vectors, vectors, width_of
from models.recognizer import Recognizer


class SimCLR(nn.Module):
    """Contrasts whole images across two views.

    features: what is averaged. projection_width: of the head's hidden layer and of its output.
    """

    views = {"unlabeled": ("seqclr", "seqclr")}

    def __init__(self, recognizer: Recognizer, *, features: Features = "visual", projection_width: int = 256, temperature: float = 0.1) -> None:
        super().__init__()
        check_positive("simclr", {"projection_width": projection_width, "temperature": temperature})
        self.recognizer, self.features, self.temperature = recognizer, features, temperature
        self.head = head("mlp", width_of(recognizer, features), projection_width)
        train_for_vectors(recognizer, features)

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has two views."""
        projected = self.head(vectors(self.recognizer, torch.cat(batch.unlabeled.views), self.features))  # (2 n, projection_width)
        loss, matched = contrast(projected, self.temperature)
        return Losses(loss, {"contrastive_loss": loss.detach(), "matched_fraction": matched, "spread": spread(projected)})

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""
