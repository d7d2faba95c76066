"""Rectification by a thin-plate spline (RARE, Shi et al., CVPR 2016), as the four-stage benchmark builds it.

A small network places 20 fiducial points along the upper and the lower edge of the word; the thin-plate spline that
carries the fixed base points to them says where each pixel of the straightened image is sampled.

The spline's coefficients are the inverse of a matrix times the points, and a pixel's place is its basis times the coefficients. The two
products are made one, in float64: in float32 the coefficients cancel almost entirely, and the benchmark's own image, which takes one product
after the other, is 40 times as far from the true one as ours.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.precision import Table, at_least_float32, exactly


def _base_points(fiducials: int) -> Tensor:
    """(fiducials, 2) float64 as (x, y) in [-1, 1]: half of them along the top edge, half along the bottom edge."""
    x = torch.linspace(-1, 1, fiducials // 2, dtype=torch.float64)
    top, bottom = torch.stack([x, -torch.ones_like(x)], 1), torch.stack([x, torch.ones_like(x)], 1)
    return torch.cat([top, bottom])


def _first_points(fiducials: int) -> Tensor:
    """Where an untrained network places the points: a slanted band, asymmetric on purpose (RARE, figure 6a)."""
    x = torch.linspace(-1, 1, fiducials // 2, dtype=torch.float64)
    top = torch.stack([x, torch.linspace(0, -1, fiducials // 2, dtype=torch.float64)], 1)
    bottom = torch.stack([x, torch.linspace(1, 0, fiducials // 2, dtype=torch.float64)], 1)
    return torch.cat([top, bottom])


def spline_table(fiducials: int, height: int, width: int) -> Tensor:
    """(height * width, fiducials) float64: what each point contributes to the place of every pixel, rows of the image first."""
    base = _base_points(fiducials)
    ones = torch.ones(fiducials, 1, dtype=torch.float64)
    distance = torch.cdist(base, base, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(1.0)  # ln 1 = 0
    matrix = torch.zeros(fiducials + 3, fiducials + 3, dtype=torch.float64)
    matrix[:fiducials] = torch.cat([ones, base, distance**2 * distance.log()], 1)
    matrix[fiducials:fiducials + 2, 3:] = base.t()
    matrix[fiducials + 2, 3:] = 1
    x = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
    y = (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1
    pixels = torch.cartesian_prod(y, x).flip(1)  # (height * width, 2) as (x, y), rows of the image first
    reach = torch.cdist(pixels, base, compute_mode="donot_use_mm_for_euclid_dist")
    basis = torch.cat([torch.ones(len(pixels), 1, dtype=torch.float64), pixels, reach**2 * (reach + 1e-6).log()], 1)
    # The last three conditions are 0, so their columns of the inverse are never used.
    return basis @ torch.linalg.inv(matrix)[:, :fiducials]


class ThinPlateSpline(nn.Module):
    """(n, channels, H, W) -> (n, channels, height, width), straightened. 1.69 M parameters for one channel.

    The table follows from the sizes, so it is not part of the state dict.
    """

    def __init__(self, channels: int = 1, height: int = 32, width: int = 100, fiducials: int = 20) -> None:
        super().__init__()
        self.height, self.width, self.fiducials = height, width, fiducials
        self.localization = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(256, 512, 3, padding=1, bias=False), nn.BatchNorm2d(512), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        self.localization_hidden = nn.Linear(512, 256)
        self.localization_points = nn.Linear(256, 2 * fiducials)
        self.reset_points()
        self.table = Table(partial(spline_table, fiducials, height, width), coordinates=True)

    def reset_points(self) -> None:
        """Makes the network place the same first points on every image."""
        with torch.no_grad():
            self.localization_points.weight.zero_()
            self.localization_points.bias.copy_(_first_points(self.fiducials).flatten())

    def points(self, images: Tensor) -> Tensor:
        """The fiducial points (n, fiducials, 2) as (x, y) in [-1, 1] that the network sees in (n, channels, H, W)."""
        features = at_least_float32(self.localization(images).flatten(1))
        # Coordinates stay in float32 under autocast: bfloat16 near 1 is coarser than a tenth of a pixel.
        with exactly(images):
            hidden = F.relu(self.localization_hidden(features), inplace=True)
            return self.localization_points(hidden).unflatten(1, (self.fiducials, 2))

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, channels, height, width)."""
        points = self.points(images)
        with exactly(images):
            grid = (self.table() @ points).unflatten(1, (self.height, self.width))  # (n, height, width, 2) as (x, y)
            return F.grid_sample(at_least_float32(images), grid, padding_mode="border", align_corners=True)
