"""A recognizer at work on images of a program: files, encoded images, or pixels."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    from pipelines.prediction.labeler import Labeler, Manner
    from pipelines.reading.batches import Read

Image = "str | os.PathLike[str] | bytes | np.ndarray | Any"  # a file, a URI, an encoded image, pixels, or what numpy takes for pixels, such as a PIL image


def load(model: str | os.PathLike[str], *, device: str | None = None, batch_size: int = 256, precision: str = "float32", beam: int | None = None,
         ngram: str | None = None, ngram_weight: float = 0.3, bcn: str | None = None, bcn_weight: float = 0.3, lexicon: str | None = None,
         both_ways_up: bool = False) -> "Reader":
    """A reader for a run's name or folder, a model folder, or models:/NAME@champion (for short NAME@champion).

    Args:
        device: "cpu", "cuda", "cuda:1" …; by default a GPU if there is one.
        batch_size: images at a time.
        precision: "float32" or "bf16".
        beam, ngram, ngram_weight, bcn, bcn_weight, lexicon, both_ways_up: how strings are chosen, as in `textray predict`.

    Raises:
        BadInput: no such model or device, or a search that it does not have.
    """
    import argparse

    from pipelines.evaluation.options import device_named
    from pipelines.prediction.labeler import Labeler, Manner
    options = argparse.Namespace(batch_size=batch_size, precision=precision, beam=beam, ngram=ngram, ngram_weight=ngram_weight, bcn=bcn,
                                 bcn_weight=bcn_weight, lexicon=lexicon, both_ways_up=both_ways_up)
    manner, labeler = Manner.of(options), Labeler.open(os.fspath(model))
    return Reader(labeler, manner, device_named(device))


class Reader:
    """Reads images; made by `load`."""

    def __init__(self, labeler: "Labeler", manner: "Manner", device: Any):
        from pipelines.prediction.labeler import Reader as Reading
        self._reader = Reading(labeler, manner, device)

    @property
    def name(self) -> str:
        """The model's exact name: models:/words/3, or RUN@ and the first digits of its weights' sha256."""
        return self._reader.labeler.name

    @property
    def characters(self) -> str:
        """The characters that it can write."""
        return self._reader.labeler.recognizer.charset.characters

    def read(self, images: "Image | Iterable[Image]") -> "list[Read]":
        """What is read from each image, in order: text, confidence in [0, 1], problem (why an image cannot be decoded, else None), upside_down.

        Args:
            images: a file's name or URI, the bytes of an encoded image, pixels (height, width) or (height, width, 3) uint8 in the order red, green,
                blue, a PIL image; or any number of these.

        Raises:
            BadInput: pixels of another shape or type. A file that is not there or is no image has a `problem`.
        """
        return list(self.read_each([images] if _is_one(images) else images))

    def read_each(self, images: "Iterable[Image]") -> "Iterator[Read]":
        """The same, one after another, as they are read: for more images than memory holds."""
        from pipelines.ingestion.sources.row import Row
        rows = (Row(str(number), *_encoded(image)) for number, image in enumerate(images))
        for _, read in self._reader.read(rows):
            yield read


def _is_one(images: Any) -> bool:
    return isinstance(images, str | os.PathLike | bytes) or hasattr(images, "__array__") or hasattr(images, "__array_interface__")


def _encoded(image: Any) -> Sequence[Any]:
    """An image as the fields of a row behind its key: bytes, no label, and why there are no bytes."""
    if isinstance(image, bytes):
        return image, None, None
    if isinstance(image, str | os.PathLike):
        return _content(os.fspath(image))
    return _from_pixels(image), None, None


def _content(name: str) -> Sequence[Any]:
    from pipelines.corpus import storage
    try:
        return storage.read_bytes(name) if storage.is_remote(name) else Path(name).read_bytes(), None, None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None, None, "no such file"


def _from_pixels(image: Any) -> bytes:
    import cv2
    import numpy as np

    from pipelines.errors import BadInput
    if hasattr(image, "convert") and getattr(image, "mode", "RGB") not in ("L", "RGB"):  # of PIL, with a palette, transparency, other colours
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise BadInput(f"expected pixels (height, width) or (height, width, 3) of uint8 in the order red, green, blue, found {pixels.shape} of {pixels.dtype}")
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()
