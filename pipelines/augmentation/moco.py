"""MoCo's view, v2 (Chen et al., arXiv 2003.04297; facebookresearch/moco), which has SimCLR's operations:

    crop       a rectangle of 20 to 100 % of the image's pixels, 3:4 to 4:3 wide, anywhere, stretched to the whole; ten tries to find one that fits in, else
               the largest in the middle
    colour     with probability 0.8: brightness, contrast, saturation times (0.6, 1.4), hue turned by up to 0.1 of the circle, in random order
    gray       with probability 0.2
    blur       with probability 0.5: Gaussian, sigma (0.1, 2)

Left out is the horizontal flip, which shows words that nobody writes. Of a long word the crop shows some characters; that is theirs. Deviation: it cuts the
resized image, not the crop in its own size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pipelines.augmentation import photometric, warps
from pipelines.augmentation.operations import color_jitter, in_order, send

TRIES = 10
TAPS = 4  # pixels of the blur on each side: two deviations of the widest


def moco(images: Tensor, generator: Generator) -> Tensor:
    """Images (n, 3, H, W) float32 of grey levels 0..255 -> their views."""
    n, _, height, width = images.shape
    uniform, tries = torch.rand(n, 9, generator=generator), torch.rand(n, TRIES, 4, generator=generator)
    order = torch.rand(n, 4, generator=generator).argsort(dim=1)
    images = in_order(images, torch.zeros(n, 1, dtype=torch.int64), [(warps.warp, send(crops(tries, height, width), images))])
    images = color_jitter(images.round_(), torch.where(uniform[:, 4:5] < 0.8, order, -1), uniform[:, :4], (0.4, 0.4, 0.4, 0.1))
    images = in_order(images, (uniform[:, 5:6] < 0.2).long() - 1, [(photometric.color, images.new_zeros(n, 1, 1, 1))])
    sigma = send((0.1 + 1.9 * uniform[:, 7]).view(n, 1, 1, 1), images)
    return in_order(images, (uniform[:, 6:7] < 0.5).long() - 1, [(blur, sigma)])


def crops(tries: Tensor, height: int, width: int) -> Tensor:
    """The maps (n, 3, 3) of torchvision's random resized crop: draws (n, TRIES, 4) in [0, 1) of area, proportions and place."""
    area = height * width * (0.2 + 0.8 * tries[..., 0])
    proportion = (math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * tries[..., 1]).exp()  # width to height
    across, down = (area * proportion).sqrt().round(), (area / proportion).sqrt().round()  # pixels
    fits = (across <= width) & (down <= height) & (across > 0) & (down > 0)  # (n, TRIES)
    first = fits.float().argmax(1, keepdim=True)
    across, down, place = across.gather(1, first), down.gather(1, first), tries.gather(1, first.unsqueeze(2).expand(-1, -1, 4)).squeeze(1)
    across, down, fits = across.squeeze(1), down.squeeze(1), fits.any(1)
    left = (place[:, 2] * (width - across + 1)).floor()
    top = (place[:, 3] * (height - down + 1)).floor()
    largest = (min(width, round(height * 4 / 3)), height) if width / height > 4 / 3 else (width, min(height, round(width / (3 / 4))))
    across, down = torch.where(fits, across, largest[0]), torch.where(fits, down, largest[1])
    left, top = torch.where(fits, left, (width - largest[0]) // 2), torch.where(fits, top, (height - largest[1]) // 2)
    return warps.crop(left / width, 1 - (left + across) / width, top / height, 1 - (top + down) / height)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian, each image by its own sigma (m, 1, 1, 1); the border repeats."""
    offset = torch.arange(-TAPS, TAPS + 1, device=images.device, dtype=images.dtype)
    taps = (-0.5 * (offset / sigma.view(-1, 1)).square()).exp()
    taps = taps / taps.sum(1, keepdim=True)  # (m, taps)
    padded = F.pad(images, (TAPS,) * 4, mode="replicate").transpose(0, 1)  # (3, m, …): a group for each image
    found = F.conv2d(padded, taps.view(len(taps), 1, -1, 1), groups=len(taps))
    return F.conv2d(found, taps.view(len(taps), 1, 1, -1), groups=len(taps)).transpose(0, 1)
