"""Views: the augmentations that the objectives ask for by name, on a whole batch at once and on its device.

Every image draws its own operations, their order and their strengths from one CPU generator, so the same seed gives the
same parameters on every device. An operation runs once per place in the order, on the images that drew it there.

none     x / 127.5 - 1.
weak     CCR's weak view (Zheng et al. 2022): colour jitter with brightness 0.2, contrast 0.1, saturation 0.1, hue 0.05
         in random order, in Pillow's 8-bit arithmetic; hue moves in floating point, not in Pillow's 256 steps.
strong   CCR's strong view: two operations on space, then two on colour, see `strong`.
seqclr   SeqCLR's view (Aberdam et al. 2021): one to all of seven operations in random order, see `seqclr`.
semimtr  SemiMTR's view (Aberdam et al. 2022): inverted or not, then one operation on colours, one filter, one kind of noise, see `semimtr`.
abinet   ABINet's (Fang et al. 2021): one operation on space, deterioration, colour jitter, each now and then, see abinet.py.
moco     MoCo v2's (Chen et al. 2020): a crop, colour jitter, gray, blur, see moco.py.
"""

import difflib
import math
from functools import partial

import torch
from torch import Generator, Tensor

from models.precision import exactly
from pipelines.augmentation import deterioration as spoil
from pipelines.augmentation import photometric, warps
from pipelines.augmentation.abinet import abinet
from pipelines.augmentation.moco import moco
from pipelines.augmentation.operations import color_jitter, in_order, send
from pipelines.errors import BadInput

SMALLEST_SIDE = 4  # the widest filter's reflected border needs three pixels beyond the edge
NOISE = 2 ** 16  # numbers in the strip that elastic displacements are cut from


def augment(images: Tensor, name: str, generator: Generator) -> Tensor:
    """Images (n, 3, H, W) uint8 as the view `name` shows them: float32 in [-1, 1], same shape and device.

    The generator lives on the CPU and is the only source of randomness; it moves on by the same amount for every batch
    of one shape. BadInput for an unknown name, ValueError for tensors that are no batch of images.
    """
    if name not in VIEWS:
        near = difflib.get_close_matches(name, VIEWS, n=1)
        raise BadInput(f"there is no view {name!r}: use one of {', '.join(VIEWS)}"
                       + (f" (perhaps {near[0]!r})." if near else "."))
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(f"expected images (n, 3, H, W) of uint8 with sides of at least {SMALLEST_SIDE} pixels, "
                         f"found {tuple(images.shape)} of {images.dtype}.")
    if generator.device.type != "cpu":
        raise ValueError(f"expected a generator on the CPU, found one on {generator.device}: "
                         "its numbers would differ from device to device.")
    with torch.no_grad(), exactly(images):
        return VIEWS[name](images.float(), generator).div_(127.5).sub_(1)


def none(images: Tensor, generator: Generator) -> Tensor:
    """The images as they are. Draws nothing."""
    return images


def weak(images: Tensor, generator: Generator) -> Tensor:
    """Colour jitter in random order, its numbers read as torchvision reads them: factors 1 +- s, hue turned by +- s."""
    n = len(images)
    drawn = torch.rand(n, 8, generator=generator)
    return color_jitter(images, drawn[:, :4].argsort(dim=1), drawn[:, 4:], (0.2, 0.1, 0.1, 0.05))


