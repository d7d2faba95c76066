"""3 x 3 convolutions with fewer multiplications: Lavin and Gray, "Fast algorithms for convolutional neural networks" (CVPR 2016,
arXiv 1509.09308), their F(2 x 2, 3 x 3).

The output is made of tiles of 2 x 2. With d the 4 x 4 pixels of the input that a tile sees, g the kernel and * the product of elements,
    tile = A^T [sum over channels of (G g G^T) * (B^T d B)] A                                                     (their equation 8)
which is one matrix product for each of the 16 elements: 4 multiply-adds a pixel and pair of channels instead of 9.

Used where it is faster: to read in mixed precision, many channels, on a CPU that multiplies vectors of bfloat16 (AVX-512 BF16) and not matrices
(AMX). What it saves are products, and what it adds are sums: measured without AMX, it gains nothing where products are about twice as fast
(benchmarks/winograd.py), and AMX makes them more than that. The choice follows from what the processor can do and not from a measurement
at first use, after which two runs on one machine could read differently. Training and GPUs use PyTorch's convolution (cuDNN has this algorithm
itself), and so does float32, in which results are compared with the reference implementations. There its result would be as near to the true
one as the direct sum's; in bfloat16 its error is two to three times as large.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
FEWEST_CHANNELS = 512  # with fewer the sums around the products take what the products save
BYTES_AT_ONCE = 16 << 20  # of transformed tiles: larger pieces leave the caches


@cache
def saves_time() -> bool:
    """Whether this processor multiplies bfloat16 in vectors and not in matrices. False where PyTorch does not tell."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16")) and not capabilities.get("amx_bf16")


class Convolution3x3(nn.Conv2d):
    """nn.Conv2d of 3 x 3 and padding 1 that reads by Winograd's algorithm where that is faster. The weights are the same."""

    def __init__(self, channels: int, out_channels: int, stride: int | tuple[int, int] = 1, *, bias: bool) -> None:
        super().__init__(channels, out_channels, 3, stride, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, out_channels, H / stride, W / stride), rounded up."""
        return convolve(x, self.weight, self.bias) if self._is_faster_for(x) else super().forward(x)

    def _is_faster_for(self, x: Tensor) -> bool:
        # A graph keeps the convolution, for others to make faster; so do tensors without values, by which costs are counted.
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor
        return (torch.is_autocast_enabled("cpu") and not (traced or torch.is_grad_enabled()) and x.device.type == "cpu" and x.shape[2] > 1
                and self.stride == (1, 1) and min(self.in_channels, self.out_channels) >= FEWEST_CHANNELS and saves_time())


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (n, channels, H, W), weight (out_channels, channels, 3, 3) -> (n, out_channels, H, W) in channels last, of padding 1, without gradients.

    Under autocast the products are of its precision, as those of a convolution.
    """
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    n, channels, height, width = x.shape
    down, across = (height + 1) // 2, (width + 1) // 2  # tiles
    kernels = _kernels(weight.to(x.dtype))
    out = x.new_empty(n, height, width, len(weight))
    pieces = -(-n * 16 * down * across * max(channels, len(weight)) * x.element_size() // BYTES_AT_ONCE)
    images = -(-n // pieces)
    for pixels, written in zip(x.permute(0, 2, 3, 1).split(images), out.split(images), strict=True):
        tiles = _tiles(F.pad(pixels, (0, 0, 1, 2 * across + 1 - width, 1, 2 * down + 1 - height)), down, across)
        products = torch.bmm(tiles.view(16, -1, channels), kernels).view(4, 4, *tiles.shape[2:5], len(weight))
        if bias is not None:
            products[1, 1] += bias  # which all four pixels of a tile have once
        _write(products, written)
    return out.permute(0, 3, 1, 2)


def _kernels(weight: Tensor) -> Tensor:
    """G g G^T: (16, channels, out_channels)."""
    out_channels, channels = weight.shape[:2]
    pixels = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (torch.kron(G, G).to(weight.dtype) @ pixels).view(16, out_channels, channels).transpose(1, 2)


def _tiles(pixels: Tensor, down: int, across: int) -> Tensor:
    """B^T d B of (n, 2 down + 2, 2 across + 2, channels): (4, 4, n, down, across, channels)."""
    tiles = pixels.new_empty(4, 4, len(pixels), down, across, pixels.shape[3])
    row = [pixels[:, start:start + 2 * down:2] for start in range(4)]
    for made, of in zip(tiles, (row[0] - row[2], row[1] + row[2], row[2] - row[1], row[1] - row[3]), strict=True):
        column = [of[:, :, start:start + 2 * across:2] for start in range(4)]
        torch.sub(column[0], column[2], out=made[0])
        torch.add(column[1], column[2], out=made[1])
        torch.sub(column[2], column[1], out=made[2])
        torch.sub(column[1], column[3], out=made[3])
    return tiles


def _write(products: Tensor, written: Tensor) -> None:
    """A^T m A of (4, 4, n, down, across, out_channels) into (n, height, width, out_channels), whose last row and column may be a half tile's."""
    for y, rows in enumerate((products[0] + products[1] + products[2], products[1] - products[2] - products[3])):
        for x in (0, 1):
            place = written[:, y::2, x::2]
            row = rows[:, :, :place.shape[1], :place.shape[2]]
            torch.add(row[0] + row[1], row[2], out=place) if x == 0 else torch.sub(row[1] - row[2], row[3], out=place)
