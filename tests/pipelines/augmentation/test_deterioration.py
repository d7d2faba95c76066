"""The operations of SemiMTR's view against OpenCV, the standard library, and plain loops."""

import colorsys

import cv2
import numpy as np
import pytest
import torch

from pictures import word_images
from pipelines.augmentation import deterioration as spoil


def words(n: int = 4) -> torch.Tensor:
    return word_images(n).float()


def each(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def as_opencv(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


def strip(length: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(length, generator=torch.Generator().manual_seed(seed))


def test_gray_is_opencvs():
    images = words(2)
    found = spoil.grayscale(images, each(1.0, 0.25))
    gray = torch.from_numpy(cv2.cvtColor(as_opencv(images[0]), cv2.COLOR_RGB2GRAY))
    torch.testing.assert_close(found[0], gray.expand(3, -1, -1), atol=1e-2, rtol=0)
    gray = torch.from_numpy(cv2.cvtColor(as_opencv(images[1]), cv2.COLOR_RGB2GRAY))
    torch.testing.assert_close(found[1], 0.75 * images[1] + 0.25 * gray, atol=1e-2, rtol=0)


def test_a_gray_image_is_equalized_as_opencv_does():
    gray = words(1)[:, :1].round().expand(-1, 3, -1, -1).contiguous()
    expected = cv2.equalizeHist(gray[0, 0].numpy().astype(np.uint8))
    np.testing.assert_allclose(spoil.equalize_luma(gray)[0, 0].numpy(), expected, atol=1)
    same = torch.full((1, 3, 8, 8), 93.0)
    torch.testing.assert_close(spoil.equalize_luma(same), same)


def test_equalizing_keeps_the_differences_of_channels():
    images = words(1).clamp(100, 150)  # far from black and white, so that nothing is cut off
    narrow = 120 + (images - 125) * 0.1
    found = spoil.equalize_luma(narrow)
    inside = (found > 0).all(1) & (found < 255).all(1)
    torch.testing.assert_close((found[:, 0] - found[:, 1])[inside], (narrow[:, 0] - narrow[:, 1])[inside], atol=1e-3, rtol=0)


def test_colours_become_as_few_as_asked():
    images = words(3)
    places = torch.randint(0, images[0, 0].numel(), (3, 16), generator=torch.Generator().manual_seed(0))
    found = spoil.quantize_colors(images, torch.tensor([2, 5, 16]), places)
    counts = [len(image.flatten(1).t().unique(dim=0)) for image in found]
    assert counts[0] <= 2 and counts[1] <= 5 and counts[2] <= 16
    errors = (found - images).square().mean((1, 2, 3))
    assert errors[2] < images[2].var() / 4


def test_two_colours_are_found_again():
    image = torch.where(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5, torch.tensor([10.0, 20, 30]).view(1, 3, 1, 1),
                        torch.tensor([200.0, 100, 50]).view(1, 3, 1, 1))
    first, second = image[0, 0].flatten().lt(100).nonzero()[0], image[0, 0].flatten().gt(100).nonzero()[0]
    torch.testing.assert_close(spoil.quantize_colors(image, torch.tensor([2]), torch.stack([first, second], 1)), image)


@pytest.mark.parametrize(("turn", "addend"), [(0.0, 0.0), (0.09, 30.0), (-0.05, -40.0)])
def test_hue_and_saturation_are_those_of_the_standard_library(turn, addend):
    images = words(1)[:, :, ::7, ::9]
    found = spoil.shift_hue_and_saturation(images, each(turn), each(addend))
    for pixel, changed in zip(images[0].flatten(1).t().tolist(), found[0].flatten(1).t().tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in pixel))
        saturation = min(1, max(0, saturation + addend / 255)) if saturation > 0 else 0
        expected = [255 * level for level in colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)]
        assert changed == pytest.approx(expected, abs=0.05)


def test_a_candle_is_red_and_daylight_nearly_white():
    white = torch.full((3, 3, 1, 1), 255.0)
    red, day, blue = spoil.color_temperature(white, each(1500.0, 6600.0, 10000.0)).flatten(1).tolist()
    assert red[0] == 255 and red[1] < 130 and red[2] == 0
    assert min(day) > 248
    assert blue[2] == 255 and blue[0] < 215


@pytest.mark.parametrize("side", [2, 3, 4, 5, 6])
def test_boxes_are_opencvs(side):
    image = words(1)
    expected = cv2.blur(as_opencv(image[0]), (side, side), borderType=cv2.BORDER_REFLECT_101)
    found = spoil.filtered(image, spoil.average_kernels(torch.tensor([side]), 7))[0]
    np.testing.assert_allclose(as_opencv(found), expected, atol=1e-2)


def test_each_image_has_its_own_kernel():
    images = words(3)
    kernels = spoil.emboss_kernels(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.5, 1.5]))
    found = spoil.filtered(images, kernels)
    torch.testing.assert_close(found[0], images[0])
    assert kernels[2].tolist() == [[-2.5, -1.5, 0], [-1.5, 1, 1.5], [0, 1.5, 2.5]]
    for image, kernel, result in zip(images, kernels, found, strict=True):
        expected = cv2.filter2D(as_opencv(image), -1, kernel.numpy(), borderType=cv2.BORDER_REFLECT_101).clip(0, 255)
        np.testing.assert_allclose(as_opencv(result), expected, atol=1e-2)


