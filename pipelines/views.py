"""Views: the augmentations that the objectives ask for by name, on a whole batch at once and on its device.

Every image draws its own operations, their order and their strengths from one CPU generator, so the same seed gives the same
parameters on every device. An operation runs once per place in the order, on the images that drew it there.

none     x / 127.5 - 1.
weak     CCR's weak view (Zheng et al. 2022): colour jitter with brightness 0.2, contrast 0.1, saturation 0.1, hue 0.05 in
         random order, with Pillow's 8-bit arithmetic. Hue is moved in floating point, not in Pillow's 256 steps.
strong   CCR's strong view: two operations on space, then two on colour, see `strong`.
seqclr   SeqCLR's view (Aberdam et al. 2021): one to all of seven operations in random order, see `seqclr`.
"""

import difflib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from pipelines import photometric, warps
from pipelines.errors import BadInput

SMALLEST_SIDE = 3  # the blur's reflected border needs two pixels beyond the edge
PER_IMAGE = (-1, 1, 1, 1)  # the shape of one strength per image


def augment(images: Tensor, name: str, generator: Generator) -> Tensor:
    """Images (n, 3, H, W) uint8 as the view `name` shows them: float32 in [-1, 1], same shape and device.

    The generator lives on the CPU and is the only source of randomness; it moves on by the same amount for every batch of n
    images. BadInput for an unknown name, ValueError for tensors that are no batch of images.
    """
    if name not in VIEWS:
        near = difflib.get_close_matches(name, VIEWS, n=1)
        raise BadInput(f"there is no view {name!r}: use one of {', '.join(VIEWS)}" + (f" (perhaps {near[0]!r})." if near else "."))
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (n, 3, H, W) of uint8, found {tuple(images.shape)} of {images.dtype}.")
    if min(images.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(f"expected images of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, found {tuple(images.shape)}.")
    if generator.device.type != "cpu":
        raise ValueError(f"expected a generator on the CPU, whose numbers are the same everywhere, found one on {generator.device}.")
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return VIEWS[name](images.float(), generator).div_(127.5).sub_(1)


def none(images: Tensor, generator: Generator) -> Tensor:
    """The images as they are. Draws nothing."""
    return images


def weak(images: Tensor, generator: Generator) -> Tensor:
    """Colour jitter in random order: brightness and contrast, saturation, hue by torchvision's reading of the four numbers."""
    n = len(images)
    drawn = torch.rand(n, 8, generator=generator)
    spread = torch.tensor([0.2, 0.1, 0.1, 0.05])
    values = ((2 * drawn[:, 4:] - 1) * spread + torch.tensor([1.0, 1.0, 1.0, 0.0])).to(images.device, non_blocking=True)
    factor, contrast, saturation, turn = (column.reshape(PER_IMAGE) for column in values.unbind(1))
    operations = [(photometric.brightness, factor), (photometric.contrast, contrast),
                  (photometric.color, saturation), (photometric.hue, turn)]
    return _in_order(images, drawn[:, :4].argsort(dim=1), operations)


def strong(images: Tensor, generator: Generator) -> Tensor:
    """CCR's two RandAugment passes, each of two draws with replacement, a draw taking effect with probability 0.5.

    Space, level v uniform in 1..4: shear and translate by v * 0.2 / 10 + 0.1 (of the pixels' rows or columns; of the image's
    width or height, in whole pixels), rotate by v + 10 degrees, all with a random sign. Colour, v uniform in 1..9: autocontrast;
    brightness, colour, contrast by the factor v * 1.8 / 10 + 0.1; equalize; posterize to 4 + v * 4 / 10 bits; solarize from
    256 - v * 256 / 10; add v * 110 / 10 levels with a random sign and solarize at 128.

    Choices where the paper is silent, after the RandAugment of FixMatch's PyTorch port, whose levels these are: what comes in
    from outside is black, and shears start at the upper left corner. Deviations: the two operations on space are one bilinear
    resampling (there: two of the nearest pixel, which also blacken what only the first of them moved out), at the network's
    input size, not the crop's own.
    """
    n, _, height, width = images.shape
    drawn = torch.rand(n, 2, 2, 4, generator=generator)  # passes, draws, (operation, level, fired, sign)
    fired, sign = drawn[..., 2] < 0.5, torch.where(drawn[..., 3] < 0.5, -1.0, 1.0)
    moved, matrices = fired[:, 0].any(dim=1), torch.eye(3).repeat(n, 1, 1)
    for draw in range(2):
        level = (drawn[:, 0, draw, 1] * 4).floor() + 1
        choice = torch.where(fired[:, 0, draw], (drawn[:, 0, draw, 0] * 5).long(), -1)
        matrices = matrices @ _spatial(choice, level, sign[:, 0, draw], height, width)
    images = _in_order(images, moved.long()[:, None] - 1, [(_warp_onto_black, matrices.to(images.device, non_blocking=True))])
    for draw in range(2):
        level = (drawn[:, 1, draw, 1] * 9).floor() + 1
        choice = torch.where(fired[:, 1, draw], (drawn[:, 1, draw, 0] * 8).long(), -1)
        strengths = torch.stack([level * 1.8 / 10 + 0.1, (level * 4 / 10).floor() + 4, 256 - (level * 256 / 10).floor(),
                                 (level * 110 / 10).floor() * sign[:, 1, draw]])
        factor, bits, threshold, addend = strengths.to(images.device, non_blocking=True).view(4, n, 1, 1, 1)
        operations = [(photometric.autocontrast,), (photometric.brightness, factor), (photometric.color, factor),
                      (photometric.contrast, factor), (photometric.equalize,), (photometric.posterize, bits),
                      (photometric.solarize, threshold), (photometric.solarize_add, addend)]
        images = _in_order(images, choice[:, None], operations)
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


def _warp_onto_black(images: Tensor, matrices: Tensor) -> Tensor:
    return warps.warp(images, matrices, border="zeros").round_()  # whole grey levels for the operations that follow


def seqclr(images: Tensor, generator: Generator) -> Tensor:
    """SeqCLR's some-of: k uniform in 1..7 of these, in random order.

    Linear contrast (0.5, 1); Gaussian blur sigma (0.5, 1.5); sharpen alpha (0, 0.5) lightness (0, 0.5); vertical crop of 0 to
    40 % from the top and as much from the bottom; horizontal crop of 0 to 2 % from each side, both resized back; piecewise
    affine of 4 x 4 points with deviation (0.02, 0.03); perspective that moves the corners inwards by |N(0, s)|, s in
    (0.01, 0.02). Ranges are uniform, all as imgaug defines them.

    Deviations: the geometric operations that an image drew are one resampling, at the place of the first of them, always in
    the order crop, perspective, piecewise affine; piecewise affine is interpolated bilinearly between its points, not over
    triangles; grey levels keep their fractions between operations.
    """
    n = len(images)
    rank = torch.rand(n, 7, generator=generator).argsort(dim=1).argsort(dim=1)
    uniform, normal = torch.rand(n, 11, generator=generator), torch.randn(n, 8 + 32, generator=generator)
    place = torch.where(rank < (uniform[:, :1] * 7).long() + 1, rank, 7)  # 7: not drawn
    used = (place[:, 3:] < 7).float()
    matrices, moves = _seqclr_geometry(used, uniform[:, 4:], normal, images.shape[2])
    place = torch.cat([place[:, :3], place[:, 3:].amin(dim=1, keepdim=True)], dim=1)
    place, order = place.sort(dim=1)
    strengths = (uniform[:, 1:4] * torch.tensor([0.5, 1.0, 0.5]) + torch.tensor([0.5, 0.5, 0.0]))
    strengths = torch.cat([strengths, uniform[:, 4:5] * 0.5], dim=1).to(images.device, non_blocking=True)
    factor, sigma, alpha, lightness = (column.reshape(PER_IMAGE) for column in strengths.unbind(1))
    operations = [(photometric.linear_contrast, factor), (photometric.gaussian_blur, sigma), (photometric.sharpen, alpha, lightness),
                  (warps.warp, matrices.to(images.device, non_blocking=True), moves.to(images.device, non_blocking=True))]
    return _in_order(images, torch.where(place < 7, order, -1), operations)


def _seqclr_geometry(used: Tensor, uniform: Tensor, normal: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Maps (n, 3, 3) and control points' moves (n, 2, 4, 4) of the operations in `used` (n, 4), 1 or 0:
    vertical crop, horizontal crop, piecewise affine, perspective."""
    n = len(used)
    vertical = uniform[:, 1:3] * 0.4 * used[:, :1]
    vertical = vertical * (1 - 1 / height) / vertical.sum(dim=1, keepdim=True).clamp(min=1 - 1 / height)  # one row remains
    horizontal = uniform[:, 3:5] * 0.02 * used[:, 1:2]
    cropped = warps.crop(*horizontal.unbind(1), *vertical.unbind(1))
    inwards = (normal[:, :8].abs() * ((uniform[:, 5:6] + 1) * 0.01 * used[:, 3:])).view(n, 4, 2)
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    corners = square + inwards * (1 - 2 * square)
    moves = (normal[:, 8:] * ((uniform[:, 6:7] + 2) * 0.01 * used[:, 2:3])).view(n, 2, 4, 4)
    kept = torch.stack([cropped[:, 0, 0], cropped[:, 1, 1]], dim=1).view(n, 2, 1, 1)
    return cropped @ warps.perspective(corners), moves * kept  # a crop magnifies what follows it, the moves too


def _in_order(images: Tensor, drawn: Tensor, operations: Sequence[tuple[Callable[..., Tensor], *tuple[Tensor, ...]]]) -> Tensor:
    """Apply to every image, in place, the operations that it drew, place after place.

    drawn (n, places), on the CPU: the index of the operation, or -1 for none. An operation is a function of images and the
    tensors beside it, whose first dimension is n: it is called on the images that drew it, with their rows of those tensors.
    """
    sorted_drawn, order = drawn.sort(dim=0, stable=True)  # the images of one operation lie together: a slice of `order`
    choices = torch.arange(len(operations) + 1)
    bounds = [torch.searchsorted(column, choices).tolist() for column in sorted_drawn.T.contiguous()]
    order = order.T.contiguous().to(images.device, non_blocking=True)
    for place, starts in enumerate(bounds):
        for (operation, *values), start, stop in zip(operations, starts, starts[1:]):
            if start < stop:
                rows = order[place, start:stop]
                changed = operation(images.index_select(0, rows), *(value.index_select(0, rows) for value in values))
                images.index_copy_(0, rows, changed)
    return images


VIEWS = {"none": none, "weak": weak, "strong": strong, "seqclr": seqclr}
