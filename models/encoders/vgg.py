"""The VGG encoder of CRNN (Shi et al., TPAMI 2017), as the four-stage benchmark builds it."""

from torch import nn

from models.encoders.winograd import Convolution3x3


class VGG(nn.Sequential):
    """(n, channels, 32, W) -> (n, 512, 1, W // 4 - 1): 24 frames for width 100, 31 for 128. 5.5 M parameters.

    The positions in the sequence are those of the published checkpoints.
    """

    out_channels = 512

    def __init__(self, channels: int = 1) -> None:
        super().__init__(
            # The largest value passes ReLU just as it would behind it: pooled first, there is less to do.
            nn.Conv2d(channels, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True),  # (64, 16, 50)
            nn.Conv2d(64, 128, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True),  # (128, 8, 25)
            nn.Conv2d(128, 256, 3, padding=1), nn.ReLU(inplace=True),
            Convolution3x3(256, 256, bias=True), nn.MaxPool2d((2, 1)), nn.ReLU(inplace=True),
            # (256, 4, 25): the width stays, so that narrow letters keep their frames
            Convolution3x3(256, 512, bias=False), nn.BatchNorm2d(512), nn.ReLU(inplace=True),
            Convolution3x3(512, 512, bias=False), nn.BatchNorm2d(512), nn.MaxPool2d((2, 1)), nn.ReLU(inplace=True),  # (512, 2, 25)
            nn.Conv2d(512, 512, 2), nn.ReLU(inplace=True),  # (512, 1, 24)
        )
