"""Operations that spoil pixels, each on a batch at once with its own strength for every image: noise, filters, colours.

As in `photometric`: images (m, 3, H, W) float32 holding grey levels 0..255, strengths (m, 1, 1, 1), results new tensors that keep fractions. Noise is
cut from strips of numbers that the caller has drawn, (length,), at a place of its own for every image, (m,).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.augmentation import photometric

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
FEW = 8  # images at a time on a CPU where there are many intermediate results, which then stay in its cache


def luma(images: Tensor) -> Tensor:
    """(m, 3, H, W) -> (m, 1, H, W)."""
    return sum(weight * channel for weight, channel in zip(LUMA, images.split(1, dim=1)))


def invert(images: Tensor) -> Tensor:
    """255 - x."""
    return 255 - images


def shuffle_channels(images: Tensor, order: Tensor) -> Tensor:
    """Channels in another order; `order` (m, 3) int64."""
    return images.gather(1, order[:, :, None, None].expand_as(images))


def grayscale(images: Tensor, alpha: Tensor) -> Tensor:
    """Towards gray: (1 - alpha) x + alpha luma."""
    return images.lerp(luma(images).expand_as(images), alpha.expand_as(images))


def equalize_luma(images: Tensor) -> Tensor:
    """The luma's histogram made even, as OpenCV's equalizeHist does, the colours moved with it."""
    gray = luma(images).round_().clamp_(0, 255).long().flatten(1)  # (m, H * W)
    histogram = images.new_zeros(len(gray), 256).scatter_add_(1, gray, images.new_ones(1).expand(gray.shape))
    cumulated = histogram.cumsum(1)
    first = cumulated.gather(1, (histogram > 0).float().argmax(1, keepdim=True))  # pixels of the darkest level that there is
    table = ((cumulated - first) * 255 / (gray.shape[1] - first).clamp(min=1)).round_().clamp_(0, 255)
    moved = (table.gather(1, gray) - gray).view(len(images), 1, *images.shape[2:])
    return (images + torch.where((gray.shape[1] - first).view(-1, 1, 1, 1) > 0, moved, 0)).clamp_(0, 255)


def quantize_colors(images: Tensor, colors: Tensor, places: Tensor, rounds: int = 4) -> Tensor:
    """As few colours as k-means finds in some rounds (Lloyd) among every seventh pixel: each pixel gets the mean of the nearest cluster.

    colors: (m,) int64, of each image. places: (m, most) int64, the pixels whose colours the clusters begin with, of which the first `colors` count.
    """
    pixels = images.flatten(2)  # (m, 3, H * W)
    centres = pixels.gather(2, places.unsqueeze(1).expand(-1, 3, -1))  # (m, 3, most)
    some = pixels[:, :, ::7].contiguous()  # an odd step, so that it does not walk down columns
    unused = torch.arange(places.shape[1], device=images.device) >= colors.unsqueeze(1)  # (m, most)
    for _ in range(rounds):
        members = _members(some, centres, unused)  # (m, most, H * W / 7)
        count, total = members.sum(2).unsqueeze(1), some @ members.transpose(1, 2)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
    members = _members(pixels, centres, unused)
    return (centres @ members / members.sum(1, keepdim=True)).view_as(images)


def _members(pixels: Tensor, centres: Tensor, unused: Tensor) -> Tensor:
    """(m, most, pixels): 1 where a cluster is the pixel's nearest, 0 elsewhere; more than one where they are equally near. By matrices, for argmax and scattering take
    seven times as long."""
    farther = centres.square().sum(1).masked_fill(unused, 1e9).unsqueeze(2)  # (m, most, 1)
    near = torch.baddbmm(farther, centres.transpose(1, 2), pixels, beta=-1, alpha=2)  # less the pixel's own square, the same for all
    return near.eq_(near.amax(1, keepdim=True))


def drop_pixels(images: Tensor, share: Tensor, by_channel: Tensor, strip: Tensor, starts: Tensor) -> Tensor:
    """A share of the pixels black; where `by_channel` (m, 1, 1, 1) is 1 each channel by itself. strip: uniform in [0, 1)."""
    kept = cut(strip, starts, images.shape, 3).ge(share).to(images.dtype)
    return images * kept[:, :1].lerp(kept, by_channel.gt(0).to(images.dtype).expand_as(kept))


def gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """255 (x / 255)^exponent."""
    return (images / 255).log_().mul_(exponent).exp_().mul_(255)  # pow takes longer


def multiply(images: Tensor, factor: Tensor) -> Tensor:
    """x times a factor, which is HSV's value times it."""
    return (images * factor).clamp_(0, 255)


