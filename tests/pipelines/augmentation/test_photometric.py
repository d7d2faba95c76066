"""Every operation on pixel values against Pillow's, OpenCV's or the standard library's, a strength for each image."""

import colorsys
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from pictures import HEIGHT, WIDTH, as_pillow, from_pillow, word_images
from pipelines.augmentation import photometric


def per_image(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def add_and_solarize(picture: Image.Image, addend: int) -> Image.Image:
    added = (np.array(picture).astype(int) + addend).clip(0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(added), 128)


FACTORS = [0.28, 0.64, 0.9, 1.0, 1.18, 1.72]
PILLOW = {
    "brightness": (FACTORS, photometric.brightness, lambda picture, v: ImageEnhance.Brightness(picture).enhance(v)),
    "color": (FACTORS, photometric.color, lambda picture, v: ImageEnhance.Color(picture).enhance(v)),
    "contrast": (FACTORS, photometric.contrast, lambda picture, v: ImageEnhance.Contrast(picture).enhance(v)),
    "posterize": ([4, 5, 6, 7, 8], photometric.posterize, lambda picture, v: ImageOps.posterize(picture, v)),
    "solarize": ([26, 103, 128, 231, 256], photometric.solarize, lambda picture, v: ImageOps.solarize(picture, v)),
    "solarize_add": ([-99, -11, 0, 44, 99], photometric.solarize_add, add_and_solarize),
    "autocontrast": ([0] * 6, lambda images, _: photometric.autocontrast(images),
                     lambda picture, _: ImageOps.autocontrast(picture)),
    "equalize": ([0] * 6, lambda images, _: photometric.equalize(images),
                 lambda picture, _: ImageOps.equalize(picture)),
}


@pytest.mark.parametrize("name", PILLOW)
def test_operation_equals_pillows(name):
    strengths, operation, reference = PILLOW[name]
    images = word_images(len(strengths)).float()
    found = operation(images, per_image(strengths))
    expected = torch.stack([from_pillow(reference(as_pillow(image), v)) for image, v in zip(images, strengths)])
    assert torch.equal(found, found.floor())
    difference = (found - expected).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.02, "where the exact value is a whole level, Pillow may land just below"


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
@pytest.mark.parametrize("levels", [[77], [10, 200], [0, 255], list(range(256))])
def test_operation_equals_pillows_on_few_and_all_levels(name, levels):
    chosen = torch.tensor(random.Random(3).choices(levels, k=3 * HEIGHT * WIDTH)).view(1, 3, HEIGHT, WIDTH).float()
    found, expected = getattr(photometric, name)(chosen)[0], from_pillow(getattr(ImageOps, name)(as_pillow(chosen[0])))
    assert (found - expected).abs().max() <= 1


def test_hue_turns_like_the_standard_librarys_hsv():
    images = word_images(4)[:, :, ::4, ::5].float()
    turns = [-0.05, -0.01, 0.03, 0.5]
    found = photometric.hue(images, per_image(turns))
    for image, turn, turned in zip(images, turns, found):
        for pixel, result in zip(image.flatten(1).T.tolist(), turned.flatten(1).T.tolist()):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            assert result == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1, s, v), abs=0.501)


def test_hue_leaves_grey_black_and_white_alone():
    grey = torch.tensor([0.0, 17, 128, 255]).view(4, 1, 1, 1).expand(4, 3, 5, 5)
    assert torch.equal(photometric.hue(grey, per_image([0.05] * 4)), grey)


def test_gaussian_blur_equals_opencvs():
    cv2 = pytest.importorskip("cv2")
    images, sigmas = word_images(4), [0.5, 0.8, 1.1, 1.5]
    found = photometric.gaussian_blur(images.float(), per_image(sigmas))
    for image, sigma, blurred in zip(images, sigmas, found):
        expected = cv2.GaussianBlur(image.permute(1, 2, 0).numpy().astype(np.float64), (5, 5), sigma)
        assert np.abs(blurred.permute(1, 2, 0).numpy() - expected).max() < 1e-3


def test_sharpen_equals_opencvs_filter():
    cv2 = pytest.importorskip("cv2")
    images, alphas, lightnesses = word_images(3), [0.0, 0.2, 0.5], [0.5, 0.0, 0.3]
    found = photometric.sharpen(images.float(), per_image(alphas), per_image(lightnesses))
    for image, alpha, lightness, sharpened in zip(images, alphas, lightnesses, found):
        kernel = np.full((3, 3), -alpha)
        kernel[1, 1] = 1 - alpha + alpha * (8 + lightness)
        expected = cv2.filter2D(image.permute(1, 2, 0).numpy().astype(np.float64), -1, kernel).clip(0, 255)
        assert np.abs(sharpened.permute(1, 2, 0).numpy() - expected).max() < 1e-2


def test_linear_contrast_keeps_grey_127():
    images = torch.tensor([0.0, 127, 227]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert photometric.linear_contrast(images, per_image([0.5]))[0, :, 0, 0].tolist() == [63.5, 127, 177]
