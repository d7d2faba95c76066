"""What views are made of: operations that each image of a batch draws for itself, applied to the images that drew them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.augmentation import photometric

CACHED = 32  # images at a time on a CPU: their intermediate results stay in its cache


def send(drawn: Tensor, images: Tensor) -> Tensor:
    """What was drawn on the CPU, on the images' device, without waiting for it."""
    return drawn.to(images.device, non_blocking=True)


def in_order(images: Tensor, drawn: Tensor, operations: Sequence[tuple]) -> Tensor:
    """Apply to every image, in place, the operations that it drew, place after place.

    drawn (n, places), on the CPU: the index of the operation, or -1 for none. An operation is (function, *tensors)
    with n rows each: the function is called on the images that drew it and their rows of the tensors.
    """
    choices, order = drawn.T.sort(dim=1, stable=True)  # the images of one operation lie together: a slice of `order`
    indices = torch.arange(len(operations) + 1).repeat(len(choices), 1)
    bounds = torch.searchsorted(choices.contiguous(), indices).tolist()
    order = send(order, images)
    block = CACHED if images.device.type == "cpu" else len(images)
    for place, starts in enumerate(bounds):
        for (function, *tensors), start, stop in zip(operations, starts, starts[1:]):
            for rows in order[place, start:stop].split(block) if start < stop else ():
                changed = function(images.index_select(0, rows), *(tensor.index_select(0, rows) for tensor in tensors))
                images.index_copy_(0, rows, changed)
    return images


def color_jitter(images: Tensor, order: Tensor, uniform: Tensor, spread: Sequence[float]) -> Tensor:
    """Brightness, contrast, saturation times 1 +- their spread, hue turned by +- its own, as torchvision reads such numbers.

    images: of whole grey levels. order (n, 4): which of the four comes at each place, or -1 for none; uniform (n, 4) in [0, 1). Both on the CPU.
    """
    values = (2 * uniform - 1) * torch.tensor(spread) + torch.tensor([1.0, 1.0, 1.0, 0.0])
    brightness, contrast, saturation, turn = send(values.T.reshape(4, len(images), 1, 1, 1), images)
    return in_order(images, order, [(photometric.brightness, brightness), (photometric.contrast, contrast), (photometric.color, saturation),
                                    (photometric.hue, turn)])
