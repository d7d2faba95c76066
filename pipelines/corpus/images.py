"""Encoded images: decoding, sizes, what is wrong with a broken one, and the perceptual hash.

Whatever is stored (CMYK, 16 bits, a palette, a turned camera) is seen as 8-bit RGB, upright; what is transparent lies on white.
A corpus keeps the original bytes. Everything decodes through OpenCV, which releases the interpreter's lock; whoever wants several decoders starts threads
or processes, so OpenCV's own threads are off.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np

MOST_PIXELS = 89_478_485  # Pillow's limit, 256 MB of RGB: a file of a few kilobytes may announce any size
# Files so small cannot hold so many pixels, whatever they announce: deflate packs at most 1032 : 1 (and 8 pixels into a byte), a
# JPEG needs a bit for each block of 64. The size of every other file is looked at before it is unpacked.
HARMLESS_BYTES = {b"\xff\xd8": 64_000, b"\x89P": 8_000}

cv2.setNumThreads(0)
# A corrupt image is a result here (None), not a line on the terminal for each one.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

HASH_INPUT = 32  # the side in pixels of the thumbnail that is hashed
HASH_SIDE = 8  # of the square of low frequencies that makes the 64 bits

SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP", b"GIF8": "GIF", b"RIFF": "WebP",
              b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\0\0\0\x0cjP  ": "JPEG 2000"}


def _decode(data: bytes | memoryview, mode: int) -> np.ndarray | None:
    buffer = np.frombuffer(data, np.uint8)
    if not buffer.size or (len(data) > HARMLESS_BYTES.get(bytes(data[:2]), 0) and _too_many_pixels(data)):
        return None
    try:
        if has_alpha(data):
            return _decode_on_white(data, mode)
        return cv2.imdecode(buffer, mode)
    except cv2.error:  # sizes beyond OpenCV's limits
        return None


def has_alpha(data: bytes | memoryview) -> bool:
    """Whether a PNG, a WebP or a GIF announces transparency. Decoders drop it, and the colours below it are often black."""
    head = bytes(data[:64])
    if head.startswith(b"\x89PNG"):
        return head[25:26] in (b"\x04", b"\x06") or b"tRNS" in bytes(data[:4096])
    if head.startswith(b"RIFF"):
        return (head[12:16] == b"VP8X" and bool(head[20] & 0x10)) or (head[12:16] == b"VP8L" and bool(head[24] & 0x10))
    return head.startswith(b"GIF89a") and b"\x21\xf9\x04" in bytes(data[:4096])


def _decode_on_white(data: bytes | memoryview, mode: int) -> np.ndarray | None:
    from PIL import Image, ImageOps, UnidentifiedImageError
    try:
        with Image.open(io.BytesIO(data)) as stored:
            picture = ImageOps.exif_transpose(stored).convert("RGBA")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):  # Pillow raises each of them
        return None
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    colours = np.asarray(flat)
    return cv2.cvtColor(colours, cv2.COLOR_RGBA2GRAY if mode == cv2.IMREAD_GRAYSCALE else cv2.COLOR_RGBA2BGR)


def _too_many_pixels(data: bytes | memoryview) -> bool:
    size = announced_size(data)
    return size is not None and size[0] * size[1] > MOST_PIXELS


def announced_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) in pixels that an image's head announces, decoded or not; None if nothing can be read from it."""
    from PIL import Image, UnidentifiedImageError
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # a size is no danger
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


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
    large images. EXIF orientation is applied, 16 bits become 8.
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
    image = _decode(data, cv2.IMREAD_COLOR)
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


def decode_gray(data: bytes | memoryview) -> np.ndarray | None:
    """The image at its own size, (height, width) uint8 luma; None if it is corrupt."""
    return _decode(data, cv2.IMREAD_GRAYSCALE)


def image_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) in pixels as `decode_image` sees them, that is after EXIF orientation; None if it is corrupt."""
    gray = decode_gray(data)
    return None if gray is None else (gray.shape[1], gray.shape[0])


def image_format(data: bytes) -> str | None:
    """The format that the first bytes announce, None if it is none of the known ones."""
    return next((name for signature, name in SIGNATURES.items() if data.startswith(signature)), None)


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
    if _too_many_pixels(data):
        return "too many pixels"
    return "not an image" if image_format(data) is None else "corrupt image"


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
