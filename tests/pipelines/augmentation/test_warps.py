"""Geometry against Pillow's own transforms and a slow resampling in float64."""

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import HEIGHT, WIDTH, as_pillow, from_pillow, seeded, word_images
from pipelines.augmentation import warps

PILLOW_GEOMETRY = {
    "shear_x": (lambda v: warps.shear_x(v, HEIGHT, WIDTH), [-0.18, 0.12], lambda v: (1, v, 0, 0, 1, 0)),
    "shear_y": (lambda v: warps.shear_y(v, HEIGHT, WIDTH), [-0.18, 0.12], lambda v: (1, 0, 0, v, 1, 0)),
    "translate_x": (lambda v: warps.affine(len(v), x=v / WIDTH), [-18, 12], lambda v: (1, 0, v, 0, 1, 0)),
    "translate_y": (lambda v: warps.affine(len(v), y=v / HEIGHT), [-5, 3], lambda v: (1, 0, 0, 0, 1, v)),
}


def inside(picture_like_white: Image.Image) -> torch.Tensor:
    """Where a white picture, warped the same way, is white with all its neighbours: away from the black that came in,
    and from the border, where Pillow repeats the outermost half pixel and grid_sample blends it with black."""
    black = torch.nn.functional.pad((from_pillow(picture_like_white)[:1] < 255).float(), (1, 1, 1, 1), value=1.0)
    return torch.nn.functional.max_pool2d(black[None], 3, 1)[0] == 0


@pytest.mark.parametrize("name", PILLOW_GEOMETRY)
def test_affine_equals_pillows_transform(name):
    make, strengths, coefficients = PILLOW_GEOMETRY[name]
    images = word_images(len(strengths))
    found = warps.warp(images.float(), make(torch.tensor(strengths, dtype=torch.float32)), border="zeros").round()
    for image, strength, warped in zip(images, strengths, found):
        def transform(picture):
            return picture.transform(picture.size, Image.AFFINE, coefficients(strength), resample=Image.BILINEAR)
        mask = inside(transform(Image.new("RGB", (WIDTH, HEIGHT), "white"))).expand_as(warped)
        assert mask.float().mean() > 0.5
        assert (warped - from_pillow(transform(as_pillow(image))))[mask].abs().max() <= 1
        assert warped.amin() == 0 or strength == 0, "what comes in from outside is black"


@pytest.mark.parametrize("degrees", [-14.0, 11.0])
def test_rotation_equals_pillows(degrees):
    image = word_images(1)
    found = warps.warp(image.float(), warps.rotate(torch.tensor([degrees]), HEIGHT, WIDTH), border="zeros").round()[0]
    mask = inside(Image.new("RGB", (WIDTH, HEIGHT), "white").rotate(degrees, Image.BILINEAR)).expand_as(found)
    assert (found - from_pillow(as_pillow(image[0]).rotate(degrees, Image.BILINEAR)))[mask].abs().max() <= 1


def resample_slowly(image: np.ndarray, matrix: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The definition in float64, pixel by pixel: (3, H, W) seen through a map and displacements, border repeated."""
    _, height, width = image.shape
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y, scale = matrix @ np.array([(column + 0.5) / width, (row + 0.5) / height, 1.0])
            x, y = np.array([x, y]) / scale + moves[:, row, column]
            x, y = np.clip(x * width - 0.5, 0, width - 1), np.clip(y * height - 0.5, 0, height - 1)
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            upper = image[:, y0, x0] * (1 - x + x0) + image[:, y0, x1] * (x - x0)
            lower = image[:, y1, x0] * (1 - x + x0) + image[:, y1, x1] * (x - x0)
            result[:, row, column] = upper * (1 - y + y0) + lower * (y - y0)
    return result


def test_composed_warp_equals_slow_resampling():
    images = word_images(2).float()
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    tilted = warps.perspective(square + torch.randn(2, 4, 2, generator=seeded(1)) / 50)
    matrices = warps.crop(*torch.tensor([[0.02, 0.0], [0.0, 0.01], [0.3, 0.1], [0.25, 0.4]])) @ tilted
    moves = torch.randn(2, 2, HEIGHT, WIDTH, generator=seeded(2)) * 0.01
    found = warps.warp(images, matrices, moves)
    for image, matrix, move, warped in zip(images, matrices, moves, found):
        expected = resample_slowly(*(tensor.double().numpy() for tensor in (image, matrix, move)))
        assert np.abs(warped.numpy() - expected).max() < 0.05


def test_elastic_displacements_are_windows_of_the_noise():
    starts, strength = torch.tensor([[0, 10], [3, 18]]), torch.tensor([[1.0, 2], [1, 1]]).view(2, 2, 1, 1)
    moves = warps.elastic(torch.arange(30.0), starts, strength, 3, 4)
    assert torch.equal(moves[0, 0], torch.arange(12.0).view(3, 4))
    assert torch.equal(moves[0, 1], 2 * torch.arange(10.0, 22).view(3, 4))
    assert moves[1, 1, 2, 3] == 29


def test_perspective_leads_to_the_corners():
    corners = torch.tensor([[[0.02, 0.01], [0.97, 0.03], [0.99, 0.98], [0.0, 0.95]]])
    square = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    places = square @ warps.perspective(corners)[0].T
    assert torch.allclose(places[:, :2] / places[:, 2:], corners[0], atol=1e-6)


def test_maps_compose_as_one_operation_after_the_other():
    """Shifts by whole pixels lose nothing in resampling, so one composed warp equals two."""
    images = word_images(2).float()
    first, second = warps.affine(2, x=7 / WIDTH), warps.affine(2, y=-5 / HEIGHT)
    twice = warps.warp(warps.warp(images, first, border="zeros"), second, border="zeros")
    assert torch.allclose(warps.warp(images, first @ second, border="zeros"), twice, atol=1e-2)
