"""1 x 1 convolutions with a stride, which pick the pixels first and then multiply.

nn.Conv2d's own backward pass with fewer than 16 channels in, in channels last, writes beyond its memory on some CPUs (oneDNN as in PyTorch 2.13 on
processors with AMX): the process dies, or worse, goes on. Picked first, the same products are those of a stride of 1, which every library does well.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class StridedPointwise(nn.Conv2d):
    """nn.Conv2d of 1 x 1, no padding and any stride; the weights are the same, and so is the result."""

    def __init__(self, channels: int, out_channels: int, stride: int | tuple[int, int], *, bias: bool) -> None:
        super().__init__(channels, out_channels, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, out_channels, H / stride, W / stride), rounded up."""
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight, self.bias)
