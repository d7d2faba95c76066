"""RotNet: which way up is an image?

Gidaris et al., ICLR 2018, arXiv 1803.07728, on words by Baek et al., "What if we only use real datasets for scene text recognition?", CVPR 2021,
arXiv 2103.04400:

    L = the mean over images and their four rotations r of CE(W mean over all places of f(rotated image), r)

Rotations are 0, 90, 180 and 270 degrees against the clock, the four of one image side by side in the batch; f are the visual features.

Otherwise than theirs: they rotate the crop and resize it afterwards to height x width. Here the resized image is rotated and resized again, so that of an
upright word as much is lost as there, and of a standing one a little more. Resizing is bicubic with antialiasing, as Pillow's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch, Losses
from models.objectives.image_vectors import train_for_vectors, vectors, width_of
from models.recognizer import Recognizer


class RotNet(nn.Module):
    """Classifies the four rotations of each image."""

    views = {"unlabeled": ("none",)}

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        if recognizer.aspect != "stretch":
            raise ValueError(f"rotnet expects images that fill their width, found a recognizer with aspect {recognizer.aspect}: what fills the rest would tell which "
                             "way up an image is; use aspect stretch")
        self.recognizer = recognizer
        self.classifier = nn.Linear(width_of(recognizer, "visual"), 4)
        train_for_vectors(recognizer, "visual")

    def forward(self, batch: Batch) -> Losses:
        """The loss of a batch whose unlabeled part has one view."""
        (images,) = batch.unlabeled.views
        logits = self.classifier(vectors(self.recognizer, rotations(images), "visual"))  # (4 n, 4)
        labels = torch.arange(4, device=images.device).repeat(len(images))
        loss = F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels)
        return Losses(loss, {"rotation_loss": loss.detach(), "rotation_accuracy": (logits.detach().argmax(1) == labels).float().mean()})

    def after_step(self, step: int) -> None:
        """Nothing: the optimizer's step is the whole of it."""


def rotations(images: Tensor) -> Tensor:
    """(n, channels, H, W) in [-1, 1] -> (4 n, channels, H, W): each image turned by 0, 90, 180 and 270 degrees against the clock."""
    turned = [torch.rot90(images, number, (2, 3)) for number in range(4)]
    for number in (1, 3):
        turned[number] = F.interpolate(turned[number], images.shape[2:], mode="bicubic", antialias=True).clamp(-1, 1)
    return torch.stack(turned, 1).flatten(0, 1)
