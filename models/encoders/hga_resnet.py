"""The residual networks of HGA (Yang et al., Neurocomputing 2020): one gives a map, the other one vector of the whole map.

The first has the blocks of ResNet-34 (He et al., CVPR 2016: 3, 4, 6, 3), with poolings between the first stages instead of strides, so that
the map keeps an eighth of the image's height and width. The second is six bottlenecks, a mean over all positions, and a linear layer.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.pointwise import StridedPointwise
from models.encoders.resnet import Block
from models.encoders.winograd import Convolution3x3


def _blocks(channels: int, out_channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels if i == 0 else out_channels, out_channels) for i in range(count)))


class HGAResNet(nn.Module):
    """(n, channels, H, W) -> frames (n, (H // 8) * (W // 8), 512), row by row: 120 for 48x160. 21.3 M parameters.

    The modules have the names of the published checkpoints.
    """

    def __init__(self, channels: int = 3, widths: tuple[int, int, int, int] = (64, 128, 256, 512),
                 blocks: tuple[int, int, int, int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.out_channels = widths[3]
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _blocks(widths[0], widths[0], blocks[0])
        self.layer2 = _blocks(widths[0], widths[1], blocks[1])
        self.layer3 = _blocks(widths[1], widths[2], blocks[2])
        self.layer4 = _blocks(widths[2], widths[3], blocks[3])
        for convolution in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out")  # standard deviation sqrt(2 / (k k out))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, (H // 8) * (W // 8), 512)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (64, H, W)
        x = self.layer1(F.max_pool2d(x, 2))  # (64, H/2, W/2)
        x = self.layer2(F.max_pool2d(x, 2))  # (128, H/4, W/4)
        x = self.layer4(self.layer3(F.max_pool2d(x, 2)))  # (512, H/8, W/8)
        return x.flatten(2).transpose(1, 2)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, to 4 * `width` channels, around a shortcut; a 1x1 convolution on it where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Convolution3x3(width, width, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(StridedPointwise(channels, 4 * width, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, 4 width, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class Holistic(nn.Module):
    """(n, channels, rows, columns) -> (n, out): what the whole image shows. 28.1 M parameters with 512 channels."""

    def __init__(self, channels: int = 512, out: int = 512, bottlenecks: int = 6) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Bottleneck(channels, channels, 2),
                                    *(Bottleneck(4 * channels, channels, 1) for _ in range(bottlenecks - 1)))
        self.linear = nn.Linear(4 * channels, out)

    def forward(self, features: Tensor) -> Tensor:
        """(n, channels, rows, columns) -> (n, out)."""
        return self.linear(self.blocks(features).mean((2, 3)))
