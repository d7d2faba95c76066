"""Encoded images as pixels: whatever is stored and whoever reads it, the same colours, grey levels, size and orientation."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.corpus.image_formats import ENDINGS, FORMATS, MOST_PIXELS, announced_size, image_format
from pipelines.corpus.images import Shape, decode_image, image_problem, image_size
from pipelines.corpus.pictures import decode_gray, decode_picture, decode_stored


def scene(width: int = 90, height: int = 40) -> Image.Image:
    """Soft colours: no decoder has to cut one off at 0 or 255."""
    coarse = np.random.default_rng(0).integers(60, 196, (5, 9, 3), np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))


def stored(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def encoded(ending: str, picture: np.ndarray) -> bytes:
    return bytes(cv2.imencode(ending, picture)[1])


def luma(bgr: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)


def deep(picture: Image.Image) -> Image.Image:
    """16 bits of grey."""
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)


LOSSLESS = [(mode, kind) for kind, modes in {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"), "GIF": ("1", "L", "P"), "WEBP": ("L", "RGB", "RGBA"), "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "PPM": ("1", "L", "RGB", "I;16")}.items() for mode in modes]


@pytest.mark.parametrize("mode, kind", LOSSLESS)
def test_what_was_stored_without_loss_comes_back_exactly(mode, kind):
    picture = deep(scene()) if mode == "I;16" else scene().convert(mode)
    expected = np.asarray((scene().convert("L") if mode == "I;16" else picture).convert("RGB"))
    data = stored(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
    found = decode_picture(data)
    assert (found[:, :, ::-1] == expected).all()
    assert (decode_gray(data) == luma(found)).all()


@pytest.mark.parametrize("mode, options", [("L", {}), ("RGB", {}), ("RGB", {"subsampling": 0}), ("RGB", {"progressive": True}), ("CMYK", {}),
                                           ("RGB", {"keep_rgb": True})])
def test_a_jpeg_is_read_as_pillow_reads_it_and_its_luma_is_that_of_its_colours(mode, options):
    data = stored(scene().convert(mode), "JPEG", quality=95, **options)
    found, expected = decode_picture(data).astype(int), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)[:, :, ::-1]
    assert np.abs(found - expected).max() <= 1  # both are exact but for one rounding of each colour
    # Three colours within half a level of the luma's own, weights that add up to 1, and a rounding: less than 1.5
    assert np.abs(decode_gray(data).astype(int) - luma(found.astype(np.uint8))).max() <= 1


@pytest.mark.parametrize("kind, options", [("WEBP", {}), ("JPEG2000", {"irreversible": True, "quality_layers": [20]}), ("AVIF", {}),
                                           ("TIFF", {"compression": "jpeg"}), ("TIFF", {"compression": "tiff_lzw"})])
def test_lossy_formats_are_read_as_pillow_reads_them(kind, options):
    data = stored(scene(), kind, **options)
    found = decode_picture(data)
    assert (found[:, :, ::-1] == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
    assert (decode_gray(data) == luma(found)).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, depth: int, colours: int, row: bytes, *before: bytes, after: bytes = b"") -> bytes:
    """One row, with chunks before and after its pixels."""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0)) + b"".join(before)
            + chunk(b"IDAT", zlib.compress(b"\0" + row)) + after + chunk(b"IEND", b""))


GREYS = struct.pack(">4H", 0, 1000, 40000, 65535)


@pytest.mark.parametrize("data, expected", [
    (png(4, 16, 0, GREYS), [0, 3, 156, 255]),
    (png(4, 16, 0, GREYS, chunk(b"tRNS", struct.pack(">H", 1000))), [0, 255, 156, 255]),
    (png(4, 8, 0, bytes([7, 8, 9, 255]), chunk(b"tRNS", struct.pack(">H", 7))), [255, 8, 9, 255]),
    (png(4, 2, 0, bytes([0b00011011]), chunk(b"tRNS", struct.pack(">H", 1))), [0, 255, 170, 255]),
    (png(8, 1, 0, bytes([0b01010101]), chunk(b"tRNS", struct.pack(">H", 0))), [255] * 8),
    (png(2, 16, 2, struct.pack(">6H", 300, 300, 300, 301, 301, 301), chunk(b"tRNS", struct.pack(">3H", 300, 300, 300))), [255, 1]),
    (png(4, 2, 3, bytes([0b00011011]), chunk(b"PLTE", bytes([9] * 3 + [50] * 3 + [90] * 6)), chunk(b"tRNS", bytes([0, 51]))), [255, 214, 90, 90]),
    (png(2, 16, 4, struct.pack(">4H", 300, 65535, 0, 0)), [1, 255]),
    (png(4, 8, 0, bytes([7, 8, 9, 255]), chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"cHRM", bytes(32))), [7, 8, 9, 255])])
def test_a_png_of_any_depth_knows_what_is_transparent(data, expected):
    assert decode_gray(data).tolist() == [expected]
    assert decode_picture(data).tolist() == [[[level] * 3 for level in expected]]


def half() -> np.ndarray:
    """Black; the right half is opaque."""
    picture = np.zeros((9, 8, 4), np.uint8)
    picture[:, 4:, 3] = 255
    return picture


TRANSPARENT = {
    **{f"{kind} of Pillow": stored(Image.fromarray(half()), kind) for kind in ("PNG", "TIFF", "BMP", "GIF", "JPEG2000")},
    **{f"{kind} with an alpha of grey": stored(Image.fromarray(half()).convert("LA"), kind) for kind in ("PNG", "TIFF", "JPEG2000")},
    **{f"{ending} of OpenCV": encoded(ending, half()) for ending in (".png", ".tiff", ".bmp", ".webp", ".gif", ".pam")},
    "TIFF, packed": stored(Image.fromarray(half()), "TIFF", compression="tiff_lzw"),
    "WebP, lossless": stored(Image.fromarray(half()), "WEBP", lossless=True),
    "WebP, lossy": stored(Image.fromarray(half()), "WEBP"),
    "WebP with a profile": stored(Image.fromarray(half()), "WEBP", lossless=True, icc_profile=bytes(20_000)),
    "WebP, animated": stored(Image.fromarray(half()), "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(half() // 2)]),
    "PNG of 16 bits": encoded(".png", half().astype(np.uint16) * 257),
    "PNG with a palette and a long profile": stored(Image.fromarray(half()).quantize(), "PNG", icc_profile=np.random.default_rng(0).bytes(10_000)),
    "GIF with a long comment": stored(Image.fromarray(half()), "GIF", comment=b"x" * 9000),
}


@pytest.mark.parametrize("data", TRANSPARENT.values(), ids=TRANSPARENT.keys())
def test_what_is_transparent_lies_on_white_in_every_format(data):
    expected = [[255] * 4 + [0] * 4] * 9
    assert decode_gray(data).tolist() == expected
    assert decode_picture(data).tolist() == decode_stored(data).tolist() == [[[level] * 3 for level in row] for row in expected]


def test_what_is_half_transparent_is_mixed_exactly():
    colours, alpha = np.meshgrid(np.arange(256), np.arange(256))
    expected = np.rint((colours * alpha + 255 * (255 - alpha)) / 255)
    picture = Image.fromarray(np.dstack([colours] * 3 + [alpha]).astype(np.uint8))
    for kind in ("PNG", "TIFF", "JPEG2000"):
        assert (decode_gray(stored(picture, kind)) == expected).all()


def test_a_bmp_whose_fourth_bytes_say_nothing_is_opaque():
    data = bytearray(stored(Image.fromarray(half()), "BMP"))
    data[54 + 3::4] = bytes(len(data[54 + 3::4]))
    assert not decode_gray(bytes(data)).any()


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("mode, kind, options", [
    ("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("L", "PNG", {}), ("LA", "PNG", {}), ("RGB", "WEBP", {"lossless": True}),
    ("RGBA", "WEBP", {"lossless": True}), ("RGB", "TIFF", {}), ("RGBA", "TIFF", {})])
def test_every_format_is_turned_upright_and_left_as_it_is_where_asked(turned, mode, kind, options):
    exif = Image.Exif()
    exif[0x0112] = turned
    data = stored(scene().convert(mode), kind, exif=exif, **options)
    as_stored = np.asarray(scene().convert(mode).convert("RGB"))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert (decode_picture(data)[:, :, ::-1] == upright).all() and (decode_stored(data)[:, :, ::-1] == as_stored).all()
    assert decode_gray(data).shape == upright.shape[:2] and image_size(data) == upright.shape[1::-1]


def netpbm(magic: str, width: int, largest: int, samples: list[int]) -> bytes:
    return f"{magic}\n# by hand\n{width} 1\n{largest}\n".encode() + np.array(samples, ">u2" if largest > 255 else np.uint8).tobytes()


@pytest.mark.parametrize("data, expected", [
    (netpbm("P5", 3, 65535, [255, 256, 40000]), [0, 1, 156]), (netpbm("P6", 1, 65535, [40000] * 3), [156]), (netpbm("P5", 2, 1023, [1023, 512]), [255, 128]),
    (netpbm("P5", 2, 15, [15, 7]), [255, 119]), (netpbm("P6", 1, 15, [7] * 3), [119]), (b"P2 2 1 65535\n300 40000\n", [1, 156]),
    (b"P3 1 1 255\n9 9 9\n", [9]), (b"P1 3 1\n1 0 1\n", [0, 255, 0]), (b"P4\n8 1\n\x55", [255, 0] * 4),
    (b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 2\nMAXVAL 255\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n\x09\xff\x09\x00", [9, 255]),
    (b"P7\nWIDTH 2\nHEIGHT 1\nDEPTH 1\nMAXVAL 1\nTUPLTYPE BLACKANDWHITE\nENDHDR\n\x00\x01", [0, 255]),
    (b"Pf\n2 1\n-1.0\n" + np.array([3.7, 300], "<f4").tobytes(), [3, 255])])
def test_netpbm_in_all_its_forms(data, expected):
    assert decode_gray(data).tolist() == [expected] and decode_image(data, Shape(1, len(expected)))[:, :, 0].tolist() == [expected]


def bombs() -> dict[str, bytes]:
    wide = np.zeros((9000, 10_000), np.uint8)
    radiance = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 9600 +X 10000\n" + b"\2\2\x27\x10" * 20
    found = {"Radiance HDR": radiance, "Radiance HDR, turned": radiance.replace(b"-Y 9600 +X 10000", b"+X 9600 -Y 10000"),
             "PFM": b"PF\n10000 9000\n-1.0\n" + bytes(100), "PAM": b"P7\nWIDTH 10000\nHEIGHT 9000\nDEPTH 1\nMAXVAL 255\nENDHDR\n" + bytes(9),
             "PBM": b"P4\n100000 100000\n" + bytes(100), "Sun raster": b"\x59\xa6\x6a\x95" + struct.pack(">7I", 10_000, 9000, 8, 0, 1, 0, 0)}
    return found | {ending: encoded(ending, wide) for ending in (".png", ".jpg", ".tiff", ".webp", ".jp2")} | {
        kind: stored(Image.fromarray(wide), kind) for kind in ("GIF",)}


def test_no_format_gets_around_the_limit_of_pixels():
    for name, data in bombs().items():
        width, height = announced_size(data)
        assert width * height > MOST_PIXELS, name
        assert decode_gray(data) is None and decode_picture(data) is None and decode_stored(data) is None, name
        assert image_problem(data, None) == "too many pixels", name


def test_a_codestream_counts_and_not_the_boxes_around_it():
    data = stored(scene(), "JPEG2000")
    start = data.index(b"\xff\x4f\xff\x51")
    grown = data[:start + 8] + struct.pack(">II", 60_000, 60_000) + data[start + 16:]
    assert image_size(data) == (90, 40) and announced_size(grown) == (60_000, 60_000) and decode_gray(grown) is None


@pytest.mark.parametrize("data, name, problem", [
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF", "image format that is not read"), (b"\x76\x2f\x31\x01" + bytes(20), "OpenEXR", "image format that is not read"),
    (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf", "AVIF", "corrupt image"), (b"P6", None, "not an image"), (b"P9 1 1 255", None, "not an image"),
    (b"#?RADIANCE\n\n", "Radiance HDR", "corrupt image"), (b"GIF89a", "GIF", "corrupt image"), (b"P5 9 9 255\nab", "PGM", "corrupt image"),
    (b"RIFF\4\0\0\0WAVE", None, "not an image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", None, "not an image")])
def test_what_no_decoder_reads_is_told(data, name, problem):
    assert image_format(data) == name and decode_gray(data) is None and decode_picture(data) is None
    assert image_problem(data, None) == problem


def test_an_ending_belongs_to_one_format():
    assert len(set(ENDINGS)) == len(ENDINGS) and len({format.name for format in FORMATS}) == len(FORMATS)
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".avif", ".hdr", ".exr", ".pnm", ".j2k", ".heic"} <= set(ENDINGS)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_colours_and_grey_levels_agree_on_what_is_damaged():
    random = np.random.default_rng(0)
    seeds = [*TRANSPARENT.values(), stored(scene(), "JPEG"), stored(scene().convert("CMYK"), "JPEG"), stored(scene(), "TIFF", compression="tiff_lzw"),
             stored(scene(), "PPM"), encoded(".hdr", np.ones((4, 9, 3), np.float32)), encoded(".ras", half()[:, :, :3])]
    for number in range(600):
        data = bytearray(seeds[number % len(seeds)])
        for position in random.integers(4, min(len(data), 300), 4):
            data[position] = random.choice([0, 1, 127, 255])
        data = bytes(data[:len(data) if number % 3 else int(random.integers(4, len(data)))])
        gray, picture = decode_gray(data), decode_picture(data)
        assert (None if gray is None else gray.shape) == (None if picture is None else picture.shape[:2])
