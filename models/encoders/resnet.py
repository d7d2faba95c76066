"""The 29-layer ResNet of FAN (Cheng et al., ICCV 2017), as the four-stage benchmark builds it."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.winograd import Convolution3x3


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut; a 1x1 convolution on the shortcut where the channels change."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Convolution3x3(channels, out_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = Convolution3x3(out_channels, out_channels, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out_channels, 1, bias=False),
                                            nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, out_channels, H, W)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.bn2(self.conv2(x))
        x += shortcut
        return F.relu(x, inplace=True)


def _blocks(channels: int, out_channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(channels if i == 0 else out_channels, out_channels) for i in range(count)))


class ResNet(nn.Module):
    """(n, channels, 32, W) -> (n, 512, 1, W // 4 + 1): 26 frames for width 100, 33 for 128. 44.3 M parameters.

    The modules have the names of the published checkpoints.
    """

    out_channels = 512

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv0_1 = nn.Conv2d(channels, 32, 3, padding=1, bias=False)
        self.bn0_1 = nn.BatchNorm2d(32)
        self.conv0_2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn0_2 = nn.BatchNorm2d(64)
        self.layer1 = _blocks(64, 128, 1)
        self.conv1 = nn.Conv2d(128, 128, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.layer2 = _blocks(128, 256, 2)
        self.conv2 = Convolution3x3(256, 256, bias=False)
        self.bn2 = nn.BatchNorm2d(256)
        self.layer3 = _blocks(256, 512, 5)
        self.conv3 = Convolution3x3(512, 512, bias=False)
        self.bn3 = nn.BatchNorm2d(512)
        self.layer4 = _blocks(512, 512, 3)
        self.conv4_1 = nn.Conv2d(512, 512, 2, stride=(2, 1), padding=(0, 1), bias=False)
        self.bn4_1 = nn.BatchNorm2d(512)
        self.conv4_2 = nn.Conv2d(512, 512, 2, bias=False)
        self.bn4_2 = nn.BatchNorm2d(512)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, 32, W) -> (n, 512, 1, W // 4 + 1)."""
        x = F.relu(self.bn0_1(self.conv0_1(x)), inplace=True)
        x = F.relu(self.bn0_2(self.conv0_2(x)), inplace=True)  # (64, 32, W)
        x = self.layer1(F.max_pool2d(x, 2))
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (128, 16, W/2)
        x = self.layer2(F.max_pool2d(x, 2))
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # (256, 8, W/4)
        x = self.layer3(F.max_pool2d(x, 2, stride=(2, 1), padding=(0, 1)))
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)  # (512, 4, W/4 + 1)
        x = self.layer4(x)
        x = F.relu(self.bn4_1(self.conv4_1(x)), inplace=True)  # (512, 2, W/4 + 2)
        return F.relu(self.bn4_2(self.conv4_2(x)), inplace=True)  # (512, 1, W/4 + 1)
