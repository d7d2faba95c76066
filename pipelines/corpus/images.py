"""Encoded images: as rows of a batch, sizes, what is wrong with a broken one, and the perceptual hash.

A corpus keeps the original bytes; pictures.py makes pixels of them. OpenCV releases the interpreter's lock: whoever wants several decoders
starts threads or processes, so its own threads are off.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.corpus.image_formats import format_of, has_too_many_pixels
from pipelines.corpus.pictures import decode_gray, decode_picture

HASH_INPUT = 32  # the side in pixels of the thumbnail that is hashed
HASH_SIDE = 8  # of the square of low frequencies that makes the 64 bits


@dataclass(frozen=True)
class Shape:
    """How images of any size become rows of one batch, pixels.

    "stretch": scaled to exactly height x width, the aspect ratio ignored (Baek et al. 2019, §4.1).
    "pad": scaled to the height, at most to the width, and filled up on the right with the last column (Baek et al.'s --PAD).
    "keep": the same, but filled up only to the width of its bucket; `width` is that of the widest.
    """

    height: int
    width: int
    aspect: str = "stretch"

    def buckets(self) -> list[tuple[float, int]]:
        """For "keep": (greatest width / height, pixels) of each bucket: twice the height, doubled up to the width. Else none."""
        if self.aspect != "keep":
            return []
        widths = [2 * self.height]
        while widths[-1] < self.width:
            widths.append(min(2 * widths[-1], self.width))
        return [(width / self.height, width) for width in widths[:-1]] + [(float("inf"), widths[-1])]

    def width_for(self, width: int, height: int) -> int:
        """The width that an image of width x height pixels is filled up to."""
        return next((pixels for ratio, pixels in self.buckets() if width / height <= ratio), self.width)


def decode_image(data: bytes | memoryview, shape: Shape) -> np.ndarray | None:
    """The image as `shape` says, (shape.height, shape.width or its bucket's, 3) uint8 RGB; None if it is corrupt.

    An axis that shrinks is averaged, an axis that grows is interpolated with cubics: cubics alone would skip pixels of
    large images. What is stored otherwise comes as pictures.py says.
    """
    image = _shaped(data, shape)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_into(planes: np.ndarray, data: bytes | memoryview, shape: Shape) -> bool:
    """The same into the planes of a batch, (3, shape.height, shape.width) uint8; False if the image is corrupt.

    ValueError for planes of another size: `cv2.split` would write elsewhere.
    """
    image = _shaped(data, shape)
    if image is None:
        return False
    if image.shape[:2] != planes.shape[1:]:
        raise ValueError(f"expected planes of {image.shape[:2]}, found {planes.shape[1:]}")
    cv2.split(image, [planes[2], planes[1], planes[0]])  # BGR is turned and taken apart at once
    return True


def _shaped(data: bytes | memoryview, shape: Shape) -> np.ndarray | None:
    """(height, width, 3) uint8 BGR."""
    image = decode_picture(data)
    if image is None:
        return None
    height, (found_height, found_width) = shape.height, image.shape[:2]
    filled = width = shape.width_for(found_width, found_height)
    if shape.aspect != "stretch":
        width = min(width, max(1, round(found_width * height / found_height)))
    if found_height > height or found_width > width:
        image = cv2.resize(image, (min(width, found_width), min(height, found_height)), interpolation=cv2.INTER_AREA)
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return image if width == filled else cv2.copyMakeBorder(image, 0, 0, 0, filled - width, cv2.BORDER_REPLICATE)


def image_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) in pixels as `decode_image` sees them, that is after EXIF orientation; None if it is corrupt."""
    gray = decode_gray(data)
    return None if gray is None else (gray.shape[1], gray.shape[0])


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or a PNG lacks its end.

    Some decoders fill the missing part of a truncated JPEG with grey and report success. The end marker cannot stand
    inside the compressed data, only after it, so a file whose last scan starts after its last end marker is incomplete.
    """
    if data.startswith(b"\xff\xd8"):
        return not data.endswith(b"\xff\xd9") and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-12:] and data.rfind(b"IEND") <= data.rfind(b"IDAT")
    return False


def image_problem(data: bytes, decoded: np.ndarray | None) -> str | None:
    """Why an image is unusable, as a short fixed phrase; None if it is fine. `decoded` is what the decoder returned."""
    if not data:
        return "empty image"
    if is_cut_off(data):
        return "truncated image"
    if decoded is not None:
        return None
    format = format_of(data)
    if format is None:
        return "not an image"
    if not format.is_read:
        return "image format that is not read"
    return "too many pixels" if has_too_many_pixels(data) else "corrupt image"


def hash_thumbnail(gray: np.ndarray) -> np.ndarray:
    """The 32 x 32 uint8 thumbnail, area-averaged, that `perceptual_hashes` takes; gray is (height, width) uint8."""
    return cv2.resize(gray, (HASH_INPUT, HASH_INPUT), interpolation=cv2.INTER_AREA)


def _cosines() -> np.ndarray:
    """(8, 32) lowest DCT-II basis vectors, in 13-bit fixed point.

    With integers below 2**53 float64 arithmetic is exact in any order, so the hash does not depend on the BLAS, the
    batch or the machine.
    """
    frequency, position = np.arange(HASH_SIDE)[:, None], np.arange(HASH_INPUT)[None, :]
    return np.rint(np.cos(np.pi * frequency * (2 * position + 1) / (2 * HASH_INPUT)) * 2**13)


COSINES = _cosines()
BITS = np.uint64(1) << np.arange(63, -1, -1, dtype=np.uint64)


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """64-bit DCT hashes of thumbnails (n, 32, 32) uint8, as (n,) uint64.

    The 8 x 8 lowest frequencies of the DCT against their median, row by row, most significant bit first. Images that
    look alike differ in few bits (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions").
    """
    low = COSINES @ thumbnails.astype(np.float64) @ COSINES.T  # (n, 8, 8)
    low = low.reshape(len(low), HASH_SIDE * HASH_SIDE)  # (n, 64)
    above = low > np.median(low, axis=1, keepdims=True)
    return (above * BITS).sum(axis=1, dtype=np.uint64)


def perceptual_hash(gray: np.ndarray) -> int:
    """The 64-bit perceptual hash of one image, (height, width) uint8 luma."""
    return int(perceptual_hashes(hash_thumbnail(gray)[None])[0])
