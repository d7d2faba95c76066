"""The convolutional stem of CRNN (Shi et al., TPAMI 2017) as the parseq hub builds it.

It differs from the four-stage benchmark's VGG in where BatchNorm stands, and in the poolings that keep the width: they are padded, so the
map grows by a column at each. Modules have the names of the published checkpoints.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.winograd import Convolution3x3


class HubVGG(nn.Module):
    """(n, channels, 32, W) -> (n, 512, 1, W // 4 + 1): 33 frames for width 128, 26 for 100. 5.5 M parameters."""

    out_channels = 512

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, 64, 3, padding=1)
        self.conv1 = nn.Conv2d(64, 128, 3, padding=1)
        self.conv2 = nn.Conv2d(128, 256, 3, padding=1, bias=False)
        self.batchnorm2 = nn.BatchNorm2d(256)
        self.conv3 = Convolution3x3(256, 256, bias=True)
        self.conv4 = Convolution3x3(256, 512, bias=False)
        self.batchnorm4 = nn.BatchNorm2d(512)
        self.conv5 = Convolution3x3(512, 512, bias=True)
        self.conv6 = nn.Conv2d(512, 512, 2, bias=False)
        self.batchnorm6 = nn.BatchNorm2d(512)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, 32, W) -> (n, 512, 1, W // 4 + 1)."""
        x = F.max_pool2d(F.relu(self.conv0(x), inplace=True), 2)  # (64, 16, W/2)
        x = F.max_pool2d(F.relu(self.conv1(x), inplace=True), 2)  # (128, 8, W/4)
        x = F.relu(self.batchnorm2(self.conv2(x)), inplace=True)
        x = F.relu(self.conv3(x), inplace=True)
        x = F.max_pool2d(x, 2, stride=(2, 1), padding=(0, 1))  # (256, 4, W/4 + 1)
        x = F.relu(self.batchnorm4(self.conv4(x)), inplace=True)
        x = F.relu(self.conv5(x), inplace=True)
        x = F.max_pool2d(x, 2, stride=(2, 1), padding=(0, 1))  # (512, 2, W/4 + 2)
        return F.relu(self.batchnorm6(self.conv6(x)), inplace=True)  # (512, 1, W/4 + 1)
