"""A small encoder for laptops and tests: it learns to read rendered words in a minute on one core."""

import torch
from torch import Tensor, nn


def _stage(channels: int, out_channels: int, kernel: int | tuple[int, int], stride: tuple[int, int],
           padding: tuple[int, int]) -> list[nn.Module]:
    return [nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class Tiny(nn.Sequential):
    """(n, channels, 32, W) -> (n, 128, 1, W / 4): 25 frames for width 100. 57 k parameters.

    Convolutions stride where VGG pools, and the first stages are narrow, because there memory traffic is what costs.
    """

    out_channels = 128

    def __init__(self, channels: int = 1) -> None:
        super().__init__(
            *_stage(channels, 16, 3, (2, 2), (1, 1)),  # (16, 16, 50)
            *_stage(16, 32, 3, (2, 2), (1, 1)),  # (32, 8, 25)
            *_stage(32, 64, 3, (2, 1), (1, 1)),  # (64, 4, 25)
            *_stage(64, 128, (4, 1), (1, 1), (0, 0)),  # (128, 1, 25)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, 32, W) -> (n, 128, 1, W / 4)."""
        # Channels last is the faster layout for convolutions this narrow; a clone sets it for one channel too.
        return super().forward(images.clone(memory_format=torch.channels_last))
