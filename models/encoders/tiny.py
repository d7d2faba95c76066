"""A small encoder for laptops and tests: reads 32-pixel-high words at thousands of images per second and core."""

from torch import nn


def _stage(channels: int, out_channels: int, stride: tuple[int, int]) -> list[nn.Module]:
    return [nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class Tiny(nn.Sequential):
    """(n, channels, 32, W) -> (n, 128, 2, W / 4)."""

    out_channels = 128

    def __init__(self, channels: int = 1) -> None:
        super().__init__(
            *_stage(channels, 32, (2, 2)),  # (32, 16, 50)
            *_stage(32, 48, (2, 2)),  # (48, 8, 25)
            *_stage(48, 96, (2, 1)),  # (96, 4, 25)
            *_stage(96, 128, (2, 1)),  # (128, 2, 25)
        )
