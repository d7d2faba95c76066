"""The 45-layer residual encoder of ABINet's vision model (Fang et al., CVPR 2021, section 3.1).

Five stages of 3, 4, 6, 6 and 3 blocks, each stage twice as wide as the one before; a block is a 1x1 convolution, a 3x3 convolution that
strides, and a shortcut. No convolution has a bias. ABINet strides in the first and the third stage alone: images of height 32 give a map
of 8 rows.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.pointwise import StridedPointwise
from models.encoders.winograd import Convolution3x3

_BLOCKS = (3, 4, 6, 6, 3)


class Block(nn.Module):
    """Two convolutions beside a shortcut: (n, channels, rows, columns) -> (n, width, rows / stride, columns / stride)."""

    def __init__(self, channels: int, width: int, stride: int | tuple[int, int], shortcut: bool) -> None:
        """`shortcut`: whether the shortcut is a convolution of its own; else the input is added as it is."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Convolution3x3(width, width, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Identity()
        if shortcut:
            self.downsample = nn.Sequential(StridedPointwise(channels, width, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """(n, channels, rows, columns) -> (n, width, rows / stride, columns / stride), rounded up."""
        found = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(found)) + self.downsample(features))


class ResNet45(nn.Module):
    """Images (n, channels, height, width) -> a map (n, out_channels, height / 4, width / 4), with ABINet's strides."""

    def __init__(self, channels: int = 3, *, out_channels: int = 512,
                 strides: Sequence[int | tuple[int, int]] = (2, 1, 2, 1, 1)) -> None:
        """`strides` of the five stages. ValueError for an `out_channels` that cannot be halved four times."""
        super().__init__()
        if out_channels % 16:
            raise ValueError(f"expected a width that 16 divides, found {out_channels}: the first stage has a sixteenth of it")
        self.out_channels = out_channels
        width = out_channels // 16
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(_BLOCKS[0], width, width, strides[0])
        self.layer2 = _stage(_BLOCKS[1], width, 2 * width, strides[1])
        self.layer3 = _stage(_BLOCKS[2], 2 * width, 4 * width, strides[2])
        self.layer4 = _stage(_BLOCKS[3], 4 * width, 8 * width, strides[3])
        self.layer5 = _stage(_BLOCKS[4], 8 * width, 16 * width, strides[4])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # N(0, 2 / (kernel area * out channels)); BatchNorm starts at 1 and 0 by itself
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, out_channels, rows, columns)."""
        features = F.relu(self.bn1(self.conv1(images)))  # (n, 32, height, width)
        features = self.layer1(features)  # (n, 32, height / 2, width / 2)
        features = self.layer2(features)  # (n, 64, height / 2, width / 2)
        features = self.layer3(features)  # (n, 128, height / 4, width / 4)
        features = self.layer4(features)  # (n, 256, height / 4, width / 4)
        return self.layer5(features)  # (n, 512, height / 4, width / 4)


def _stage(blocks: int, channels: int, width: int, stride: int | tuple[int, int]) -> nn.Sequential:
    """The first block strides; its shortcut is a convolution, because its map or its width differs from its input."""
    first = Block(channels, width, stride, shortcut=channels != width or stride not in (1, (1, 1)))
    return nn.Sequential(first, *(Block(width, width, 1, shortcut=False) for _ in range(blocks - 1)))
