"""The residual encoder of MORAN, version 2 (Luo, Jin and Sun, Pattern Recognition 2019, arXiv 1901.03003).

All convolutions have biases, BatchNorm's momentum is 0.01, and there is no ReLU behind the first convolution nor inside a unit.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.winograd import Convolution3x3


def _convolution(channels: int, out_channels: int, kernel: int = 3, stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, and BatchNorm."""
    convolution = nn.Conv2d(channels, out_channels, 1) if kernel == 1 else Convolution3x3(channels, out_channels, stride, bias=True)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels, momentum=0.01))


class Unit(nn.Module):
    """Two convolutions around a shortcut: 3x3 and 3x3 with a 3x3 shortcut where it strides, 1x1 and 3x3 elsewhere."""

    def __init__(self, channels: int, out_channels: int, stride: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, out_channels, 1) if stride is None else _convolution(channels, out_channels, 3, stride)
        self.conv2 = _convolution(out_channels, out_channels)
        self.downsample = None if stride is None else _convolution(channels, out_channels, 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, out_channels, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv2(self.conv1(x)) + shortcut, inplace=True)


def _units(channels: int, out_channels: int, count: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(Unit(channels, out_channels, stride), *(Unit(out_channels, out_channels) for _ in range(count - 1)))


class MORANResNet(nn.Module):
    """(n, channels, 32, W) -> (n, 512, 1, W / 4): 25 frames for width 100. 15.8 M parameters.

    The modules have the names of the published checkpoints.
    """

    out_channels = 512

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.block0 = _convolution(channels, 32)
        self.block1 = _units(32, 32, 3, (2, 2))
        self.block2 = _units(32, 64, 4, (2, 2))
        self.block3 = _units(64, 128, 6, (2, 1))
        self.block4 = _units(128, 256, 6, (2, 1))
        self.block5 = _units(256, 512, 3, (2, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, 32, W) -> (n, 512, 1, W / 4), both sizes rounded up."""
        x = self.block0(x)  # (32, 32, W)
        x = self.block1(x)  # (32, 16, W/2)
        x = self.block2(x)  # (64, 8, W/4)
        x = self.block3(x)  # (128, 4, W/4)
        x = self.block4(x)  # (256, 2, W/4)
        return self.block5(x)  # (512, 1, W/4)
