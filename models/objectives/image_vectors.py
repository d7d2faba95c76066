"""One vector for each image: what methods that know nothing of sequences compare (SimCLR, MoCo, BYOL, SimSiam, RotNet)."""

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.objectives.instances import memory_of_one
from models.precision import at_least_float32
from models.recognizer import Recognizer

Features = Literal["visual", "contextual"]  # behind the encoder, or behind the sequence stage too


def vectors(recognizer: Recognizer, images: Tensor, features: Features) -> Tensor:
    """(n, 3, height, W) -> (n, width): the mean over all places of the image."""
    frames = recognizer.visual(images) if features == "visual" else recognizer.encode(images)
    return recognizer.cells(frames).mean((1, 2))


def width_of(recognizer: Recognizer, features: Features) -> int:
    """Of the vectors."""
    return memory_of_one(recognizer, visual=features == "visual").shape[2]


def train_for_vectors(recognizer: Recognizer, features: Features) -> None:
    """What vectors are not made by asks for no gradient: the decoder, and for `visual` the sequence stage."""
    recognizer.decoder.requires_grad_(False)
    if features == "visual":
        recognizer.sequence.requires_grad_(False)


def normalised_mlp(widths: list[int], last: Literal["linear", "norm"]) -> nn.Sequential:
    """Linear layers, a BatchNorm and a ReLU behind each but the last; `norm`: a BatchNorm without parameters behind that too. No bias before a norm."""
    layers: list[nn.Module] = []
    for width, out in pairwise(widths[:-1]):
        layers += [nn.Linear(width, out, bias=False), nn.BatchNorm1d(out), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last == "linear"))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last == "norm" else []))


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """The mean over rows of -cos(predicted, target), (n, width) each; no gradient flows into the target."""
    return -F.cosine_similarity(at_least_float32(predicted), at_least_float32(target.detach()), dim=1).mean()


def spread(of: Tensor) -> Tensor:
    """How evenly vectors (n, width) lie around the sphere: 1 if as random directions do, 0 if they are all alike (Chen and He, CVPR 2021, section 4.1)."""
    unit = F.normalize(of.detach().float(), dim=1)
    return unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5
