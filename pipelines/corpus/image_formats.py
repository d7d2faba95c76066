"""The formats that images come in: how each is told, what its files are called, how its size is known before anything is unpacked.

One table for everything that asks: the sources (which files are images), the decoders (pictures.py), exports (endings). No decoder is ever
asked about bytes that the table does not know, so the limit of pixels holds for every format that any decoder here could open.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

MOST_PIXELS = 89_478_485  # Pillow's limit, 256 MB of RGB: a file of a few kilobytes may announce any size
HARMLESS_JPEG = 64_000  # bytes: a JPEG needs a bit for each block of 64 pixels, so that smaller ones cannot hold so many, whatever they announce
HEAD_BYTES = 160  # in which every signature ends
# What Pillow raises for damaged files, as a fuzzer finds.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError,
          struct.error, zlib.error, Image.DecompressionBombError)
NETPBM_HEAD = re.compile(rb"P[1-7Ff](?:\s|#[^\r\n]*[\r\n])+(\d{1,9})(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})(?:(?:\s|#[^\r\n]*[\r\n])+(\d{1,5})\s)?")
PAM_SIDES = (re.compile(rb"^WIDTH\s+(\d{1,9})\s*$", re.MULTILINE), re.compile(rb"^HEIGHT\s+(\d{1,9})\s*$", re.MULTILINE))
RADIANCE_SIZE = re.compile(rb"\n([-+][XY]) +(\d{1,9}) +[-+][XY] +(\d{1,9})[ \r]*\n")
CODESTREAM = b"\xff\x4f\xff\x51"  # of a JPEG 2000: its size follows

Size = tuple[int, int]  # width, height in pixels

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # a line for each damaged file


class Format(NamedTuple):
    """One way to store images."""

    name: str
    endings: tuple[str, ...]  # of its files, the usual one first
    signature: re.Pattern[bytes]  # of its first bytes
    size: Callable[[bytes, "Format"], Size | None]  # what its head announces
    plugin: str = ""  # what Pillow calls it; "": Pillow does not read it
    is_read: bool = True  # whether a decoder here reads it


def opened(data: bytes, format: Format) -> Image.Image:
    """The file as an image of Pillow, of which only the head is read. Raises one of BROKEN.

    Not by `Image.open`, which would try other formats, and has a limit of its own that all threads share.
    """
    Image.init()
    factory, _ = Image.OPEN[format.plugin]
    return factory(io.BytesIO(data), "")


def _pillow_size(data: bytes, format: Format) -> Size | None:
    with opened(data, format) as image:
        return image.size


def _png_size(data: bytes, _: Format) -> Size | None:
    return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None


def _jpeg2000_size(data: bytes, format: Format) -> Size | None:
    """Of its boxes and its codestream the larger: the decoder goes by the second."""
    start = data.find(CODESTREAM)
    if start < 0:
        return None
    width, height, left, top = struct.unpack_from(">4I", data, start + 8)
    boxed = _pillow_size(data, format)
    return max(width - left, boxed[0]), max(height - top, boxed[1])


def _netpbm_size(data: bytes, _: Format) -> Size | None:
    found = NETPBM_HEAD.match(data)
    return (int(found[1]), int(found[2])) if found else None


def _pam_size(data: bytes, _: Format) -> Size | None:
    head = data.partition(b"ENDHDR")[0]
    width, height = (side.search(head) for side in PAM_SIDES)
    return (int(width[1]), int(height[1])) if width and height else None


def _radiance_size(data: bytes, _: Format) -> Size | None:
    found = RADIANCE_SIZE.search(data)
    if found is None:
        return None
    first, second = int(found[2]), int(found[3])
    return (first, second) if found[1].endswith(b"X") else (second, first)


def _sun_size(data: bytes, _: Format) -> Size | None:
    return struct.unpack_from(">II", data, 4)


def _no_size(data: bytes, _: Format) -> Size | None:
    return None


def _unread(name: str, endings: tuple[str, ...], signature: bytes) -> Format:
    """A format that is known, so that its files are counted, and that nothing here reads."""
    return Format(name, endings, re.compile(signature, re.DOTALL), _no_size, is_read=False)


def _read(name: str, endings: tuple[str, ...], signature: bytes, plugin: str = "", size: Callable[[bytes, Format], Size | None] = _pillow_size) -> Format:
    return Format(name, endings, re.compile(signature, re.DOTALL), size, plugin)


FORMATS = (
    _read("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"), rb"\xff\xd8\xff", "JPEG"),
    _read("PNG", (".png", ".apng"), rb"\x89PNG\r\n\x1a\n", "PNG", _png_size),
    _read("BMP", (".bmp", ".dib"), rb"BM", "BMP"),
    _read("WebP", (".webp",), rb"RIFF....WEBP", "WEBP"),
    _read("TIFF", (".tif", ".tiff", ".btf", ".tf8"), rb"II[*+]\0|MM\0[*+]", "TIFF"),
    _read("GIF", (".gif", ".giff"), rb"GIF8[79]a", "GIF"),
    _read("JPEG 2000", (".jp2", ".j2k", ".jpx", ".jpf", ".jpm", ".j2c", ".jpc"), rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG2000", _jpeg2000_size),
    _read("AVIF", (".avif", ".avifs"), rb"....ftyp(?:avi[fs]|m[is]f1(?:....){1,32}?avi[fs])", "AVIF"),
    _read("PPM", (".ppm", ".pnm"), rb"P[36][\s#]", "PPM", _netpbm_size),
    _read("PGM", (".pgm",), rb"P[25][\s#]", "PPM", _netpbm_size),
    _read("PBM", (".pbm",), rb"P[14][\s#]", "PPM", _netpbm_size),
    _read("PAM", (".pam",), rb"P7\s", size=_pam_size),
    _read("PFM", (".pfm",), rb"P[Ff]\s", size=_netpbm_size),
    _read("Radiance HDR", (".hdr", ".rgbe", ".xyze"), rb"#\?(?:RADIANCE|RGBE)", size=_radiance_size),
    _read("Sun raster", (".ras", ".sr", ".sun"), rb"\x59\xa6\x6a\x95", size=_sun_size),
    _unread("HEIF", (".heic", ".heif", ".hif", ".heics", ".heifs"), rb"....ftyp(?:hei[cxms]|hev[cmsx]|m[is]f1)"),
    _unread("OpenEXR", (".exr",), rb"\x76\x2f\x31\x01"),
    _unread("JPEG XL", (".jxl",), rb"\xff\x0a|\0\0\0\x0cJXL "),
    _unread("JPEG XR", (".jxr", ".wdp", ".hdp"), rb"II\xbc"),
    _unread("Photoshop", (".psd", ".psb"), rb"8BPS"),
    _unread("QOI", (".qoi",), rb"qoif"),
    _unread("DDS", (".dds",), rb"DDS "),
    _unread("PCX", (".pcx",), rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]"),
    _unread("Targa", (".tga",), rb"(?!)"),  # it has no signature
)
ENDINGS = tuple(ending for format in FORMATS for ending in format.endings)


def format_of(data: bytes | memoryview) -> Format | None:
    """The format that the first bytes announce; None if it is none of the table."""
    return next((format for format in FORMATS if format.signature.match(data)), None)


def image_format(data: bytes) -> str | None:
    """Its name; None if it is none of the table."""
    found = format_of(data)
    return None if found is None else found.name


def announced_size(data: bytes | memoryview, format: Format | None = None) -> Size | None:
    """(width, height) in pixels that an image's head announces, decoded or not; None if nothing can be read from it. `format` is its, where known."""
    format = format or format_of(data)
    try:
        return None if format is None else format.size(bytes(data), format)
    except BROKEN:
        return None


def is_safe(data: bytes | memoryview, format: Format) -> bool:
    """Whether a file can be unpacked: it announces a size, of at most MOST_PIXELS."""
    if format.name == "JPEG" and len(data) <= HARMLESS_JPEG:
        return True
    size = announced_size(data, format)
    return size is not None and size[0] * size[1] <= MOST_PIXELS


def has_too_many_pixels(data: bytes | memoryview) -> bool:
    """Whether an image announces more than MOST_PIXELS."""
    size = announced_size(data)
    return size is not None and size[0] * size[1] > MOST_PIXELS
