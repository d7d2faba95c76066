"""MORN, the rectifier of MORAN, version 2 (Luo, Jin and Sun, Pattern Recognition 2019, arXiv 1901.03003).

A small network sees the word at the target size and predicts a coarse map of vertical offsets V, which is enlarged to the target size
(the first version moved pixels horizontally, too). Pixel (x, y) of the straightened image is the input at (x, y + V(x, y)), both in
[-1, 1] from the first pixel's centre to the last's; outside the input is 0, mid-gray. In eval mode the straightened image goes through
the network once more: its offsets are added, and the input is sampled anew. In training half of the batches are only resized.

Ours: the network runs on the resized batches, too, and its offsets are multiplied by 0. So no step waits for a draw, every parameter has
a (zero) gradient in every process, and the running statistics count every batch; the authors' network does not see those batches.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.precision import Table, at_least_float32


def _pixels(height: int, width: int) -> Tensor:
    """(height, width, 2) float64 as (x, y): the pixels' centres, in [-1, 1] from the first to the last."""
    x, y = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _convolution(channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)


class MORN(nn.Module):
    """(n, channels, H, W) -> (n, channels, height, width), every column's pixels moved up or down. 158,211 parameters for one channel.

    passes: how often the network looks in eval mode, at least once. rectified_share: of the training batches; the others are only resized.
    The numbers of the network's layers are those of the published checkpoints.
    """

    def __init__(self, channels: int = 1, height: int = 32, width: int = 100, *, passes: int = 2, rectified_share: float = 0.5) -> None:
        """ValueError for a target size whose map of offsets would be empty."""
        super().__init__()
        if min(height, width) < 16:
            raise ValueError(f"expected a target size of at least 16 x 16, found {height} x {width}: "
                             "its offsets are predicted at an eighth of it")
        self.height, self.width, self.passes, self.rectified_share = height, width, passes, rectified_share
        self.network = nn.Sequential(
            nn.MaxPool2d(2),  # (channels, height/2, width/2)
            *_convolution(channels, 64), nn.ReLU(inplace=True), nn.MaxPool2d(2),  # (64, height/4, width/4)
            *_convolution(64, 128), nn.ReLU(inplace=True), nn.MaxPool2d(2),  # (128, height/8, width/8)
            *_convolution(128, 64), nn.ReLU(inplace=True),
            *_convolution(64, 16), nn.ReLU(inplace=True),
            *_convolution(16, 1),  # (1, height/8, width/8), of either sign
        )
        self.pixels = Table(partial(_pixels, height, width), coordinates=True)

    def offsets(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, height, width), at least float32: how far below each pixel its source lies; 2 is the whole image's height."""
        resized = F.interpolate(images, (self.height, self.width), mode="bilinear", align_corners=True)
        coarse = at_least_float32(self.network(resized))  # (n, 1, height/8, width/8)
        # The larger of four neighbours where they point down, the smaller where they point up.
        coarse = F.max_pool2d(F.relu(coarse), 2, stride=1) - F.max_pool2d(F.relu(-coarse), 2, stride=1)
        # Enlarged as the authors do: F.interpolate rounds differently, and the second look amplifies that to 3e-4 in the image.
        return F.grid_sample(coarse, self.pixels().expand(coarse.shape[0], -1, -1, -1), align_corners=True).squeeze(1)

    def sampled(self, images: Tensor, offsets: Tensor) -> Tensor:
        """(n, channels, H, W), (n, height, width) -> (n, channels, height, width), at least float32; where the offsets are 0 a bilinear resize."""
        x, y = self.pixels().unbind(-1)
        grid = torch.stack([x.expand_as(offsets), y + offsets], -1)  # (n, height, width, 2)
        return F.grid_sample(at_least_float32(images), grid, align_corners=True)  # zeros outside

    def rectified(self, images: Tensor, passes: int) -> Tensor:
        """(n, channels, H, W) -> (n, channels, height, width), the network looking `passes` times at its own result."""
        offsets, straightened = 0.0, images
        for _ in range(passes):
            offsets = offsets + self.offsets(straightened)
            straightened = self.sampled(images, offsets)
        return straightened

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, channels, height, width)."""
        if not self.training:
            return self.rectified(images, self.passes)
        moved = torch.rand((), device=images.device) < self.rectified_share  # for the whole batch
        return self.sampled(images, self.offsets(images) * moved)
