"""Encoded images -> pixels: 8-bit colours or grey levels, whatever is stored (CMYK, 16 bits, a palette, a turned camera); what is transparent lies on white.

OpenCV reads what is common and plain, and releases the interpreter's lock; Pillow reads what OpenCV would read as something else, such as
transparency, which OpenCV drops, and the colours below it are often black. A format has one reader, whatever is asked for, so that colours,
grey levels, size and orientation cannot disagree: 16 bits become their upper 8, floats and 32 bits are cut off at 0 and 255, and grey is the
luma of the colours (BT.601, OpenCV's rounding). A JPEG holds its luma, which is taken as it is: where no colour was cut off at 0 or 255, that
is within 1 of the luma of its rounded colours.
"""

import re
import struct
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from pipelines.corpus.image_formats import BROKEN, NETPBM_HEAD, Format, format_of, is_safe, opened

cv2.setNumThreads(0)
# A corrupt image is a result here (None), not a line on the terminal for each one.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

ORIENTATION = 0x0112  # the EXIF tag
WIDE = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of 16 bits
SEE_THROUGH = ("RGBA", "RGBa", "LA", "La", "PA")
PAM_HEAD, PAM_NUMBERS = re.compile(rb".*?\nENDHDR[ \t\r]*\n", re.DOTALL), (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")
GREY_PNG, SEE_THROUGH_PNG = 0, (4, 6)  # types of colour


def decode_picture(data: bytes | memoryview) -> np.ndarray | None:
    """The image at its own size, upright as EXIF says, (height, width, 3) uint8 BGR; None if it is corrupt."""
    return _decode(data, cv2.IMREAD_COLOR)


def decode_stored(data: bytes | memoryview) -> np.ndarray | None:
    """The same, but as the pixels are stored, not turned."""
    return _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_gray(data: bytes | memoryview) -> np.ndarray | None:
    """The image at its own size, upright, (height, width) uint8 luma; None if it is corrupt."""
    return _decode(data, cv2.IMREAD_GRAYSCALE)


def _decode(data: bytes | memoryview, mode: int) -> np.ndarray | None:
    """As OpenCV's flags say: IMREAD_COLOR, IMREAD_GRAYSCALE, with or without IMREAD_IGNORE_ORIENTATION."""
    format = format_of(data)
    if format is None or not format.is_read or not is_safe(data, format):
        return None
    try:
        if format.name == "JPEG":
            return _imdecode(data, mode)
        return _in_mode(_read(bytes(data), format, mode), mode)
    except (cv2.error, *BROKEN):
        return None


def _imdecode(data: bytes | memoryview, mode: int) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if picture is None:
        raise ValueError("corrupt image")
    return picture


def _in_mode(picture: np.ndarray, mode: int) -> np.ndarray:
    """(height, width) or (height, width, 3) BGR -> what `mode` asks for."""
    gray = not mode & cv2.IMREAD_COLOR
    if picture.ndim == 2:
        return picture if gray else cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if gray else picture


def _read(data: bytes, format: Format, mode: int) -> np.ndarray:
    """(height, width) or (height, width, 3) BGR, uint8, on white. Raises cv2.error or one of BROKEN."""
    in_colour = cv2.IMREAD_COLOR | mode & cv2.IMREAD_IGNORE_ORIENTATION
    if format.name == "PNG":
        return _read_png(data, mode, in_colour)
    if format.name == "BMP":
        return on_white(_imdecode(data, in_colour), _bmp_alpha(data))
    if format.name == "PFM":
        return _eight_bits(_imdecode(data, cv2.IMREAD_UNCHANGED))
    if data[:2] in (b"P5", b"P6", b"P7"):
        return _read_netpbm(data)
    if not format.plugin or (format.name == "WebP" and _is_plain_webp(data)):
        return _imdecode(data, in_colour)
    try:
        return _by_pillow(data, format, mode)
    except BROKEN:  # rare kinds of TIFF and JPEG 2000, or a Pillow without AVIF
        return _imdecode(data, in_colour)


def on_white(picture: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """A picture (height, width) or (height, width, 3), of which `alpha` (height, width) says how opaque it is, 0 to 255; None: wholly."""
    if alpha is None:
        return picture
    opaque = alpha.astype(np.uint32) if picture.ndim == 2 else alpha.astype(np.uint32)[:, :, None]
    return ((2 * (picture * opaque + 255 * (255 - opaque)) + 255) // 510).astype(np.uint8)  # rounded


def _eight_bits(picture: np.ndarray) -> np.ndarray:
    if picture.dtype.itemsize == 2 and picture.dtype.kind == "u":
        return (picture >> 8).astype(np.uint8)
    return np.nan_to_num(np.clip(picture, 0, 255)).astype(np.uint8)


def _turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Upright, from how EXIF's orientation says it is stored."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


# PNG


def _read_png(data: bytes, mode: int, in_colour: int) -> np.ndarray:
    """By OpenCV, whose grey levels of a PNG with a gamma or a profile would not be those of its colours."""
    kind, mask = data[25], _png_chunk(data, b"tRNS", before=b"IDAT")
    if kind not in SEE_THROUGH_PNG and mask is None:
        return _imdecode(data, mode if kind == GREY_PNG else in_colour)
    stored = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if kind == GREY_PNG:  # whose one transparent level OpenCV does not know
        picture, alpha = _eight_bits(stored), np.where(stored == _transparent_level(data, mask), 0, 255)
    elif stored.ndim == 3 and stored.shape[2] == 4:
        picture, alpha = np.dsplit(_eight_bits(stored), [3])
        alpha = alpha[:, :, 0]
    else:
        picture, alpha = _eight_bits(stored), None
    picture = on_white(picture, alpha)
    return picture if mode & cv2.IMREAD_IGNORE_ORIENTATION else _turned(picture, _orientation(_png_chunk(data, b"eXIf") or b""))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte, last byte + 1) of a PNG's chunks, as far as it goes."""
    start = 8
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start + 8, start + 8 + length
        start += length + 12


def _png_chunk(data: bytes, wanted: bytes, before: bytes = b"") -> bytes | None:
    """The content of a PNG's first chunk of a kind; None if there is none, or none before another kind."""
    kind, start, stop = next((found for found in _png_chunks(data) if found[0] in (wanted, before)), (b"", 0, 0))
    return data[start:stop] if kind == wanted else None


def _transparent_level(data: bytes, mask: bytes) -> int:
    """The grey level that is transparent, as OpenCV decodes it."""
    depth = data[24]
    level = int.from_bytes(mask[:2], "big") % (1 << depth)
    return level * 255 // ((1 << depth) - 1) if depth < 8 else level


def _orientation(exif: bytes) -> int:
    found = Image.Exif()
    try:
        found.load(exif)
        return found.get(ORIENTATION, 1)
    except BROKEN:
        return 1


# Others


def _bmp_alpha(data: bytes) -> np.ndarray | None:
    """The fourth bytes of a BMP of 32 bits, where they say anything: some writers leave them 0, for opaque pictures."""
    header, width, height, _, bits, packing = struct.unpack_from("<IiiHHI", data, 14)
    if header < 40 or bits != 32:
        return None
    if packing:  # a header that says which bits are what
        alpha = _fourth_channel(data)
    else:  # both decoders leave them out
        start, = struct.unpack_from("<I", data, 10)
        alpha = np.frombuffer(data, np.uint8, 4 * width * abs(height), start)[3::4].reshape(abs(height), width)
        alpha = alpha[::-1] if height > 0 else alpha
    return alpha if alpha is not None and alpha.any() else None


def _fourth_channel(data: bytes) -> np.ndarray | None:
    stored = _imdecode(data, cv2.IMREAD_UNCHANGED)
    return stored[:, :, 3] if stored.ndim == 3 and stored.shape[2] == 4 else None


def _is_plain_webp(data: bytes) -> bool:
    """Whether a WebP is one picture without transparency, by its chunks."""
    start = 12
    while start + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, start)
        flags = data[start + 8:start + 13]
        if kind in (b"ALPH", b"ANIM", b"ANMF") or (kind == b"VP8X" and flags[:1] and flags[0] & 0x12) or (kind == b"VP8L" and flags[4:] and flags[4] & 0x10):
            return False
        start += 8 + length + length % 2
    return True


def _read_netpbm(data: bytes) -> np.ndarray:
    """A binary PGM, PPM or PAM. Pillow rounds some of 16 bits and cuts others off; OpenCV takes the largest value for 255."""
    head = NETPBM_HEAD.match(data) or PAM_HEAD.match(data)
    if data[:2] == b"P7":
        width, height, channels, largest = (int(re.search(rb"^%s\s+(\d{1,9})\s*$" % name, head[0], re.MULTILINE)[1]) for name in PAM_NUMBERS)
    else:
        width, height, largest, channels = *map(int, head.groups()), 1 if data[:2] == b"P5" else 3
    full, kind = (255, np.uint8) if largest < 256 else (65535, np.dtype(">u2"))
    samples = np.frombuffer(data, kind, width * height * channels, head.end()).reshape(height, width, channels)
    if largest != full:
        samples = ((2 * full * np.minimum(samples, largest).astype(np.uint64) + largest) // (2 * largest)).astype(kind)
    samples = _eight_bits(samples)
    colours = samples[:, :, 0] if channels < 3 else cv2.cvtColor(samples[:, :, :3], cv2.COLOR_RGB2BGR)
    return on_white(colours, samples[:, :, -1] if channels in (2, 4) else None)


def _by_pillow(data: bytes, format: Format, mode: int) -> np.ndarray:
    with opened(data, format) as stored:
        tag = stored.tag_v2.get(ORIENTATION, 1) if format.name == "TIFF" else None
        stored.load()
        picture = on_white(*_pixels(stored, format))
        if tag is None and not mode & cv2.IMREAD_IGNORE_ORIENTATION:
            return _turned(picture, _orientation(stored.info.get("exif", b"")))
        if tag is not None and mode & cv2.IMREAD_IGNORE_ORIENTATION:  # Pillow has turned it
            return _turned(picture, {6: 8, 8: 6}.get(tag, tag))
        return picture


def _pixels(stored: Image.Image, format: Format) -> tuple[np.ndarray, np.ndarray | None]:
    """(height, width) or (height, width, 3) BGR of an image of Pillow, and its alpha."""
    if stored.mode in WIDE:
        return _eight_bits(np.asarray(stored)), None
    if stored.mode in ("I", "F"):
        numbers = np.asarray(stored)
        return _eight_bits(numbers.astype(np.uint16) if format.name == "PGM" else numbers), None  # Pillow scales a PGM's to 16 bits
    if stored.mode not in SEE_THROUGH and "transparency" not in stored.info:
        return cv2.cvtColor(np.asarray(stored.convert("RGB")), cv2.COLOR_RGB2BGR), None
    picture = np.asarray((stored.convert("LA") if stored.mode == "La" else stored).convert("RGBA"))
    return cv2.cvtColor(picture, cv2.COLOR_RGBA2BGR), picture[:, :, 3]
