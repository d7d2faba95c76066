"""Rectification by a thin-plate spline as ASTER does it (Shi et al., TPAMI 2019), which SVTR's authors took over.

A small network sees the image at 32 x 64 and places 20 points along the upper and the lower edge of the text; the thin-plate spline that
carries fixed base points to them says where each pixel of the straightened image is sampled in the image as it came. It differs from the
rectifier of the four-stage benchmark (rectify.py): coordinates run over [0, 1] from the first pixel's centre to the last one's, the
base points keep a margin from the edges, and an untrained network shows the whole image, its edges drawn out a little all around.

Deviation: in training, a single image is normed with the running statistics where the reference stops, since one row has no variance.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.precision import Table, at_least_float32, exactly

SEEN = (32, 64)  # height and width at which the network looks at the image
POINTS = 20
BASE_MARGIN, FIRST_MARGIN = 0.05, 0.01  # of the base points, and of an untrained network's


def _edge_points(margin: float) -> Tensor:
    """(20, 2) float64 as (x, y) in [0, 1]: ten along the top edge, ten along the bottom edge."""
    x = torch.linspace(margin, 1 - margin, POINTS // 2, dtype=torch.float64)
    return torch.cat([torch.stack([x, torch.full_like(x, y)], 1) for y in (margin, 1 - margin)])


def _basis(places: Tensor, base: Tensor) -> Tensor:
    """What the spline is a sum of, at (m, 2) places: (m, points + 3): r² ln r to each base point, 1, x, y."""
    reach = torch.cdist(places, base, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.cat([torch.xlogy(reach**2, reach), torch.ones_like(places[:, :1]), places], 1)


def _spline_table(height: int, width: int) -> Tensor:
    """(height * width, 20) float64: what each of the points contributes to the place of every pixel, rows of the image first.

    The spline's coefficients are the inverse of a matrix times the points, and a place is a sum of these; the two products are made one.
    """
    base = _edge_points(BASE_MARGIN)
    conditions = torch.cat([torch.ones_like(base[:, :1]), base], 1).t()  # of coefficients that bend nothing far away
    matrix = torch.cat([_basis(base, base), F.pad(conditions, (0, 3))])
    y = torch.linspace(0, 1, height, dtype=torch.float64)
    x = torch.linspace(0, 1, width, dtype=torch.float64)
    pixels = torch.cartesian_prod(y, x).flip(1)  # (height * width, 2) as (x, y)
    # The conditions' right-hand sides are 0, so their columns of the inverse are never used.
    return _basis(pixels, base) @ torch.linalg.inv(matrix)[:, :POINTS]


class _Norm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one."""

    def forward(self, features: Tensor) -> Tensor:
        """(n, width) -> the same; with the running statistics in eval mode and for n = 1."""
        if features.shape[0] > 1:
            return super().forward(features)
        return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _convolution(channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class SpatialTransformer(nn.Module):
    """(n, channels, H, W) -> (n, channels, height, width), straightened. 1,853,768 parameters for three channels.

    The table follows from the sizes, so it is not part of the state dict.
    """

    def __init__(self, channels: int = 3, height: int = 32, width: int = 100) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.localization = nn.Sequential(
            *_convolution(channels, 32), nn.MaxPool2d(2), *_convolution(32, 64), nn.MaxPool2d(2), *_convolution(64, 128), nn.MaxPool2d(2),
            *_convolution(128, 256), nn.MaxPool2d(2), *_convolution(256, 256), nn.MaxPool2d(2), *_convolution(256, 256))  # (256, 1, 2)
        self.localization_hidden = nn.Linear(512, 512)
        self.localization_norm = _Norm(512)
        self.localization_points = nn.Linear(512, 2 * POINTS)
        self.reset_points()
        self.table = Table(partial(_spline_table, height, width), coordinates=True)

    def reset_points(self) -> None:
        """Makes the network place the same first points on every image, along its upper and its lower edge."""
        with torch.no_grad():
            self.localization_points.weight.zero_()
            self.localization_points.bias.copy_(_edge_points(FIRST_MARGIN).flatten())

    def points(self, images: Tensor) -> Tensor:
        """The points (n, 20, 2) as (x, y), in [0, 1] if inside the image, that the network sees in (n, channels, H, W)."""
        small = F.interpolate(images, SEEN, mode="bilinear", align_corners=True)
        features = at_least_float32(self.localization(small).flatten(1))  # (n, 512)
        # Coordinates stay in float32 under autocast: bfloat16 near 1 is as coarse as half a pixel.
        with exactly(images):
            hidden = F.relu(self.localization_norm(self.localization_hidden(features)))
            return self.localization_points(0.1 * hidden).unflatten(1, (POINTS, 2))

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, channels, height, width). Places outside the image show its edge."""
        points = self.points(images)
        with exactly(images):
            places = self.table() @ points  # (n, height * width, 2) as (x, y)
            grid = 2 * places.clamp(0, 1) - 1
            return F.grid_sample(at_least_float32(images), grid.unflatten(1, (self.height, self.width)), align_corners=True)
