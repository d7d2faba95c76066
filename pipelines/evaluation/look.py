"""What an encoder that learns from images alone makes of a few of them, for a person to look at: its views, neighbours, frames and codebooks.

Labels are shown where the rows have them. They are withheld from training, and nothing learns from them here.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.recognizer import Recognizer
from pipelines.augmentation.views import augment
from pipelines.evaluation.features import SEED, border_colours, memories
from pipelines.reading.batches import evaluating
from pipelines.state import parse_json

VIEWED, NEIGHBOURS_OF, NEAREST, FRAMES_OF = 8, 8, 4, 6  # images of each kind


@dataclass(frozen=True)
class Thumb:
    """An image as the encoder gets it: a PNG in base64. `label`: None where none is known."""

    picture: str
    label: str | None


@dataclass(frozen=True)
class Viewed:
    """An image and the views in which the objective sees it."""

    image: Thumb
    views: list[str]  # PNGs in base64


@dataclass(frozen=True)
class Neighbours:
    """An image and those whose features lie nearest: cosine of the centred parts of the word, the nearest first."""

    image: Thumb
    near: list[Thumb]
    similarity: list[float]


@dataclass(frozen=True)
class Frames:
    """How alike the frames of a word are: the cosine of every pair, from 0 to 255 for -1 to 1, a gray PNG in base64."""

    image: Thumb
    similarity: str


@dataclass(frozen=True)
class Place:
    """Where an image's vector lies on the two principal axes of all, each from 0 to 1. `ground`: the brightness of its border, from 0 to 1."""

    x: float
    y: float
    label: str | None
    ground: float


@dataclass(frozen=True)
class Look:
    """All of it, of one validation. `codebooks`: for each, by name, how many positions chose each entry, the most used first."""

    step: int
    images: int
    view_names: list[str]
    viewed: list[Viewed]
    neighbours: list[Neighbours]
    frames: list[Frames]
    places: list[Place]
    codebooks: dict[str, list[int]]

    def to_json(self) -> bytes:
        """As a file's content."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, file: str) -> "Look":
        """Raises BadInput."""
        return parse_json(data, cls, file, "remove it; the next validation writes it again")


def look(objective: nn.Module, images: Tensor, labels: Sequence[str | None], step: int) -> Look:
    """Of images (n, 3, height, width) uint8 of the recognizer's shape, at least 4; all modes are restored."""
    recognizer, thumbs = objective.recognizer, [Thumb(png(pixels), label) for pixels, label in zip(images, labels, strict=True)]
    parts = memories(recognizer, images, "none", 256)  # (n, PARTS, width)
    return Look(step, len(images), list(objective.views["unlabeled"]), viewed(objective.views["unlabeled"], images, thumbs), neighbours(parts, thumbs),
                frames(recognizer, images, thumbs), places(parts.mean(1), border_colours(images), labels), codebooks(objective, images))


def viewed(names: Sequence[str], images: Tensor, thumbs: Sequence[Thumb]) -> list[Viewed]:
    """The first images in their views; none where the objective takes images as they are."""
    if set(names) <= {"none"}:
        return []
    generator = torch.Generator().manual_seed(SEED)
    drawn = [augment(images[:VIEWED], name, generator) for name in names]
    shown = [[png(((pixels + 1) * 127.5).round().clamp(0, 255).byte()) for pixels in view] for view in drawn]
    return [Viewed(thumb, list(each)) for thumb, *each in zip(thumbs, *shown, strict=False)]


def neighbours(parts: Tensor, thumbs: Sequence[Thumb]) -> list[Neighbours]:
    """Of some images, evenly spread. parts: (n, PARTS, width)."""
    unit = F.normalize(F.normalize(parts - parts.mean(0), dim=2).flatten(1), dim=1)
    closeness = (unit @ unit.t()).fill_diagonal_(-torch.inf)
    values, rows = closeness.topk(min(NEAREST, len(parts) - 1), 1)
    return [Neighbours(thumbs[row], [thumbs[other] for other in rows[row].tolist()], values[row].tolist()) for row in _spread(len(parts), NEIGHBOURS_OF)]


def frames(recognizer: Recognizer, images: Tensor, thumbs: Sequence[Thumb]) -> list[Frames]:
    """Of some images, evenly spread; frames less the mean of all frames shown."""
    chosen = _spread(len(images), FRAMES_OF)
    with evaluating(recognizer), torch.inference_mode():
        pixels = augment(images[chosen].to(next(recognizer.parameters()).device), "none", torch.Generator())
        columns = recognizer.cells(recognizer.encode(pixels)).mean(1).double().cpu()  # (n, columns, width)
    unit = F.normalize(columns - columns.mean((0, 1)), dim=2)
    alike = ((unit @ unit.transpose(1, 2) + 1) * 127.5).round().clamp(0, 255).byte()  # (n, columns, columns)
    return [Frames(thumbs[row], _png(matrix.numpy())) for row, matrix in zip(chosen, alike, strict=True)]


def places(vectors: Tensor, colours: Tensor, labels: Sequence[str | None]) -> list[Place]:
    """Vectors (n, width) float64 and the colours of their grounds (n, 3) -> a place each. An axis points to where its largest share is positive."""
    centred = vectors - vectors.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    flat = centred @ axes.t()
    flat = (flat - flat.amin(0)) / (flat.amax(0) - flat.amin(0)).clamp(min=1e-12)
    flat = F.pad(flat, (0, 2 - flat.shape[1]))
    return [Place(round(x, 4), round(y, 4), label, round(ground / 255, 3))
            for (x, y), label, ground in zip(flat.tolist(), labels, colours.mean(1).tolist(), strict=True)]


def codebooks(objective: nn.Module, images: Tensor) -> dict[str, list[int]]:
    """Of an objective that quantizes."""
    if not hasattr(objective, "codes_chosen"):
        return {}
    device = next(objective.parameters()).device
    with evaluating(objective), torch.inference_mode():
        counts = objective.codes_chosen(augment(images.to(device), "none", torch.Generator()))
    return {f"{level}, codebook {number + 1}": sorted(book.tolist(), reverse=True) for level, books in counts.items() for number, book in enumerate(books)}


def png(pixels: Tensor) -> str:
    """(3, height, width) uint8 -> a PNG in base64."""
    return _png(pixels.permute(1, 2, 0).flip(2).cpu().numpy())


def _png(pixels: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()).decode()


def _spread(count: int, wanted: int) -> list[int]:
    wanted = min(wanted, count)
    return [number * count // wanted for number in range(wanted)]
