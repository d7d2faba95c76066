"""ABINet's and MoCo's views: their maps against OpenCV's, their kernels and crops against plain code, their draws against the published shares."""

import math

import cv2
import numpy as np
import pytest
import torch

from pictures import HEIGHT, WIDTH, seeded, word_images
from pipelines.augmentation import abinet, moco, warps
from pipelines.augmentation.views import augment


def places(maps: torch.Tensor, points: list[tuple[float, float]]) -> np.ndarray:
    """Where a map (3, 3) leads, fractions to fractions."""
    found = np.array([[x, y, 1] for x, y in points]) @ maps.double().numpy().T
    return found[:, :2] / found[:, 2:]


POINTS = [(0.0, 0.0), (1.0, 0.0), (0.3, 0.7), (1.0, 1.0), (0.5, 0.5)]


@pytest.mark.parametrize("degrees", [0.0, 10.0, -37.0, 44.0])
def test_a_rotation_is_opencvs_on_a_canvas_that_holds_it(degrees):
    forward = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, 1.0)
    cosine, sine = abs(forward[0, 0]), abs(forward[0, 1])
    width, height = HEIGHT * sine + WIDTH * cosine, HEIGHT * cosine + WIDTH * sine
    forward[:, 2] += (width - WIDTH) / 2, (height - HEIGHT) / 2
    back = cv2.invertAffineTransform(forward)
    expected = [(back @ (x * width, y * height, 1)) / (WIDTH, HEIGHT) for x, y in POINTS]
    found = places(abinet.sheared(torch.tensor([degrees]), torch.zeros(1, 2), HEIGHT, WIDTH)[0], POINTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_affine_map_shows_the_whole_of_the_sheared_image():
    maps = abinet.sheared(torch.tensor([20.0, -5.0]), torch.tensor([[30.0, -10.0], [-44.0, 14.0]]), HEIGHT, WIDTH)
    for each in maps:
        corners = places(torch.linalg.inv(each), [(0, 0), (1, 0), (1, 1), (0, 1)])  # where the source's corners are shown
        np.testing.assert_allclose([corners.min(0), corners.max(0)], [[0, 0], [1, 1]], atol=1e-5)
    shear = abinet.sheared(torch.zeros(1), torch.tensor([[30.0, 0.0]]), HEIGHT, WIDTH)[0]
    shown = WIDTH + HEIGHT * math.tan(math.radians(30))  # a row moves by tan of the angle times its height
    assert shear[0, 0].item() == pytest.approx(shown / WIDTH, abs=1e-5) and shear[1, 0].item() == pytest.approx(0, abs=1e-6)


def test_a_perspective_is_opencvs_cut_to_the_rectangle_around_its_corners():
    small = torch.tensor([[0.5, 0.9, 0.1, 0.0, 0.7, 0.3, 0.2, 0.6]])
    inwards = np.floor(small.view(4, 2).numpy() * (WIDTH / 4, HEIGHT / 4))  # whole pixels
    corners = np.float32([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]])
    moved = np.float32(corners + inwards * [[1, 1], [-1, 1], [-1, -1], [1, -1]])
    back = cv2.getPerspectiveTransform(moved, corners)
    low, high = moved.min(0), moved.max(0)
    expected = [(lambda place: place[:2] / place[2])(back @ (*(low + (high - low) * point), 1)) / (WIDTH, HEIGHT) for point in POINTS]
    np.testing.assert_allclose(places(abinet.tilted(small, HEIGHT, WIDTH)[0], POINTS), expected, atol=1e-4)


def test_motion_blur_is_a_line_of_equal_taps():
    reach, angle = torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0]), torch.tensor([0.3, 0.0, 0.0, 0.0, math.pi / 2])
    kernels = abinet.line_kernels(reach, angle)
    middle = torch.zeros(5, 5)
    middle[2, 2] = 1
    assert torch.equal(kernels[0], middle)  # of one tap: nothing happens, at any angle
    assert kernels[1, 2].tolist() == [0, 0.5, 0.5, 0, 0] and kernels[2, 2, 1:4].tolist() == pytest.approx([1 / 3] * 3)
    assert kernels[3, 2].tolist() == pytest.approx([0.2] * 5) and torch.allclose(kernels[4, :, 2], torch.full((5,), 0.2), atol=1e-6)
    slanted = abinet.line_kernels(torch.tensor([5.0]), torch.tensor([math.pi / 4]))[0]
    assert slanted.sum().item() == pytest.approx(1, abs=1e-5) and slanted[1, 3] > slanted[1, 1] == 0  # up to the right


