"""Decoding, broken images, and a perceptual hash that follows the look and not the bytes."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.corpus.images import (
    Shape,
    decode_gray,
    decode_image,
    decode_into,
    hash_thumbnail,
    image_problem,
    image_size,
    is_cut_off,
    perceptual_hash,
    perceptual_hashes,
)


def word(text: str = "Textray", width: int = 160, height: int = 48) -> np.ndarray:
    image = np.full((height, width, 3), (200, 180, 90), np.uint8)
    cv2.putText(image, text, (6, height - 14), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (20, 40, 90), 2, cv2.LINE_AA)
    return image


def encode(image: np.ndarray, kind: str = ".jpg", quality: int = 90) -> bytes:
    return cv2.imencode(kind, image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def test_decoding_gives_rgb_of_the_size_asked_for():
    blue = np.zeros((10, 20, 3), np.uint8)
    blue[:, :, 0] = 255  # OpenCV writes blue, green, red
    image = decode_image(encode(blue, ".png"), Shape(32, 100))
    assert image.shape == (32, 100, 3) and image.dtype == np.uint8
    assert (image == (0, 0, 255)).all()


def test_an_image_of_the_right_size_is_not_resampled():
    assert (decode_image(encode(word(), ".png"), Shape(48, 160)) == word()[:, :, ::-1]).all()


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = np.zeros((64, 1000, 3), np.uint8)
    stripes[:, ::2] = 254
    assert (decode_image(encode(stripes, ".png"), Shape(32, 100)) == 127).all()


def test_one_axis_may_shrink_while_the_other_grows():
    column = np.zeros((320, 20, 3), np.uint8)
    column[::2] = 254
    assert (decode_image(encode(column, ".png"), Shape(32, 100)) == 127).all()


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_common_formats_decode(kind):
    data = encode(word(), kind)
    assert decode_gray(data).shape == (48, 160)
    assert image_size(data) == (160, 48)
    assert image_problem(data, decode_gray(data)) is None


def test_sixteen_bits_become_eight():
    gray = np.full((9, 7), 40000, np.uint16)
    assert decode_image(encode(gray, ".png"), Shape(9, 7)).max() == 40000 >> 8


def stored(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode, kind, options", [
    ("CMYK", "JPEG", {"quality": 95}), ("CMYK", "TIFF", {}), ("L", "JPEG", {}), ("1", "PNG", {}), ("P", "PNG", {}), ("P", "GIF", {}),
    ("RGB", "WEBP", {"lossless": True}), ("RGB", "JPEG2000", {}), ("RGB", "AVIF", {}), ("LA", "PNG", {}), ("RGBA", "PNG", {})])
def test_every_kind_of_storage_is_seen_as_pillow_sees_it(mode, kind, options):
    picture = Image.fromarray(word()[:, :, ::-1]).convert(mode)
    data = stored(picture, kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    found = decode_image(data, Shape(48, 160)).astype(int)
    assert np.abs(found - expected).mean() <= 1.5  # CMYK is converted with other rounding


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_turned_camera_is_undone(turned):
    upright, exif = Image.fromarray(word()[:, :, ::-1]), Image.Exif()
    exif[0x0112] = turned
    data = stored(upright, "JPEG", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    assert image_size(data) == expected.shape[1::-1]
    assert np.abs(decode_image(data, Shape(*expected.shape[:2])).astype(int) - expected).mean() < 1


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})])
def test_transparent_parts_lie_on_white(kind, options):
    half = np.zeros((9, 8, 4), np.uint8)  # black; the right half is opaque
    half[:, 4:, 3] = 255
    data = stored(Image.fromarray(half), kind, **options)
    assert decode_gray(data).tolist() == [[255] * 4 + [0] * 4] * 9
    assert (decode_image(data, Shape(9, 8))[:, :4] == 255).all() and (decode_image(data, Shape(9, 8))[:, 4:] == 0).all()


def test_an_image_of_too_many_pixels_is_not_unpacked():
    data = stored(Image.new("L", (12_000, 8_000)), "PNG")
    assert len(data) < 100_000 and decode_gray(data) is None
    assert image_problem(data, None) == "too many pixels"


@pytest.mark.parametrize("kind", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.99, 0.6, 0.1])
def test_a_truncated_image_is_told(kind, share):
    data = encode(word(), kind)
    part = data[:int(len(data) * share)]
    assert image_problem(part, decode_gray(part)) == "truncated image"
    # a decoder that fills the missing part with grey must not hide it
    assert image_problem(part, decode_gray(data)) == "truncated image"


def test_bytes_after_the_end_of_an_image_are_no_damage():
    for kind in (".jpg", ".png"):
        data = encode(word(), kind) + b"\0\0 appended by a camera"
        assert not is_cut_off(data)
        assert image_problem(data, decode_gray(data)) is None


@pytest.mark.parametrize("data, problem", [(b"", "empty image"), (b"<html>not found</html>", "not an image"),
                                           (b"BM" + b"\7" * 60, "corrupt image")])
def test_what_is_no_image_is_told(data, problem):
    assert decode_gray(data) is None
    assert decode_image(data, Shape(32, 100)) is None
    assert image_size(data) is None
    assert image_problem(data, None) == problem


def distance(first: int, second: int) -> int:
    return (first ^ second).bit_count()


def hash_of(image: np.ndarray) -> int:
    return perceptual_hash(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))


def test_the_hash_survives_recompression_scaling_and_brightness():
    image = word()
    original = hash_of(image)
    assert distance(original, perceptual_hash(decode_gray(encode(image, quality=40)))) <= 6
    assert distance(original, hash_of(cv2.resize(image, (80, 24), interpolation=cv2.INTER_AREA))) <= 6
    assert distance(original, hash_of(cv2.convertScaleAbs(image, alpha=1.0, beta=15))) <= 6


def test_the_hash_tells_words_apart():
    words = ["Textray", "carpet", "STOP", "1847", "exit", "Kiosk"]
    hashes = [hash_of(word(text)) for text in words]
    distances = [distance(hashes[i], hashes[j]) for i in range(6) for j in range(i)]
    assert min(distances) > 10


def test_the_hash_is_the_sign_of_the_low_frequencies_against_their_median():
    gray = decode_gray(encode(word()))
    low = cv2.dct(hash_thumbnail(gray).astype(np.float64))[:8, :8].ravel()
    # cv2.dct is orthonormal: row and column 0 are scaled by sqrt(1/2) against the others
    scale = np.ones(8)
    scale[0] = np.sqrt(2)
    low *= np.outer(scale, scale).ravel()
    bits = "".join("1" if value > np.median(low) else "0" for value in low)
    assert perceptual_hash(gray) == int(bits, 2)


def test_a_hash_does_not_depend_on_the_batch():
    thumbnails = np.random.default_rng(7).integers(0, 256, (50, 32, 32), dtype=np.uint8)
    together = perceptual_hashes(thumbnails)
    assert together.dtype == np.uint64
    assert together.tolist() == [perceptual_hash(thumbnail) for thumbnail in thumbnails]


def test_padding_keeps_the_aspect_ratio_and_repeats_the_last_column():
    shade = np.arange(80, dtype=np.uint8)[None].repeat(16, axis=0)  # (16, 80)
    image = decode_image(encode(shade, ".png"), Shape(16, 100, "pad"))
    assert (image[:, :80, 0] == shade).all() and (image[:, 80:] == 79).all()
    smaller = decode_image(encode(shade, ".png"), Shape(8, 100, "pad"))
    assert (smaller[:, 40:] == smaller[:, 39:40]).all() and smaller[0, 39, 0] == 79  # the mean of 78 and 79
    assert decode_image(encode(shade, ".png"), Shape(16, 60, "pad")).shape == (16, 60, 3)  # too long: squeezed


def test_buckets_double_up_to_the_width():
    shape = Shape(32, 384, "keep")
    assert shape.buckets() == [(2, 64), (4, 128), (8, 256), (float("inf"), 384)]
    assert [shape.width_for(*size) for size in ((10, 32), (64, 32), (65, 32), (300, 32), (9000, 32))] == [64, 64, 128, 384, 384]
    assert Shape(32, 100).buckets() == [] and Shape(32, 100).width_for(9, 9) == 100
    assert decode_image(encode(word(width=200)), shape).shape == (32, 256, 3)  # 133 of 200 x 48 pixels


def test_an_image_goes_into_its_planes_of_a_batch():
    shape, batch = Shape(32, 100), np.zeros((2, 3, 32, 100), np.uint8)
    data = encode(np.random.default_rng(0).integers(0, 256, (48, 160, 3), np.uint8), ".png")
    assert decode_into(batch[1], data, shape)
    assert (batch[1] == decode_image(data, shape).transpose(2, 0, 1)).all() and not batch[0].any()
    assert not decode_into(batch[0], b"no image", shape)
    with pytest.raises(ValueError, match=r"expected planes of \(32, 64\), found \(32, 100\)"):
        decode_into(batch[0], encode(word(width=48)), Shape(32, 100, "keep"))