def shift_hue_and_saturation(images: Tensor, turn: Tensor, addend: Tensor) -> Tensor:
    """HSV: the hue turned by a fraction of the circle, `addend` levels added to the saturation (0..255), the value kept."""
    value, chroma, sextant = photometric.value_chroma_hue(images)
    coloured = chroma.clone().gt_(0)  # gray has no hue to show
    saturation = (chroma / value.clamp(min=1e-6)).addcmul_(coloured, addend[:, 0], value=1 / 255).clamp_(0, 1)
    return photometric.of_value_chroma_hue(value, saturation.mul_(value), sextant.add_(turn[:, 0], alpha=6))


def color_temperature(images: Tensor, kelvin: Tensor) -> Tensor:
    """As lit by a black body of a temperature: each channel times its share (T. Helland's fit of Charity's table, 1,000 to 40,000 K)."""
    hundreds = kelvin / 100
    warm = hundreds <= 66
    red = torch.where(warm, 255.0, 329.698727446 * (hundreds - 60).clamp(min=1e-3).pow(-0.1332047592))
    green = torch.where(warm, 99.4708025861 * hundreds.log() - 161.1195681661, 288.1221695283 * (hundreds - 60).clamp(min=1e-3).pow(-0.0755148492))
    blue = torch.where(hundreds >= 66, 255.0, torch.where(hundreds <= 19, 0.0, 138.5177312231 * (hundreds - 10).clamp(min=1e-3).log() - 305.0447927307))
    return images * (torch.cat([red, green, blue], 1).clamp(0, 255) / 255)


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image by a kernel of its own, (m, k, k) with k odd; the border is reflected."""
    reach = kernels.shape[1] // 2
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    together = padded.transpose(0, 1)  # (3, m, …): a group for each image
    return F.conv2d(together, kernels.unsqueeze(1), groups=len(images)).transpose(0, 1).clamp(0, 255)


def average_kernels(side: Tensor, largest: int) -> Tensor:
    """Box filters of whole sides (m,), as (m, largest, largest); an even one reaches one pixel further to the left and up, as OpenCV's."""
    offset = torch.arange(largest, device=side.device) - largest // 2  # of each tap from the pixel
    inside = ((offset >= -(side // 2).unsqueeze(1)) & (offset <= ((side - 1) // 2).unsqueeze(1))).float()  # (m, largest)
    return inside.unsqueeze(2) * inside.unsqueeze(1) / side.view(-1, 1, 1) ** 2


def motion_kernels(angle: Tensor, direction: Tensor, side: int = 5) -> Tensor:
    """(m, side, side): a line of taps through the middle, turned by an angle (radians), heavier at one end for a direction in [-1, 1]."""
    weights = torch.linspace(0, 1, side, device=angle.device)
    line = (direction.unsqueeze(1) + 1) / 2 * (1 - weights) + (1 - (direction.unsqueeze(1) + 1) / 2) * weights  # (m, side), from top to bottom
    reach = side // 2
    offset = torch.arange(side, device=angle.device, dtype=torch.float32) - reach
    column, row = offset.view(1, 1, -1), offset.view(1, -1, 1)
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    along, across = cosine * row + sine * column, cosine * column - sine * row  # in the line's own frame
    place = (along + reach).clamp(0, side - 1)
    low = place.floor().long().clamp(max=side - 2)
    value = line.gather(1, low.flatten(1)).view_as(along).lerp(line.gather(1, low.flatten(1) + 1).view_as(along), place - low)
    kernels = value * (1 - across.abs()).clamp(min=0) * (along.abs() <= reach + 0.5)
    return kernels / kernels.sum((1, 2), keepdim=True)


def median(images: Tensor, side: int) -> Tensor:
    """The median of the medians of side x side pixels' rows, the border repeated."""
    if images.device.type == "cpu" and len(images) > FEW:
        return torch.cat([median(few, side) for few in images.split(FEW)])
    reach = side // 2
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    height, width = images.shape[2:]
    rows = _middle([padded[..., start:start + width] for start in range(side)])
    return _middle([rows[:, :, start:start + height] for start in range(side)])


def _middle(values: list[Tensor]) -> Tensor:
    """The median of 3, 5 or 7 tensors, element by element: by exchanges, a hundred times faster than torch.sort."""
    values = list(values)
    for low, high, wants_low, wants_high in _EXCHANGES[len(values)]:
        one, other = values[low], values[high]
        if wants_low:
            values[low] = torch.minimum(one, other)
        if wants_high:
            values[high] = torch.maximum(one, other)
    return values[len(values) // 2]


def _wanted(exchanges: list[tuple[int, int]], middle: int) -> list[tuple[int, int, bool, bool]]:
    """Each exchange with the sides of its result that lead to the middle."""
    wanted, found = {middle}, []
    for low, high in reversed(exchanges):
        found.append((low, high, low in wanted, high in wanted))
        wanted |= {low, high}
    return found[::-1]


# The fewest exchanges that bring the median to the middle: A. Paeth, "Median Finding on a 3 x 3 Grid", Graphics Gems (1990), and N. Devillard's list.
_EXCHANGES = {3: _wanted([(0, 1), (1, 2), (0, 1)], 1),
              5: _wanted([(0, 1), (3, 4), (0, 3), (1, 4), (1, 2), (2, 3), (1, 2)], 2),
              7: _wanted([(0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)], 3)}


def emboss_kernels(alpha: Tensor, strength: Tensor) -> Tensor:
    """(m, 3, 3): the identity blended with light from one corner; alpha and strength (m,)."""
    zero, one = torch.zeros_like(strength), torch.ones_like(strength)
    effect = torch.stack([-1 - strength, -strength, zero, -strength, one, strength, zero, strength, 1 + strength], 1).view(-1, 3, 3)
    identity = torch.zeros_like(effect)
    identity[:, 1, 1] = 1
    return identity.lerp(effect, alpha.view(-1, 1, 1).expand_as(effect))


def add_noise(images: Tensor, scale: Tensor, strip: Tensor, starts: Tensor, channels: int = 1) -> Tensor:
    """Normal noise of a standard deviation, the same on all channels, or with `channels` 3 on each by itself. strip: standard normal."""
    return (images + scale * cut(strip, starts, images.shape, channels)).clamp_(0, 255)


def impulses(images: Tensor, share: float, strip: Tensor, starts: Tensor) -> Tensor:
    """A share of the pixels of each channel black or white, as often. strip: uniform in [0, 1)."""
    drawn = cut(strip, starts, images.shape, 3)
    kept = drawn.clone().ge_(share)  # 1.0 there, 0.0 elsewhere
    white = drawn.ge_(share / 2).sub_(kept)
    return (images * kept).add_(white, alpha=255)


def multiply_pixels(images: Tensor, strip: Tensor, starts: Tensor) -> Tensor:
    """Each pixel times a factor uniform in [0.5, 1.5), the same on all channels. strip: uniform in [0, 1)."""
    return (images * (cut(strip, starts, images.shape, 1) + 0.5)).clamp_(0, 255)


def cut(strip: Tensor, starts: Tensor, shape: torch.Size, channels: int) -> Tensor:
    """(m, channels, H, W): the numbers of a strip from each image's place on."""
    count = channels * math.prod(shape[2:])
    windows = strip.as_strided((len(strip) - count + 1, count), (1, 1))  # overlapping views, no copy
    return windows.index_select(0, starts).view(len(starts), channels, *shape[2:])
