"""SimSiam: two views predict each other, without negatives and without a second model.

Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv 2011.10566, equation 2:

    z = projection(h),  p = predictor(z),   L = 1/2 D(p_1, stopgrad(z_2)) + 1/2 D(p_2, stopgrad(z_1)),   D = -cosine

h is an image's vector (see image_vectors.py). The projection has three linear layers, a BatchNorm behind each, the last without parameters; the predictor
two, with a bottleneck of a quarter of the width between them. Each view is a pass of its own. Without stopgrad it collapses: `spread` then falls to 0.
"""

from torch import nn

from models.batch import Batch, Losses
from models.objectives.checks import check_positive
from models.objectives.image_vectors import Features, negative_cosine, normalised_mlp, spread, train_for_vectors, vectors, width_of
from models.recognizer import Recognizer


class SimSiam(nn.Module):
    """Predicts one view of an image from the other.

    projection_width: of projection and prediction; the paper's 2048 is for a ResNet-50. bottleneck: of the predictor, a quarter unless told otherwise.
    """

    views = {"unlabeled": ("seqclr", "seqclr")}

    def __init__(self, recognizer: Recognizer, *, features: Features = "visual", projection_width: int = 2048,
                 bottleneck: int | None = None) -> None:
        super().__init__()
        bottleneck = max(1, projection_width // 4) if bottleneck is None else bottleneck
        check_positive("simsiam", {"projection_width": projection_width, "bottleneck": bottleneck})
        self.recognizer, self.features = recognizer, features
        self.projection = normalised_mlp([width_of(recognizer, features), *[projection_width] * 3], "norm")
        self.predictor = normalised_mlp([projection_width, bottleneck, projection_width], "linear")
        train_for_vectors(recognizer, features)

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has two views."""
        first, second = (self.projection(vectors(self.recognizer, view, self.features)) for view in batch.unlabeled.views)  # (n, projection_width)
        loss = (negative_cosine(self.predictor(first), second) + negative_cosine(self.predictor(second), first)) / 2
        return Losses(loss, {"cosine_loss": loss.detach(), "spread": spread(first)})

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""