def strong(images: Tensor, generator: Generator) -> Tensor:
    """CCR's two RandAugment passes, each of two draws with replacement, a draw taking effect with probability 0.5.

    Space, level v uniform in 1..4: shear and translate by v * 0.2 / 10 + 0.1 (pixels per row or column; of the width or
    height, in whole pixels), rotate by v + 10 degrees, all with a random sign. Colour, v uniform in 1..9: autocontrast;
    brightness, colour, contrast by the factor v * 1.8 / 10 + 0.1; equalize; posterize to 4 + v * 4 / 10 bits; solarize
    from 256 - v * 256 / 10; add v * 110 / 10 levels with a random sign and solarize at 128.

    Where the paper is silent, as in the RandAugment of FixMatch's PyTorch port, whose formula for strengths this is:
    what comes in from outside is black, and shears start at the upper left corner. Deviations: the two operations on
    space are one bilinear resampling (there: two, of the nearest pixel, where what the first moved out stays lost) and
    act on the resized image, not on the crop in its own size.
    """
    n, _, height, width = images.shape
    drawn = torch.rand(n, 2, 2, 4, generator=generator)  # (n, passes, draws, (operation, level, fires, sign))
    fires, signs = drawn[..., 2] < 0.5, torch.where(drawn[..., 3] < 0.5, -1.0, 1.0)
    maps = torch.eye(3).repeat(n, 1, 1)
    for draw in range(2):
        level = (drawn[:, 0, draw, 1] * 4).floor() + 1
        choice = torch.where(fires[:, 0, draw], (drawn[:, 0, draw, 0] * 5).long(), -1)
        maps = maps @ _spatial(choice, level, signs[:, 0, draw], height, width)
    moved = fires[:, 0].any(dim=1, keepdim=True).long() - 1
    images = in_order(images, moved, [(_warp_onto_black, send(maps, images))])
    for draw in range(2):
        level = (drawn[:, 1, draw, 1] * 9).floor() + 1
        choice = torch.where(fires[:, 1, draw], (drawn[:, 1, draw, 0] * 8).long(), -1)
        images = in_order(images, choice[:, None], _channel_operations(level, signs[:, 1, draw], images))
    return images


def _spatial(choice: Tensor, level: Tensor, sign: Tensor, height: int, width: int) -> Tensor:
    """The maps (n, 3, 3) of one draw on space; choice 0..4, or -1 for no effect."""
    n, strength = len(level), sign * (level * 0.2 / 10 + 0.1)
    maps = torch.stack([torch.eye(3).repeat(n, 1, 1),
                        warps.shear_x(strength, height, width),
                        warps.shear_y(strength, height, width),
                        warps.affine(n, x=(strength * width).trunc() / width),
                        warps.affine(n, y=(strength * height).trunc() / height),
                        warps.rotate(sign * (level * 10 / 10 + 10), height, width)])
    return maps[choice + 1, torch.arange(n)]


def _warp_onto_black(images: Tensor, maps: Tensor) -> Tensor:
    return warps.warp(images, maps, border="zeros").round_()  # whole grey levels for the operations that follow


def _channel_operations(level: Tensor, sign: Tensor, images: Tensor) -> list[tuple]:
    """The eight operations of one draw on colour, with their strengths for every image."""
    strengths = torch.stack([level * 1.8 / 10 + 0.1, (level * 4 / 10).floor() + 4, 256 - (level * 256 / 10).floor(),
                             (level * 110 / 10).floor() * sign])
    factor, bits, threshold, addend = send(strengths.view(4, -1, 1, 1, 1), images)
    return [(photometric.autocontrast,), (photometric.brightness, factor), (photometric.color, factor),
            (photometric.contrast, factor), (photometric.equalize,), (photometric.posterize, bits),
            (photometric.solarize, threshold), (photometric.solarize_add, addend)]


