"""Operations on pixel values, each on a batch at once with its own strength for every image.

`images` is always (m, 3, H, W) float32 holding grey levels 0..255, and so is the result, a new tensor. A strength is
(m, 1, 1, 1). The operations from `brightness` to `solarize_add` expect whole grey levels and return whole grey levels,
truncated where Pillow truncates: they compute what ImageEnhance and ImageOps compute on 8-bit images, in any order. The
last three (`linear_contrast`, `gaussian_blur`, `sharpen`) keep fractions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA_WEIGHTS = (19595, 38470, 7471)  # of 65536, Pillow's ITU-R 601-2 luma; sums stay below 2 ** 24: exact in float32


def _luma(images: Tensor) -> Tensor:
    """Pillow's `convert("L")`: (m, 3, H, W) -> (m, 1, H, W), whole grey levels."""
    red, green, blue = images.split(1, dim=1)
    weighted = red * LUMA_WEIGHTS[0]
    weighted.add_(green, alpha=LUMA_WEIGHTS[1]).add_(blue, alpha=LUMA_WEIGHTS[2]).add_(32768)
    return weighted.mul_(1 / 65536).floor_()


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Pillow's `Image.blend(base, images, factor)`: factor 0 gives the base, 1 the images, more than 1 extrapolates."""
    return (images - base).mul_(factor).add_(base).clamp_(0, 255).floor_()


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Brightness: blend with black."""
    return (images * factor).clamp_(0, 255).floor_()


def color(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Color (saturation): blend with the luma of each pixel."""
    return _blend(_luma(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Contrast: blend with the mean luma of the image, rounded."""
    mean = _luma(images).mean(dim=(2, 3), keepdim=True).add_(0.5).floor_()
    return _blend(mean, images, factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Move the hue of every pixel by `turn` (a fraction of the colour circle), its HSV saturation and value kept.

    Pillow's HSV mode stores hue in 256 steps; this one does not, and rounds the result alone.
    """
    value, chroma, sextant = value_chroma_hue(images)
    return of_value_chroma_hue(value, chroma, sextant.add_(turn[:, 0], alpha=6)).round_()


def value_chroma_hue(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """HSV's value, its chroma (saturation times value) and its hue in sixths of the circle, each (m, H, W), of any grey levels."""
    red, green, blue = images.unbind(1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)  # 0 for a grey pixel: whatever hue comes out below is multiplied by 0
    reciprocal = chroma.clamp(min=1e-6).reciprocal_()
    sextant = (red - green).mul_(reciprocal).add_(4)
    sextant.lerp_((blue - red).mul_(reciprocal).add_(2), _equal(green, value))
    sextant.lerp_((green - blue).mul_(reciprocal), _equal(red, value))  # masks, since torch.where is ten times slower
    return value, chroma, sextant


def of_value_chroma_hue(value: Tensor, chroma: Tensor, sextant: Tensor) -> Tensor:
    """The images (m, 3, H, W) that have these; the hue may lie outside of 0..6."""
    result = value.new_empty(len(value), 3, *value.shape[1:])
    for channel, start in enumerate((5, 3, 1)):
        position = sextant + start
        position.sub_((position * (1 / 6)).floor_(), alpha=6)  # into 0..6
        depth = torch.minimum(position, 4 - position).clamp_(0, 1)
        torch.addcmul(value, chroma, depth, value=-1, out=result[:, channel])
    return result


def _equal(left: Tensor, right: Tensor) -> Tensor:
    """1.0 where the two are equal, 0.0 elsewhere."""
    return left.clone().eq_(right)


def autocontrast(images: Tensor) -> Tensor:
    """ImageOps.autocontrast: every channel stretched to 0..255; a channel of one grey level stays."""
    lowest = images.amin(dim=(2, 3), keepdim=True)
    span = images.amax(dim=(2, 3), keepdim=True) - lowest
    return (images - lowest).mul_(255).div_(span.clamp(min=1)).floor_().add_(lowest * (span == 0))


def equalize(images: Tensor) -> Tensor:
    """ImageOps.equalize: every channel through a table made from its histogram, as Pillow makes it."""
    levels = images.long().flatten(2).flatten(0, 1)  # (3m, H * W)
    highest = images.amax(dim=(2, 3)).long().view(-1, 1)
    histogram = images.new_zeros(len(levels), 256)
    histogram.scatter_add_(1, levels, histogram.new_ones(1).expand_as(levels))
    step = ((levels.shape[1] - histogram.gather(1, highest)) / 255).floor_()
    before = histogram.cumsum(dim=1) - histogram  # pixels darker than each level
    table = ((before + (step / 2).floor_()) / step.clamp(min=1)).floor_().clamp_(max=255)
    kept = (step == 0).to(images.dtype)  # too few distinct pixels: Pillow leaves the channel
    table.lerp_(torch.arange(256, dtype=images.dtype, device=images.device).expand_as(table), kept.expand_as(table))
    return table.gather(1, levels).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """ImageOps.posterize: keep the highest `bits` bits."""
    step = torch.exp2(8 - bits)
    return (images / step).floor_().mul_(step)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """ImageOps.solarize: invert the levels from `threshold` up."""
    inverted = images.clone().ge_(threshold)  # 1.0 there, 0.0 elsewhere
    return torch.addcmul(images, inverted, 255 - 2 * images)


def solarize_add(images: Tensor, addend: Tensor) -> Tensor:
    """Add a number of grey levels to all pixels, then solarize at 128, as FixMatch's augmentation pool does."""
    shifted = (images + addend).clamp_(0, 255)
    return torch.minimum(shifted, 255 - shifted)


def linear_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """127 + factor * (x - 127), imgaug's LinearContrast."""
    return torch.addcmul(127 * (1 - factor), images, factor).clamp_(0, 255)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of 5 x 5 taps, the border reflected: OpenCV's GaussianBlur, in imgaug's size for such sigmas."""
    near, far = torch.exp(-0.5 / sigma ** 2), torch.exp(-2 / sigma ** 2)
    total = 1 + 2 * near + 2 * far
    centre, near, far = 1 / total, near / total, far / total
    height, width = images.shape[2:]
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = [padded[:, :, start:start + height] for start in range(5)]
    columns = (rows[2] * centre).addcmul_(rows[1] + rows[3], near).addcmul_(rows[0] + rows[4], far)
    parts = [columns[..., start:start + width] for start in range(5)]
    return (parts[2] * centre).addcmul_(parts[1] + parts[3], near).addcmul_(parts[0] + parts[4], far)


def sharpen(images: Tensor, alpha: Tensor, lightness: Tensor) -> Tensor:
    """imgaug's Sharpen: (1 - alpha) * x + alpha * (x filtered by [-1 -1 -1; -1 8 + lightness -1; -1 -1 -1]).

    The border is reflected.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    rows = (padded[:, :, :height] + padded[:, :, 1:-1]).add_(padded[:, :, 2:])
    around = (rows[..., :width] + rows[..., 1:-1]).add_(rows[..., 2:])  # sum over 3 x 3, the pixel itself included
    return (images * (1 + alpha * (8 + lightness))).addcmul_(around, alpha, value=-1).clamp_(0, 255)
