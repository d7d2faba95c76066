"""Views of a labeled part that show the label instead of the image: its base image (see pipelines/synthesis/base_images.py).

base          the base image as it is drawn.
base_strong   the base image as the view `strong` shows it: what ViSu's code does (Qu et al., NeurIPS 2024).
"""

from functools import lru_cache

import torch
from torch import Generator, Tensor

from models.batch import Part
from models.charset import Charset, Tokens
from models.recognizer import Recognizer
from pipelines.augmentation.views import augment
from pipelines.synthesis.base_images import BaseImages, plain_faces

DRAWN = {"base": "none", "base_strong": "strong"}  # what the drawing goes through


def view_of(part: Part, name: str, recognizer: Recognizer, generator: Generator) -> Tensor:
    """The view `name` of a part on its device, (n, 3, H, W) float32 in [-1, 1]: of its images, or drawn from its targets.

    The generator lives on the CPU and is the only source of randomness: it draws a face for every place of a word.
    Raises BadInput as `augment` does, and for a charset that no packaged font draws; ValueError for a drawn view of a part without targets.
    """
    if name not in DRAWN:
        return augment(part.images, name, generator)
    if part.targets is None:
        raise ValueError(f"expected targets to draw the view {name!r} from, found an unlabeled part: ask for it of the labeled one")
    base = _base_images(recognizer.decoder.tokens, recognizer.height, part.targets.device)
    faces = torch.randint(base.faces, part.targets.shape, generator=generator).to(part.targets.device, non_blocking=True)
    drawn = base.draw(part.targets, faces, part.images.shape[3], stretch=recognizer.aspect == "stretch")
    return augment(drawn, DRAWN[name], generator)


def check_drawable(views: dict[str, tuple[str, ...]], charset: Charset) -> None:
    """BadInput if an objective's views are drawn from labels, and no packaged font draws the charset."""
    if any(name in DRAWN for names in views.values() for name in names):
        plain_faces(charset)


@lru_cache(maxsize=4)
def _base_images(tokens: Tokens, height: int, device: torch.device) -> BaseImages:
    return BaseImages(tokens, height, device)