def test_motion_is_a_line_through_the_middle():
    kernels = spoil.motion_kernels(torch.tensor([0.0, torch.pi / 2, 0.7]), torch.tensor([0.0, 1.0, -0.5]))
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(3))
    torch.testing.assert_close(kernels[0], torch.nn.functional.one_hot(torch.full((5,), 2), 5) / 5)  # a column, all taps alike
    assert kernels[1][2].count_nonzero() >= 4 and kernels[1][[0, 1, 3, 4]].abs().max() < 1e-5  # a row, heavier at one end
    assert (kernels >= 0).all()


@pytest.mark.parametrize("side", [3, 5, 7])
def test_medians_are_of_rows_and_then_of_columns(side):
    image = words(1)
    reach = side // 2
    padded = np.pad(image[0].numpy(), ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    found = spoil.median(image, side)[0]
    for row, column in ((0, 0), (5, 17), (31, 99)):
        window = padded[:, row:row + side, column:column + side]
        np.testing.assert_allclose(found[:, row, column], np.median(np.median(window, 2), 1), atol=1e-4)


def test_a_share_of_the_pixels_is_dropped():
    images = torch.full((2, 3, 32, 100), 200.0)
    found = spoil.drop_pixels(images, each(0.2, 0.2), each(-0.1, 0.1), strip(65536 + 9600), torch.tensor([0, 7]))
    gone = found == 0
    assert gone[0].float().mean().item() == pytest.approx(0.2, abs=0.03) and torch.equal(gone[0, 0], gone[0, 1])
    assert gone[1].float().mean().item() == pytest.approx(0.2, abs=0.03) and not torch.equal(gone[1, 0], gone[1, 1])
    assert (found[~gone] == 200).all()


def test_noise_has_its_deviation_and_impulses_their_share():
    images = torch.full((1, 3, 64, 200), 128.0)
    normal = torch.randn(65536 + 12800, generator=torch.Generator().manual_seed(0))
    noisy = spoil.add_noise(images, each(20.0), normal, torch.tensor([11]))
    assert (noisy - 128).std().item() == pytest.approx(20, rel=0.03) and torch.equal(noisy[0, 0], noisy[0, 2])
    struck = spoil.impulses(images, 0.1, strip(65536 + 38400), torch.tensor([3]))
    assert (struck == 0).float().mean().item() == pytest.approx(0.05, abs=0.01) and (struck == 255).float().mean().item() == pytest.approx(0.05, abs=0.01)
    factors = spoil.multiply_pixels(images, strip(65536 + 12800), torch.tensor([5])) / 128
    assert factors.min() >= 0.5 and factors.max() < 1.5 and factors.mean().item() == pytest.approx(1, abs=0.02)


def test_gamma_brightness_inversion_and_order():
    images = words(2)
    torch.testing.assert_close(spoil.gamma(images, each(1.0, 2.0))[1], images[1] ** 2 / 255)
    torch.testing.assert_close(spoil.multiply(images, each(0.5, 1.5))[1], (images[1] * 1.5).clamp(max=255))
    assert torch.equal(spoil.invert(spoil.invert(images)), images)
    assert torch.equal(spoil.shuffle_channels(images, torch.tensor([[2, 0, 1], [0, 1, 2]]))[0], images[0, [2, 0, 1]])