def seqclr(images: Tensor, generator: Generator) -> Tensor:
    """SeqCLR's some-of: k uniform in 1..7 of these, in random order.

    Linear contrast (0.5, 1); Gaussian blur sigma (0.5, 1.5); sharpen alpha (0, 0.5) lightness (0, 0.5); vertical crop
    of 0 to 40 % from the top and as much from the bottom; horizontal crop of 0 to 2 % from each side, both resized
    back; elastic alpha (0, 0.8) sigma 0.25 in pixels; perspective that moves the corners inwards by |N(0, s)|, s in
    (0.01, 0.02). Ranges are uniform, all as imgaug defines them.

    Elastic stands in the authors' later code for the paper's piecewise affine, whose jitter of 2 to 3 % of the width
    bends an I into a zigzag at 32 x 100. Its sigma mixes less than a thousandth of each neighbour in: left out.
    Deviations: the geometric operations that an image drew are one resampling, at the place of the first of them,
    always in the order crop, perspective, elastic; grey levels keep their fractions between operations.
    """
    n, _, height, width = images.shape
    rank = torch.rand(n, 7, generator=generator).argsort(dim=1).argsort(dim=1)
    uniform, normal = torch.rand(n, 13, generator=generator), torch.randn(n, 8, generator=generator)
    noise = send(2 * torch.rand(NOISE + height * width, generator=generator) - 1, images)
    place = torch.where(rank < (uniform[:, :1] * 7).long() + 1, rank, 7)  # 7: not drawn
    crops, bends, tilts = place[:, 3:5] < 7, place[:, 5:6] < 7, place[:, 6:] < 7
    cropped = _random_crop(crops, uniform[:, 5:9], height)
    maps = cropped @ _random_perspective(tilts, uniform[:, 9:10], normal)
    pixel = torch.stack([cropped[:, 0, 0] / width, cropped[:, 1, 1] / height], dim=1)  # of the result, in the source
    reach = (uniform[:, 10:11] * 0.8 * pixel).view(n, 2, 1, 1)
    starts = (uniform[:, 11:] * NOISE).long()
    ranges = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 1.5, 0.5, 0.5]])
    strengths = ranges[0] + uniform[:, 1:5] * (ranges[1] - ranges[0])
    place, order = torch.cat([place[:, :3], place[:, 3:].amin(dim=1, keepdim=True)], dim=1).sort(dim=1)
    order = torch.where(place < 7, order + ((order == 3) & bends), -1)  # 3 becomes 4 where the warp is elastic too

    def warp_elastically(images: Tensor, maps: Tensor, starts: Tensor, reach: Tensor) -> Tensor:
        return warps.warp(images, maps, warps.elastic(noise, starts, reach, height, width))
    factor, sigma, alpha, lightness = send(strengths.T.reshape(4, n, 1, 1, 1), images)
    maps, starts, reach = send(maps, images), send(starts, images), send(reach, images)
    operations = [(photometric.linear_contrast, factor), (photometric.gaussian_blur, sigma),
                  (photometric.sharpen, alpha, lightness), (warps.warp, maps), (warp_elastically, maps, starts, reach)]
    return in_order(images, order, operations)


def _random_crop(drawn: Tensor, uniform: Tensor, height: int) -> Tensor:
    """The maps (n, 3, 3) of SeqCLR's vertical and horizontal crops, each where `drawn` (n, 2) is True."""
    vertical, most = uniform[:, :2] * 0.4 * drawn[:, :1], 1 - 1 / height
    vertical = vertical * (most / vertical.sum(dim=1, keepdim=True).clamp(min=most))  # one row of pixels remains
    horizontal = uniform[:, 2:] * 0.02 * drawn[:, 1:]
    return warps.crop(*horizontal.unbind(1), *vertical.unbind(1))


