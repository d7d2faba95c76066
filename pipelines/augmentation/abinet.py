"""ABINet's view (Fang et al., CVPR 2021), with the settings of its and SemiMTR's code; SemiMTR takes it for its weak view. In this order:

    space, with probability 0.5, one of (a third each)
        rotation     by 45 degrees at most
        affine       the same, with shears of at most 45 and 15 degrees
        perspective  the corners moved inwards by at most a quarter of the height and of the width
    deterioration, with probability 0.25, all three in random order
        noise        normal, of variance max(1, 20 B) in whole levels, each channel by itself
        motion blur  over max(1, 6 B) pixels in any direction
        rescaling    through an image of 512 x 128 that was halved 0 to 4 times
    colour, with probability 0.25: brightness, contrast, saturation times (0.5, 1.5), hue turned by up to 0.1 of the circle, in random order

Angles, shears are symmetric, Beta(4, 4)-shaped; B and how far corners move is Beta(1, 4)-shaped: mostly small. The picture grows so that it holds what was turned,
and is then fitted to its size again; what comes in repeats the border.

Deviations: theirs draws kinds, strengths and order of space and deterioration once for a whole data set, ours for every image; it acts on the resized image; the
scale of their affine, which the fitting undoes, is left out; interpolation is bilinear, where theirs draws one of four; what holds the corners is the upright
rectangle around them; a picture halved twice or less, which is larger than a word's, loses nothing.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pipelines.augmentation import deterioration, warps
from pipelines.augmentation.operations import color_jitter, in_order, send

NOISE = 2 ** 16  # numbers in the strip from which noise is cut
LONGEST = 5  # pixels of motion blur: int(6 B), B below 1


def abinet(images: Tensor, generator: Generator) -> Tensor:
    """Images (n, 3, H, W) float32 of grey levels 0..255 -> their views."""
    n, _, height, width = images.shape
    uniform = torch.rand(n, 13, generator=generator)
    turned = 2 * torch.rand(n, 3, 7, generator=generator).sort(dim=2).values[..., 3] - 1  # Beta(4, 4): the middle one of seven; in (-1, 1)
    small = 1 - (1 - torch.rand(n, 10, generator=generator)) ** 0.25  # Beta(1, 4)
    strip = send(torch.randn(NOISE + 3 * height * width, generator=generator), images)
    order, colours = (torch.rand(n, count, generator=generator).argsort(dim=1) for count in (3, 4))

    kind = (uniform[:, 1] * 3).long()  # rotation, affine, perspective
    shears = turned[:, 1:] * torch.tensor([45.0, 15.0]) * (kind == 1).unsqueeze(1)
    maps = torch.where((kind == 2).view(-1, 1, 1), tilted(small[:, :8], height, width), sheared(45 * turned[:, 0], shears, height, width))
    images = in_order(images, (uniform[:, :1] < 0.5).long() - 1, [(warps.warp, send(maps, images))])

    variance = (20 * small[:, 8]).floor().clamp(min=1)
    reach, angle = (6 * small[:, 9]).floor().clamp(1, LONGEST), math.pi * (uniform[:, 2] - 0.5)
    halved = (4 * uniform[:, 3:4]).round().long()  # of which up to twice is larger than a word's image: nothing is lost
    rescales = torch.where(halved < 3, -1, halved - 1)  # 2: halved three times, 3: four times
    spoiled = torch.where(uniform[:, 4:5] < 0.25, torch.where(order == 2, rescales, order), -1)
    images = in_order(images, spoiled, [
        (lambda some, scale, starts: deterioration.add_noise(some, scale, strip, starts.flatten(), channels=3), send(variance.sqrt().view(n, 1, 1, 1), images),
         send((uniform[:, 5:6] * NOISE).long(), images)),
        (deterioration.filtered, send(line_kernels(reach, angle), images)),
        (partial(rescaled, halved=3),), (partial(rescaled, halved=4),)])

    return color_jitter(images.round_(), torch.where(uniform[:, 6:7] < 0.25, colours, -1), uniform[:, 7:11], (0.5, 0.5, 0.5, 0.1))


def sheared(degrees: Tensor, shears: Tensor, height: int, width: int) -> Tensor:
    """The maps (n, 3, 3) of a turn by degrees (n,), counter-clockwise, of an image sheared by degrees (n, 2), x and y; the whole of it is shown."""
    turn, (x, y) = torch.deg2rad(degrees), torch.deg2rad(shears).unbind(1)
    a, c = torch.cos(turn - y) / torch.cos(y), torch.sin(turn - y) / torch.cos(y)  # a rotation, a shear along y and one along x, in pixels
    b, d = -a * torch.tan(x) - torch.sin(turn), -c * torch.tan(x) + torch.cos(turn)
    forward = torch.stack([torch.stack([d, -b], 1), torch.stack([-c, a], 1)], 1)  # y points down: the inverse turns counter-clockwise
    size = torch.tensor([width, height], dtype=torch.float32)
    corners = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size
    extent = (corners @ forward.transpose(1, 2)).abs().amax(1) * 2  # (n, 2): what holds the corners, in pixels
    back = torch.linalg.inv(forward) * extent.unsqueeze(1) / size.view(2, 1)  # from fractions of what is shown to fractions of the source
    offset = 0.5 - back.sum(2) / 2  # the middle stays
    return warps.affine(len(degrees), back[:, 0, 0], back[:, 0, 1], offset[:, 0], back[:, 1, 0], back[:, 1, 1], offset[:, 1])


def tilted(small: Tensor, height: int, width: int) -> Tensor:
    """The maps (n, 3, 3) of corners that move inwards by a share (n, 8) in [0, 1) of a quarter of each side, in whole pixels; the rectangle around them is shown."""
    size = torch.tensor([width, height], dtype=torch.float32)
    inwards = (small.view(-1, 4, 2) * size / 4).floor() / size
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    corners = square + inwards * (1 - 2 * square)  # where the image's corners come to stand
    low, high = corners.amin(1), corners.amax(1)
    shown = warps.crop(low[:, 0], 1 - high[:, 0], low[:, 1], 1 - high[:, 1])
    return torch.linalg.inv(warps.perspective(corners)) @ shown


def line_kernels(reach: Tensor, angle: Tensor) -> Tensor:
    """(m, LONGEST, LONGEST): a line of `reach` (m,) taps of 1 / reach, 1 to LONGEST, turned by an angle (radians) about the tap in its middle; an even one
    reaches one further to one side."""
    side, middle = LONGEST, LONGEST // 2
    offset = torch.arange(side, dtype=torch.float32) - middle
    taps = (offset >= -(reach // 2).unsqueeze(1)) & (offset <= (reach - 1 - reach // 2).unsqueeze(1))  # (m, side)
    x, y = offset * angle.cos().unsqueeze(1), -offset * angle.sin().unsqueeze(1)  # (m, side): where each tap comes to lie
    column, row = offset.view(1, 1, 1, -1), offset.view(1, 1, -1, 1)
    near = (1 - (x[:, :, None, None] - column).abs()).clamp(min=0) * (1 - (y[:, :, None, None] - row).abs()).clamp(min=0)  # bilinear
    return (near * taps[:, :, None, None]).sum(1) / reach.view(-1, 1, 1)


def rescaled(images: Tensor, halved: int) -> Tensor:
    """Through 512 x 128 pixels halved so often: what a small picture loses. Larger than the image, it loses nothing."""
    height, width = images.shape[2:]
    less = F.interpolate(images, (min(height, 128 >> halved), min(width, 512 >> halved)), mode="bilinear", antialias=True)
    return F.interpolate(less, (height, width), mode="bilinear").clamp_(0, 255)
