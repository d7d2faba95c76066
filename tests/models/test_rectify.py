"""The thin-plate spline against what any such spline must do."""

import pytest
import torch
import torch.nn.functional as F

from models.encoders.rectify import ThinPlateSpline, spline_table


def placing(points, width):
    """A rectifier that places the same points (20, 2) on every image."""
    rectifier = ThinPlateSpline(width=width).eval()
    with torch.no_grad():
        rectifier.localization_points.bias.copy_(points.flatten())
    return rectifier


def base_points():
    x = torch.linspace(-1, 1, 10)
    return torch.cat([torch.stack([x, -torch.ones(10)], 1), torch.stack([x, torch.ones(10)], 1)])


def pixel_centres(width):
    x, y = (2 * torch.arange(width) + 1) / width - 1, (2 * torch.arange(32) + 1) / 32 - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)  # (32, width, 2)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("width", [100, 128])
def test_points_moved_by_an_affine_map_move_every_pixel_by_it(width):
    images = torch.rand(2, 1, 32, width, generator=torch.Generator().manual_seed(0))
    matrix, shift = torch.tensor([[0.8, 0.1], [-0.2, 0.5]]), torch.tensor([0.05, -0.1])
    expected = F.grid_sample(images, (pixel_centres(width) @ matrix.t() + shift).expand(2, -1, -1, -1),
                             padding_mode="border", align_corners=True)
    with torch.no_grad():
        torch.testing.assert_close(placing(base_points() @ matrix.t() + shift, width)(images), expected,
                                   rtol=0, atol=1e-10)


def test_the_output_has_the_size_that_was_asked_for_whatever_comes_in():
    assert ThinPlateSpline(channels=3, height=32, width=128)(torch.zeros(2, 3, 48, 160)).shape == (2, 3, 32, 128)


def test_points_stay_in_float32_under_autocast():
    rectifier = ThinPlateSpline().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rectifier.points(torch.zeros(1, 1, 32, 100)).dtype == torch.float32
        assert rectifier(torch.zeros(1, 1, 32, 100)).dtype == torch.float32


def test_float64_is_kept_and_makes_the_table_anew():
    rectifier = placing(base_points(), 100)
    assert rectifier.table().dtype == torch.float32
    with torch.no_grad():
        rectifier = rectifier.half().bfloat16().double()
        assert rectifier.points(torch.zeros(1, 1, 32, 100).double()).dtype == torch.float64
        assert rectifier(torch.zeros(1, 1, 32, 100).double()).dtype == torch.float64
    assert torch.equal(rectifier.table(), spline_table(20, 32, 100))
    assert torch.equal(rectifier.float().table(), spline_table(20, 32, 100).float())


def test_coordinates_are_as_near_to_the_truth_as_float32_allows():
    """The benchmark's two tables, applied one after the other, are 1e-4 off."""
    points = base_points() + 0.2 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    table = spline_table(20, 32, 100)
    unit, products = 2.0**-24, table.shape[1]
    # What the table's rounding, the products' and their sum's can change at most: each term by 20 + 2 roundings.
    limit = (table.abs() @ points.double().abs()) * (products + 2) * unit
    assert ((table.float() @ points).double() - table @ points.double()).abs().le(limit).all() and limit.max() < 1e-5


def test_the_table_is_not_in_the_state_dict():
    assert not any("table" in name for name in ThinPlateSpline().state_dict())
