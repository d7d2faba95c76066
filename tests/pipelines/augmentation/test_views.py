"""What `augment` promises for every view, and the strengths that the views draw."""

import pytest
import torch

from pictures import HEIGHT, WIDTH, seeded, word_images
from pipelines.augmentation import operations, photometric, views, warps
from pipelines.augmentation.views import VIEWS, augment
from pipelines.errors import BadInput

ON_CHANNELS = ("brightness", "contrast", "color", "autocontrast", "equalize", "posterize", "solarize", "solarize_add")


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


@pytest.mark.parametrize("name", ["weak", "strong", "seqclr", "semimtr", "abinet", "moco"])
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


@pytest.mark.parametrize("name", ["weak", "strong", "seqclr", "semimtr", "abinet", "moco"])
def test_images_of_a_batch_are_augmented_independently(name):
    same = word_images(1).expand(64, -1, -1, -1)
    view = augment(same, name, seeded(8))
    assert len(torch.unique(view.flatten(1), dim=0)) >= {"weak": 64, "strong": 45, "seqclr": 64, "semimtr": 60, "abinet": 36, "moco": 64}[name]


@pytest.mark.parametrize("name", ["weak", "strong", "seqclr", "semimtr", "abinet", "moco"])
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


def test_each_image_gets_its_own_operations_in_its_own_order_with_its_own_strengths():
    n = 3 * operations.CACHED + 5
    start, addend, factor = torch.arange(float(n)), torch.arange(n) * 10.0, torch.arange(n) % 3 + 2.0
    drawn = torch.tensor([[0, 1], [1, 0], [-1, 1], [-1, -1], [0, 0]]).repeat(n // 5 + 1, 1)[:n]
    both = [(lambda images, number: images + number, addend.view(n, 1, 1, 1)),
            (lambda images, number: images * number, factor.view(n, 1, 1, 1))]
    found = operations.in_order(start.view(n, 1, 1, 1).clone(), drawn, both).flatten()
    cases = torch.stack([(start + addend) * factor, start * factor + addend, start * factor, start, start + 2 * addend])
    assert torch.equal(found, cases[torch.arange(n) % 5, torch.arange(n)])


def test_unknown_view_names_the_nearest():
    with pytest.raises(BadInput, match="no view 'stronk'.*perhaps 'strong'"):
        augment(word_images(1), "stronk", seeded(0))


@pytest.mark.parametrize("shape, dtype", [((2, 3, 32, 100), torch.float32), ((2, 1, 32, 100), torch.uint8),
                                          ((3, 32, 100), torch.uint8), ((2, 3, 2, 100), torch.uint8)])
def test_what_is_no_batch_of_images_is_refused(shape, dtype):
    with pytest.raises(ValueError, match="expected images"):
        augment(torch.zeros(shape, dtype=dtype), "weak", seeded(0))


def record(monkeypatch, n: int, name: str) -> dict[str, list[tuple[torch.Tensor, ...]]]:
    """Run a view over n images and return, for each operation called, the strengths it got, by place in the order."""
    calls: dict[str, list[tuple[torch.Tensor, ...]]] = {}

    def spy(module, operation, of_images=True):
        real = getattr(module, operation)

        def called(first, *values, **options):
            given = [value for value in values if isinstance(value, torch.Tensor)]
            calls.setdefault(operation, []).append((torch.ones(len(first)), *given) if of_images else tuple(given))
            return real(first, *values, **options)
        monkeypatch.setattr(module, operation, called)
    for operation in (*ON_CHANNELS, "hue", "linear_contrast", "gaussian_blur", "sharpen"):
        spy(photometric, operation)
    spy(warps, "warp")
    spy(warps, "elastic", of_images=False)
    augment(word_images(1, 8, 12).expand(n, -1, -1, -1), name, seeded(11))
    return {operation: [torch.cat(column) for column in zip(*parts)] for operation, parts in calls.items()}


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    """Within the bounds, and filling them: mean and deviation of a uniform distribution."""
    assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert values.std().item() == pytest.approx((high - low) / 12 ** 0.5, abs=0.03 * (high - low))


def test_weak_strengths(monkeypatch):
    calls = record(monkeypatch, 4000, "weak")
    assert set(calls) == {"brightness", "contrast", "color", "hue"}
    bounds = {"brightness": (0.8, 1.2), "contrast": (0.9, 1.1), "color": (0.9, 1.1), "hue": (-0.05, 0.05)}
    for operation, (low, high) in bounds.items():
        count, strength = calls[operation]
        assert len(count) == 4000, "every image gets every operation once"
        assert_uniform(strength, low, high)


def test_strong_strengths(monkeypatch):
    calls = record(monkeypatch, 8000, "strong")
    assert len(calls["warp"][0]) == pytest.approx(8000 * 0.75, rel=0.03), "one of two draws on space has effect"
    for operation in ON_CHANNELS:
        assert len(calls[operation][0]) == pytest.approx(8000 * 2 * 0.5 / 8, rel=0.12)
    factors = {round(level * 1.8 / 10 + 0.1, 4) for level in range(1, 10)}
    for operation in ("brightness", "color", "contrast"):
        assert {round(v, 4) for v in calls[operation][1].flatten().tolist()} == factors
    assert set(calls["posterize"][1].flatten().tolist()) == {4, 5, 6, 7}
    assert set(calls["solarize"][1].flatten().tolist()) == {256 - int(level * 25.6) for level in range(1, 10)}
    assert set(calls["solarize_add"][1].flatten().tolist()) == {11 * level for level in range(-9, 10) if level}


def test_strong_composes_two_spatial_draws(monkeypatch):
    """Of the images moved at all (3 of 4), two thirds are moved by one operation and one third by two."""
    maps = record(monkeypatch, 4000, "strong")["warp"][1]
    level, sign = torch.arange(1.0, 5).repeat(2), torch.tensor([1.0, -1]).repeat_interleave(4)
    single = torch.cat([views._spatial(torch.full((8,), choice), level, sign, 8, 12) for choice in range(5)])
    alone = torch.cdist(maps.flatten(1), single.flatten(1)).amin(dim=1) < 1e-5
    assert alone.float().mean().item() == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_colour_operations_keep_whole_grey_levels(name):
    levels = (augment(word_images(64), name, seeded(12)) + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3


def test_spatial_draws_of_strong():
    """One draw on a 100 x 32 image: each operation's published levels, both signs, as entries of a map in pixels."""
    level, sign = torch.arange(1.0, 5).repeat(2), torch.tensor([1.0, -1]).repeat_interleave(4)
    to_pixels = torch.tensor([[1, WIDTH / HEIGHT, WIDTH], [HEIGHT / WIDTH, 1, HEIGHT], [1, 1, 1]])

    def draw(choice):
        return views._spatial(torch.full((8,), choice), level, sign, HEIGHT, WIDTH) * to_pixels
    strengths = sign * torch.tensor([0.12, 0.14, 0.16, 0.18] * 2)
    assert torch.allclose(draw(0)[:, 0, 1], strengths) and torch.allclose(draw(1)[:, 1, 0], strengths)
    assert draw(2)[:, 0, 2].round(decimals=3).tolist() == [12, 14, 16, 18, -12, -14, -16, -18]
    assert draw(3)[:, 1, 2].round(decimals=3).tolist() == [3, 4, 5, 5, -3, -4, -5, -5]
    angles = torch.rad2deg(torch.atan2(draw(4)[:, 1, 0], draw(4)[:, 1, 1]))
    assert angles.round(decimals=3).tolist() == [11, 12, 13, 14, -11, -12, -13, -14]
    assert torch.equal(draw(-1), torch.eye(3).expand(8, 3, 3))


def test_seqclr_strengths(monkeypatch):
    calls = record(monkeypatch, 8000, "seqclr")
    for operation in ("linear_contrast", "gaussian_blur", "sharpen"):
        assert len(calls[operation][0]) == pytest.approx(8000 * 4 / 7, rel=0.05), "k of 7, k uniform in 1..7"
    assert_uniform(calls["linear_contrast"][1], 0.5, 1.0)
    assert_uniform(calls["gaussian_blur"][1], 0.5, 1.5)
    assert_uniform(calls["sharpen"][1], 0.0, 0.5)
    assert_uniform(calls["sharpen"][2], 0.0, 0.5)
    starts, reach = calls["elastic"]
    assert len(starts) == pytest.approx(8000 * 4 / 7, rel=0.05)
    assert_uniform(starts.float(), 0, views.NOISE)
    assert_uniform(reach[:, 0].flatten() * 12, 0, 0.8)


def test_seqclr_draws_one_to_all_operations_in_every_order(monkeypatch):
    orders = set()
    for seed in range(40):
        called = []
        for operation in ("linear_contrast", "gaussian_blur", "sharpen"):
            monkeypatch.setattr(photometric, operation, lambda images, *_, of=operation: called.append(of) or images)
        augment(word_images(1), "seqclr", seeded(seed))
        orders.add(tuple(called))
    assert {len(order) for order in orders} == {0, 1, 2, 3}
    assert len(orders) >= 12, "of the 16 arrangements of up to three operations"


def test_seqclr_crops():
    """0 to 40 % of the height from the top and the bottom each, 0 to 2 % of the width from each side."""
    uniform = torch.rand(4000, 4, generator=seeded(1))
    both = views._random_crop(torch.tensor([[True, True]]), uniform, HEIGHT)
    left, top = both[:, 0, 2], both[:, 1, 2]
    assert_uniform(left, 0, 0.02)
    assert_uniform(1 - left - both[:, 0, 0], 0, 0.02)
    assert_uniform(top, 0, 0.4)
    assert_uniform(1 - top - both[:, 1, 1], 0, 0.4)
    vertical = views._random_crop(torch.tensor([[True, False]]), uniform, HEIGHT)
    assert torch.equal(vertical[:, 1], both[:, 1]) and (vertical[:, 0] == torch.tensor([1.0, 0, 0])).all()


@pytest.mark.parametrize("height, kept", [(32, 0.2), (3, 1 / 3)])
def test_the_largest_vertical_crop_leaves_a_row(height, kept):
    largest = views._random_crop(torch.tensor([[True, False]]), torch.ones(1, 4), height)
    assert largest[0, 1, 1].item() == pytest.approx(kept, abs=1e-5)


def test_seqclr_perspective_moves_corners_inwards():
    uniform, normal = torch.rand(4000, 1, generator=seeded(1)), torch.randn(4000, 8, generator=seeded(2))
    lower_right = views._random_perspective(torch.tensor([[True]]), uniform, normal) @ torch.ones(3)
    inwards = 1 - lower_right[:, :2] / lower_right[:, 2:]
    assert inwards.min() >= -1e-6, "nothing from outside comes in"
    deviation = (7 / 3) ** 0.5 / 100  # of |N(0, s)| with s uniform in (0.01, 0.02), about 0
    assert inwards.square().mean().sqrt().item() == pytest.approx(deviation, rel=0.05)
