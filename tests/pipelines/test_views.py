"""The views: every operation against Pillow, OpenCV or a slow reference, and what `augment` promises."""

import colorsys
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from pipelines import photometric, views, warps
from pipelines.errors import BadInput
from pipelines.views import VIEWS, augment

HEIGHT, WIDTH = 32, 100


def word_images(n: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """n pictures of words as crops show them: coloured letters on a shaded, noisy ground of few or many grey levels."""
    noise = np.random.default_rng(7)
    pictures = []
    for number in range(n):
        ground = noise.integers(40, 200, 3) + np.linspace(0, 50, width)[None, :, None] + noise.normal(0, 4, (height, width, 3))
        picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
        ImageDraw.Draw(picture).text((6, height // 4), f"Word {number:03d}", fill=tuple(int(v) for v in noise.integers(0, 256, 3)))
        pictures.append(np.asarray(picture))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def as_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy())


def from_pillow(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def per_image(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Each operation on pixel values against Pillow's, with another strength for every image of the batch.

FACTORS = [0.28, 0.64, 0.9, 1.0, 1.18, 1.72]
PILLOW = {
    "brightness": (FACTORS, photometric.brightness, lambda picture, v: ImageEnhance.Brightness(picture).enhance(v)),
    "color": (FACTORS, photometric.color, lambda picture, v: ImageEnhance.Color(picture).enhance(v)),
    "contrast": (FACTORS, photometric.contrast, lambda picture, v: ImageEnhance.Contrast(picture).enhance(v)),
    "posterize": ([4, 5, 6, 7, 8], photometric.posterize, lambda picture, v: ImageOps.posterize(picture, v)),
    "solarize": ([26, 103, 128, 231, 256], photometric.solarize, lambda picture, v: ImageOps.solarize(picture, v)),
    "solarize_add": ([-99, -11, 0, 44, 99], photometric.solarize_add,
                     lambda picture, v: ImageOps.solarize(Image.fromarray((np.array(picture).astype(int) + v).clip(0, 255)
                                                                          .astype(np.uint8)), 128)),
    "autocontrast": ([0] * 6, lambda images, _: photometric.autocontrast(images), lambda picture, _: ImageOps.autocontrast(picture)),
    "equalize": ([0] * 6, lambda images, _: photometric.equalize(images), lambda picture, _: ImageOps.equalize(picture)),
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


@pytest.mark.parametrize("operation, reference", [(photometric.autocontrast, ImageOps.autocontrast), (photometric.equalize, ImageOps.equalize)])
@pytest.mark.parametrize("levels", [[77], [10, 200], [0, 255], list(range(256))])
def test_operation_equals_pillows_on_few_and_all_levels(operation, reference, levels):
    chosen = torch.tensor(random.Random(3).choices(levels, k=3 * HEIGHT * WIDTH)).view(1, 3, HEIGHT, WIDTH).float()
    assert (operation(chosen)[0] - from_pillow(reference(as_pillow(chosen[0])))).abs().max() <= 1


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


# Geometry: Pillow's own transform, and a slow float64 resampling.

PILLOW_GEOMETRY = {
    "shear_x": (lambda v: warps.shear_x(v, HEIGHT, WIDTH), [-0.18, 0.12], lambda v: (1, v, 0, 0, 1, 0)),
    "shear_y": (lambda v: warps.shear_y(v, HEIGHT, WIDTH), [-0.18, 0.12], lambda v: (1, 0, 0, v, 1, 0)),
    "translate_x": (lambda v: warps.affine(len(v), x=v / WIDTH), [-18, 12], lambda v: (1, 0, v, 0, 1, 0)),
    "translate_y": (lambda v: warps.affine(len(v), y=v / HEIGHT), [-5, 3], lambda v: (1, 0, 0, 0, 1, v)),
}


def inside(picture_like_white: Image.Image) -> torch.Tensor:
    """Where a white picture, warped the same way, is white with all its neighbours: away from the black that came in and from
    the border, where Pillow repeats the outermost half pixel and grid_sample blends it with black."""
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
    """The definition in float64, pixel by pixel: (3, H, W) seen through a map and displaced control points, border repeated."""
    _, height, width = image.shape
    result = np.zeros_like(image, dtype=np.float64)
    for row in range(height):
        for column in range(width):
            place = np.array([(column + 0.5) / width, (row + 0.5) / height, 1.0])
            x, y, scale = matrix @ place
            across, down = place[0] * (moves.shape[2] - 1), place[1] * (moves.shape[1] - 1)
            left, upper = min(int(across), moves.shape[2] - 2), min(int(down), moves.shape[1] - 2)
            corner = moves[:, upper:upper + 2, left:left + 2]
            weight_down, weight_across = [1 - (down - upper), down - upper], [1 - (across - left), across - left]
            x, y = np.array([x, y]) / scale + np.einsum("cij,i,j->c", corner, weight_down, weight_across)
            x, y = np.clip(x * width - 0.5, 0, width - 1), np.clip(y * height - 0.5, 0, height - 1)
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            upper_row = image[:, y0, x0] * (1 - x + x0) + image[:, y0, x1] * (x - x0)
            lower_row = image[:, y1, x0] * (1 - x + x0) + image[:, y1, x1] * (x - x0)
            result[:, row, column] = upper_row * (1 - y + y0) + lower_row * (y - y0)
    return result


def test_composed_warp_equals_slow_resampling():
    images = word_images(2)
    cropped = warps.crop(*torch.tensor([[0.02, 0.0], [0.0, 0.01], [0.3, 0.1], [0.25, 0.4]]))
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]) + torch.randn(2, 4, 2, generator=seeded(1)) * 0.02
    matrices = cropped @ warps.perspective(corners)
    moves = torch.randn(2, 2, 4, 4, generator=seeded(2)) * 0.03
    found = warps.warp(images.float(), matrices, moves)
    for image, matrix, move, warped in zip(images, matrices, moves, found):
        expected = resample_slowly(image.numpy().astype(np.float64), matrix.numpy().astype(np.float64), move.numpy().astype(np.float64))
        assert np.abs(warped.numpy() - expected).max() < 0.05


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


# What `augment` promises for every view.

def test_none_is_only_normalisation():
    images = word_images(3)
    assert torch.equal(augment(images, "none", seeded(0)), images / 127.5 - 1)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("n, height, width", [(1, 32, 100), (5, 32, 128), (3, 48, 37), (0, 32, 100)])
def test_shape_range_and_untouched_input(name, n, height, width):
    images = word_images(n, height, width) if n else torch.zeros(0, 3, height, width, dtype=torch.uint8)
    before = images.clone()
    view = augment(images, name, seeded(4))
    assert view.shape == images.shape and view.dtype == torch.float32
    assert torch.equal(images, before)
    assert not n or (view.amin() >= -1 and view.amax() <= 1 and view.std() > 0.01)


@pytest.mark.parametrize("name", ["weak", "strong", "seqclr"])
def test_the_generator_is_the_only_source_of_randomness(name):
    images = word_images(16)
    torch.manual_seed(1)
    first = augment(images, name, seeded(5))
    torch.manual_seed(2)
    assert torch.equal(augment(images, name, seeded(5)), first)
    assert not torch.equal(augment(images, name, seeded(6)), first)
    generator = seeded(5)
    augment(images, name, generator)
    assert not torch.equal(augment(images, name, generator), first), "the generator moves on"


@pytest.mark.parametrize("name", ["weak", "strong", "seqclr"])
def test_images_of_a_batch_are_augmented_independently(name):
    same = word_images(1).expand(64, -1, -1, -1)
    view = augment(same, name, seeded(8))
    assert len(torch.unique(view.flatten(1), dim=0)) >= {"weak": 64, "strong": 45, "seqclr": 64}[name]


@pytest.mark.parametrize("name", ["weak", "strong", "seqclr"])
def test_an_image_does_not_depend_on_its_neighbours(name):
    images = word_images(12)
    others = images.clone()
    others[:6] = 255 - others[:6]
    assert torch.equal(augment(images, name, seeded(9))[6:], augment(others, name, seeded(9))[6:])


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_float32_under_autocast(name):
    images = word_images(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside_autocast = augment(images, name, seeded(3))
    assert torch.equal(inside_autocast, augment(images, name, seeded(3)))


def test_unknown_view_names_the_nearest():
    with pytest.raises(BadInput, match="no view 'stronk'.*perhaps 'strong'"):
        augment(word_images(1), "stronk", seeded(0))


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 32, 100), torch.zeros(2, 1, 32, 100, dtype=torch.uint8),
                                    torch.zeros(3, 32, 100, dtype=torch.uint8), torch.zeros(2, 3, 2, 100, dtype=torch.uint8)])
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(ValueError, match="expected images"):
        augment(images, "weak", seeded(0))


# The parameters, seen from outside: what the operations were given.

def record(monkeypatch, n: int, name: str) -> dict[str, list[tuple[torch.Tensor, ...]]]:
    """Run a view over n images and return, for each operation called, the strengths it got, by place in the order."""
    calls: dict[str, list[tuple[torch.Tensor, ...]]] = {}

    def spy(module, operation):
        real = getattr(module, operation)

        def called(images, *values, **options):
            calls.setdefault(operation, []).append((torch.ones(len(images)), *values))
            return real(images, *values, **options)
        monkeypatch.setattr(module, operation, called)
    for operation in ("brightness", "contrast", "color", "hue", "autocontrast", "equalize", "posterize", "solarize", "solarize_add",
                      "linear_contrast", "gaussian_blur", "sharpen"):
        spy(photometric, operation)
    spy(warps, "warp")
    augment(torch.randint(0, 256, (1, 3, 8, 9), dtype=torch.uint8, generator=seeded(0)).expand(n, -1, -1, -1), name, seeded(11))
    return {operation: [torch.cat(column).flatten(1) if column[0].ndim > 1 else torch.cat(column) for column in zip(*parts)]
            for operation, parts in calls.items()}


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    """Within the bounds, and filling them: mean and deviation of a uniform distribution to a few percent of its width."""
    assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert values.std().item() == pytest.approx((high - low) / 12 ** 0.5, abs=0.03 * (high - low))


def test_weak_strengths(monkeypatch):
    calls = record(monkeypatch, 4000, "weak")
    assert set(calls) == {"brightness", "contrast", "color", "hue"}
    for operation, (low, high) in {"brightness": (0.8, 1.2), "contrast": (0.9, 1.1), "color": (0.9, 1.1), "hue": (-0.05, 0.05)}.items():
        count, strength = calls[operation]
        assert len(count) == 4000, "every image gets every operation once"
        assert_uniform(strength, low, high)


def test_strong_strengths(monkeypatch):
    calls = record(monkeypatch, 8000, "strong")
    assert len(calls["warp"][0]) == pytest.approx(8000 * 0.75, rel=0.03), "one of two draws on space has effect"
    for operation in ("autocontrast", "brightness", "color", "contrast", "equalize", "posterize", "solarize", "solarize_add"):
        assert len(calls[operation][0]) == pytest.approx(8000 * 2 * 0.5 / 8, rel=0.12)
    factors = {round(level * 1.8 / 10 + 0.1, 4) for level in range(1, 10)}
    for operation in ("brightness", "color", "contrast"):
        assert {round(v, 4) for v in calls[operation][1].flatten().tolist()} == factors
    assert set(calls["posterize"][1].flatten().tolist()) == {4, 5, 6, 7}
    assert set(calls["solarize"][1].flatten().tolist()) == {256 - int(level * 25.6) for level in range(1, 10)}
    assert set(calls["solarize_add"][1].flatten().tolist()) == {sign * 11 * level for level in range(1, 10) for sign in (-1, 1)}


def test_spatial_draws_of_strong():
    """One draw on a 100 x 32 image: each operation's published levels, with both signs, as entries of the map in pixels."""
    level, sign = torch.arange(1.0, 5).repeat(2), torch.tensor([1.0, -1]).repeat_interleave(4)
    to_pixels = torch.tensor([[1, WIDTH / HEIGHT, WIDTH], [HEIGHT / WIDTH, 1, HEIGHT], [1, 1, 1]])

    def draw(choice):
        return views._spatial(torch.full((8,), choice), level, sign, HEIGHT, WIDTH) * to_pixels
    strengths = sign * torch.tensor([0.12, 0.14, 0.16, 0.18] * 2)
    assert torch.allclose(draw(0)[:, 0, 1], strengths) and torch.allclose(draw(1)[:, 1, 0], strengths)
    assert draw(2)[:, 0, 2].round(decimals=3).tolist() == [12, 14, 16, 18, -12, -14, -16, -18]
    assert draw(3)[:, 1, 2].round(decimals=3).tolist() == [3, 4, 5, 5, -3, -4, -5, -5]
    assert torch.rad2deg(torch.atan2(draw(4)[:, 1, 0], draw(4)[:, 1, 1])).round(decimals=3).tolist() == [11, 12, 13, 14, -11, -12, -13, -14]
    assert torch.equal(draw(-1), torch.eye(3).expand(8, 3, 3))


def test_seqclr_strengths(monkeypatch):
    calls = record(monkeypatch, 8000, "seqclr")
    for operation in ("linear_contrast", "gaussian_blur", "sharpen"):
        assert len(calls[operation][0]) == pytest.approx(8000 * 4 / 7, rel=0.05), "k of 7, k uniform in 1..7"
    assert_uniform(calls["linear_contrast"][1], 0.5, 1.0)
    assert_uniform(calls["gaussian_blur"][1], 0.5, 1.5)
    assert_uniform(calls["sharpen"][1], 0.0, 0.5)
    assert_uniform(calls["sharpen"][2], 0.0, 0.5)


def test_seqclr_geometry():
    """Crops alone: 0 to 40 % of the height from the top and the bottom each, 0 to 2 % of the width from each side."""
    n = 4000
    uniform, normal = torch.rand(n, 7, generator=seeded(1)), torch.randn(n, 40, generator=seeded(2))
    matrices, moves = views._seqclr_geometry(torch.tensor([1.0, 1, 0, 0]).expand(n, 4), uniform, normal, HEIGHT)
    left, top = matrices[:, 0, 2], matrices[:, 1, 2]
    assert_uniform(left, 0, 0.02)
    assert_uniform(1 - left - matrices[:, 0, 0], 0, 0.02)
    assert_uniform(top, 0, 0.4)
    assert_uniform(1 - top - matrices[:, 1, 1], 0, 0.4)
    assert not moves.any()
    matrices, moves = views._seqclr_geometry(torch.tensor([0.0, 0, 1, 1]).expand(n, 4), uniform, normal, HEIGHT)
    assert moves.flatten(1).std().item() == pytest.approx(0.025, rel=0.05)
    deviation = moves.flatten(1).std(dim=1)
    assert deviation.min() > 0.01 and deviation.max() < 0.05
    corner = (matrices @ torch.tensor([1.0, 1.0, 1.0]))
    corner = 1 - corner[:, :2] / corner[:, 2:]
    assert corner.min() >= -1e-6, "corners move inwards: nothing from outside comes in"
    assert corner.square().mean().sqrt().item() == pytest.approx(0.0153, rel=0.05)


def test_a_vertical_crop_leaves_a_row():
    used, uniform = torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 7)
    matrices, _ = views._seqclr_geometry(used, uniform, torch.zeros(1, 40), 3)
    assert matrices[0, 1, 1] * 3 >= 1 - 1e-5
    matrices, _ = views._seqclr_geometry(used, uniform, torch.zeros(1, 40), 32)
    assert matrices[0, 1, 1].item() == pytest.approx(0.2)