def test_rescaling_loses_what_a_small_picture_cannot_hold():
    images = word_images(3).float()
    assert torch.allclose(abinet.rescaled(images, 2), images, atol=1e-3)  # 128 x 32 pixels: as large as the image
    less = [(images - abinet.rescaled(images, halved)).abs().mean() for halved in (3, 4)]
    assert 0 < less[0] < less[1]


def test_abinets_noise_is_of_each_channel_by_itself(monkeypatch):
    seen = []
    monkeypatch.setattr(abinet.deterioration, "add_noise", lambda images, *given, real=abinet.deterioration.add_noise, **named: seen.append(
        real(torch.full_like(images, 128), *given, **named) - 128) or images)
    augment(word_images(1).expand(64, -1, -1, -1), "abinet", seeded(1))
    noise = torch.cat(seen).flatten(2)  # (images, 3, pixels)
    assert noise.std() > 0.5 and abs(torch.corrcoef(noise[0])[0, 1]) < 0.1


def test_abinets_draws_have_the_published_shares(monkeypatch):
    n, seen = 6000, {}
    for name in ("sheared", "tilted", "line_kernels"):
        monkeypatch.setattr(abinet, name, lambda *given, name=name, real=getattr(abinet, name): seen.setdefault(name, given) and None or real(*given))
    counts = {"warp": 0}
    real_warp = warps.warp
    monkeypatch.setattr(warps, "warp", lambda images, *rest: counts.__setitem__("warp", counts["warp"] + len(images)) or real_warp(images, *rest))
    augment(word_images(1, 8, 12).expand(n, -1, -1, -1), "abinet", seeded(3))
    degrees, shears, *_ = seen["sheared"]
    assert degrees.abs().max() < 45 and degrees.mean().abs() < 1 and degrees.std().item() == pytest.approx(45 / 3, rel=0.05)  # Beta(4, 4): 1 / 3 of the half
    assert (shears.abs() < torch.tensor([45.0, 15.0])).all() and (shears[:, 0] == 0).float().mean().item() == pytest.approx(2 / 3, abs=0.03)
    assert seen["tilted"][0].mean().item() == pytest.approx(0.2, abs=0.01)  # Beta(1, 4)
    reach = seen["line_kernels"][0]
    assert set(reach.tolist()) == {1, 2, 3, 4, 5} and (reach == 1).float().mean().item() == pytest.approx(1 - (1 - 2 / 6) ** 4, abs=0.03)
    assert counts["warp"] / n == pytest.approx(0.5, abs=0.02)


def plain_crop(tries: np.ndarray, height: int, width: int) -> tuple[float, float, float, float]:
    """torchvision's RandomResizedCrop.get_params, one image at a time: left, top, width, height."""
    for area, proportion, x, y in tries:
        target = height * width * (0.2 + 0.8 * area)
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * proportion)
        across, down = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < across <= width and 0 < down <= height:
            return math.floor(x * (width - across + 1)), math.floor(y * (height - down + 1)), across, down
    across = round(height * 4 / 3) if width / height > 4 / 3 else width
    down = height if width / height > 4 / 3 else round(width / (3 / 4)) if width / height < 3 / 4 else height
    return (width - across) // 2, (height - down) // 2, across, down


@pytest.mark.parametrize("height, width", [(32, 100), (32, 40), (64, 48), (32, 20)])
def test_mocos_crops_are_those_of_a_plain_reimplementation(height, width):
    tries = torch.rand(200, moco.TRIES, 4, generator=seeded(2), dtype=torch.float64)
    found = moco.crops(tries, height, width).double()
    expected = np.array([plain_crop(each, height, width) for each in tries.numpy()])
    ours = np.stack([found[:, 0, 2] * width, found[:, 1, 2] * height, found[:, 0, 0] * width, found[:, 1, 1] * height], 1)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_mocos_blur_is_gaussian(sigma):
    images = word_images(2).float()
    found = moco.blur(images, torch.full((2, 1, 1, 1), sigma))
    side = 2 * moco.TAPS + 1
    expected = np.stack([cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (side, side), sigma, borderType=cv2.BORDER_REPLICATE).transpose(2, 0, 1)
                         for image in images])
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_moco_never_mirrors_and_makes_a_fifth_gray():
    n = 3000
    view = augment(word_images(1, 16, 24).expand(n, -1, -1, -1), "moco", seeded(7))
    gray = (view - view.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-6
    assert gray.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (moco.crops(torch.rand(n, moco.TRIES, 4, generator=seeded(1)), 32, 100)[:, 0, 0] > 0).all()