def _random_perspective(drawn: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
    """The maps (n, 3, 3) of SeqCLR's perspective, where `drawn` (n, 1) is True."""
    inwards = (normal.abs() * (uniform + 1) * 0.01 * drawn).view(-1, 4, 2)
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return warps.perspective(square + inwards * (1 - 2 * square))


def semimtr(images: Tensor, generator: Generator) -> Tensor:
    """SemiMTR's view, which moves nothing: inverted with probability 0.5, then in this order

    colours, one of: channels shuffled with probability 0.35; gray by (0, 1); 2 to 16 colours by k-means; the luma's histogram made even; up to 20 % of the pixels
        dropped, by channel with probability 0.5; gamma (0.5, 2); brightness times (0.5, 1.5); hue turned by up to 50 / 255 of the circle and up to 50
        levels of saturation; colour temperature 1,100 to 10,000 K.
    filters, one of: sharpen alpha (0, 0.5) lightness (0, 0.5); a blur, one of: Gaussian sigma (0.5, 1.5), box of 2 to 6, median of 3, 5 or 7, motion over 5 pixels.
    noise, one of: emboss alpha (0, 1) strength (0.5, 1.5); normal noise of deviation up to 51; a tenth of each channel black or white; each pixel
        times (0.5, 1.5).

    Ranges are uniform, all as imgaug defines them. Deviations: k-means clusters in RGB, in four rounds, where imgaug does in Lab; medians are of rows, then of columns; the histogram is the luma's, not
    Lab's lightness'; brightness is HSV's value, where imgaug draws one of several colour spaces; gray pixels get no saturation; motion turns its line of taps
    without rounding to pixels; medians of 3, 5 and 7 are drawn as often, impulses are all black or white (imgaug: 1, 2, 2 of 5, and Beta(0.5, 0.5)).
    """
    n, _, height, width = images.shape
    uniform = torch.rand(n, 24, generator=generator)
    order = torch.rand(n, 3, generator=generator).argsort(1)
    places = (torch.rand(n, 16, generator=generator) * height * width).long()
    strip = send(torch.rand(NOISE + 3 * height * width, generator=generator), images)
    normal = send(torch.randn(NOISE + height * width, generator=generator), images)
    starts = send((uniform[:, :2] * NOISE).long(), images)
    inverted = (uniform[:, 2:3] < 0.5).long() - 1  # 0: inverted
    color, blur = (uniform[:, 3:4] * 9).long(), torch.where(uniform[:, 4:5] < 0.5, 0, 1 + (uniform[:, 5:6] * 4).long())
    blur = torch.where(blur == 3, 3 + (uniform[:, 6:7] * 3).long(), torch.where(blur > 3, 6, blur))  # 3, 4, 5: a median of 3, 5, 7; 6: motion
    noise = (uniform[:, 7:8] * 4).long()
    color = torch.where((color == 0) & (uniform[:, 8:9] >= 0.35), -1, color)  # channels stay

    def between(column: int, low: float, high: float) -> Tensor:
        return send((low + (high - low) * uniform[:, column]).view(n, 1, 1, 1), images)

    def whole(column: int, low: int, high: int) -> Tensor:
        return send((low + uniform[:, column] * (high - low + 1)).long(), images)
    images = in_order(images, inverted, [(spoil.invert,)])
    images = in_order(images, color, [
        (spoil.shuffle_channels, send(order, images)), (spoil.grayscale, between(9, 0, 1)), (spoil.quantize_colors, whole(10, 2, 16), send(places, images)),
        (spoil.equalize_luma,), (partial(_dropped, strip), between(11, 0, 0.2), between(12, -0.5, 0.5), starts[:, :1]), (spoil.gamma, between(13, 0.5, 2)),
        (spoil.multiply, between(14, 0.5, 1.5)), (spoil.shift_hue_and_saturation, between(15, -50 / 255, 50 / 255), between(16, -50, 50)),
        (spoil.color_temperature, between(17, 1100, 10000))])
    images = in_order(images, blur, [
        (photometric.sharpen, between(18, 0, 0.5), between(19, 0, 0.5)), (photometric.gaussian_blur, between(18, 0.5, 1.5)),
        (spoil.filtered, spoil.average_kernels(whole(18, 2, 6), 7)), (partial(spoil.median, side=3),), (partial(spoil.median, side=5),),
        (partial(spoil.median, side=7),), (spoil.filtered, spoil.motion_kernels(2 * math.pi * _flat(between(18, 0, 1)), _flat(between(19, -1, 1))))])
    return in_order(images, noise, [
        (spoil.filtered, spoil.emboss_kernels(_flat(between(20, 0, 1)), _flat(between(21, 0.5, 1.5)))),
        (partial(_noisy, normal), between(20, 0, 51), starts[:, 1:]), (partial(_struck, strip), starts[:, 1:]), (partial(_scaled, strip), starts[:, 1:])])


def _flat(strengths: Tensor) -> Tensor:
    return strengths.flatten()


def _dropped(strip: Tensor, images: Tensor, share: Tensor, by_channel: Tensor, starts: Tensor) -> Tensor:
    return spoil.drop_pixels(images, share, by_channel, strip, starts.flatten())


def _noisy(normal: Tensor, images: Tensor, scale: Tensor, starts: Tensor) -> Tensor:
    return spoil.add_noise(images, scale, normal, starts.flatten())


def _struck(strip: Tensor, images: Tensor, starts: Tensor) -> Tensor:
    return spoil.impulses(images, 0.1, strip, starts.flatten())


def _scaled(strip: Tensor, images: Tensor, starts: Tensor) -> Tensor:
    return spoil.multiply_pixels(images, strip, starts.flatten())


VIEWS = {"none": none, "weak": weak, "strong": strong, "seqclr": seqclr, "semimtr": semimtr, "abinet": abinet, "moco": moco}
