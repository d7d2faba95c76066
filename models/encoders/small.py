"""An encoder between the tiny one and the papers': it learns to read photographs in half an hour on two cores."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _convolution(channels: int, out_channels: int, kernel: int | tuple[int, int], stride: tuple[int, int] = (1, 1),
                 padding: tuple[int, int] = (1, 1)) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=False), nn.BatchNorm2d(out_channels),
                         nn.ReLU(inplace=True))


class _Residual(nn.Module):
    """Two convolutions, added to what went in (He et al., CVPR 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(n, channels, H, W) -> the same shape."""
        return F.relu(maps + self.second(self.first(maps)), inplace=True)


class Small(nn.Sequential):
    """(n, channels, 32, W) -> (n, 256, 1, W / 4): 25 frames for width 100. 0.6 M parameters.

    Parameters stand where the map is small: at full width a convolution costs as much as ten behind it.
    """

    out_channels = 256

    def __init__(self, channels: int = 1) -> None:
        super().__init__(
            _convolution(channels, 24, 3, (2, 2)),  # (24, 16, 50)
            _convolution(24, 48, 3, (2, 2)), _Residual(48),  # (48, 8, 25)
            _convolution(48, 96, 3, (2, 1)), _Residual(96),  # (96, 4, 25)
            _convolution(96, 256, (4, 3), padding=(0, 1)),  # (256, 1, 25)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, 32, W) -> (n, 256, 1, W / 4)."""
        # Channels last is the faster layout for convolutions this narrow; a clone sets it for one channel too.
        return super().forward(images.clone(memory_format=torch.channels_last))


class SmallMap(nn.Sequential):
    """(n, channels, 32, W) -> a map (n, out_channels, 2, W / 4), whose cells have not yet been merged into frames."""

    def __init__(self, channels: int = 1, *, out_channels: int = 128) -> None:
        super().__init__(
            _convolution(channels, 24, 3, (2, 2)),  # (24, 16, 50)
            _convolution(24, 48, 3, (2, 2)), _Residual(48),  # (48, 8, 25)
            _convolution(48, 96, 3, (2, 1)), _Residual(96),  # (96, 4, 25)
            _convolution(96, out_channels, 3, (2, 1)),  # (out_channels, 2, 25)
        )
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, 32, W) -> (n, out_channels, 2, W / 4)."""
        return super().forward(images.clone(memory_format=torch.channels_last))
