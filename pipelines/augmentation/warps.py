"""Geometric operations: maps of coordinates, composed for every image into one, so that pixels are resampled once.

Coordinates are fractions of the image: (0, 0) its upper left corner, (1, 1) its lower right one; pixel i of W has its
centre at (i + 0.5) / W. A map leads from a place in the result to the place in the source whose colour it gets. Maps
are homogeneous matrices (n, 3, 3) that act on columns (x, y, 1); applying first A, then B to an image is the matrix
A @ B.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def affine(n: int, xx: Tensor | float = 1.0, xy: Tensor | float = 0.0, x: Tensor | float = 0.0,
           yx: Tensor | float = 0.0, yy: Tensor | float = 1.0, y: Tensor | float = 0.0) -> Tensor:
    """(n, 3, 3) of rows (xx, xy, x), (yx, yy, y), (0, 0, 1); each entry one number or (n,)."""
    matrices = torch.zeros(n, 3, 3)
    for place, entry in enumerate((xx, xy, x, yx, yy, y)):
        matrices[:, place // 3, place % 3] = entry
    matrices[:, 2, 2] = 1
    return matrices


def crop(left: Tensor, right: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """Cut fractions (n,) of the sides away and stretch the rest to the whole image."""
    return affine(len(left), xx=1 - left - right, x=left, yy=1 - top - bottom, y=top)


def shear_x(shift: Tensor, height: int, width: int) -> Tensor:
    """Pillow's affine (1, shift, 0, 0, 1, 0): a pixel per row, times `shift` (n,), from the upper left corner."""
    return affine(len(shift), xy=shift * height / width)


def shear_y(shift: Tensor, height: int, width: int) -> Tensor:
    """Pillow's affine (1, 0, 0, shift, 1, 0)."""
    return affine(len(shift), yx=shift * width / height)


def rotate(degrees: Tensor, height: int, width: int) -> Tensor:
    """Pillow's `rotate(degrees)`: counter-clockwise about the centre, in pixels, the size kept."""
    sine, cosine = torch.sin(torch.deg2rad(degrees)), torch.cos(torch.deg2rad(degrees))
    across, along = -sine * height / width, sine * width / height
    return affine(len(degrees), cosine, across, 0.5 - (cosine + across) / 2, along, cosine, 0.5 - (along + cosine) / 2)


def perspective(corners: Tensor) -> Tensor:
    """The projective map of the unit square onto `corners` (n, 4, 2): upper left, upper right, lower right, lower left.

    Closed form of P. Heckbert, Fundamentals of Texture Mapping and Image Warping (1989), section 2.2.3.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (corner.unbind(1) for corner in corners.unbind(1))
    x_sum, y_sum = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    determinant = (x1 - x2) * (y3 - y2) - (x3 - x2) * (y1 - y2)
    g = (x_sum * (y3 - y2) - (x3 - x2) * y_sum) / determinant
    h = ((x1 - x2) * y_sum - x_sum * (y1 - y2)) / determinant
    entries = (x1 - x0 + g * x1, x3 - x0 + h * x3, x0, y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h, torch.ones_like(g))
    return torch.stack(entries, dim=1).view(-1, 3, 3)


def elastic(noise: Tensor, starts: Tensor, strength: Tensor, height: int, width: int) -> Tensor:
    """Displacements (m, 2, H, W) of every pixel on its own, x and y.

    They are windows, from `starts` (m, 2) on, of one strip of `noise` (length,) times `strength` (m, 2, 1, 1): a window
    costs a copy, fresh numbers for every pixel of every image would cost more than all else here.
    """
    windows = noise.as_strided((len(noise) - height * width + 1, height * width), (1, 1))  # overlapping views, no copy
    return windows.index_select(0, starts.flatten()).view(-1, 2, height, width).mul_(strength)


def warp(images: Tensor, matrices: Tensor, moves: Tensor | None = None, border: str = "border") -> Tensor:
    """Resample images (n, 3, H, W) bilinearly at the places where the maps (n, 3, 3) lead.

    `moves` (n, 2, H, W), if given, are displacements (x, y) of each pixel, added to where the matrices lead. `border`
    is grid_sample's padding_mode: "border" repeats the outermost pixels, "zeros" gives black. All tensors lie on one
    device.
    """
    n, _, height, width = images.shape
    x = (torch.arange(width, device=images.device) + 0.5) / width  # (W,)
    y = ((torch.arange(height, device=images.device) + 0.5) / height)[:, None]  # (H, 1)
    m = matrices.view(n, 9, 1, 1).unbind(1)
    grid = images.new_empty(n, 2, height, width)
    for axis in range(2):  # separable in x and y: the sum of a row and a column
        torch.add(m[3 * axis] * x, m[3 * axis + 1] * y + m[3 * axis + 2], out=grid[:, axis])
    grid.div_((m[6] * x + (m[7] * y + m[8])).unsqueeze(1))
    if moves is not None:
        grid.add_(moves)
    grid.mul_(2).sub_(1)  # grid_sample counts from -1 to 1
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), padding_mode=border, align_corners=False)
