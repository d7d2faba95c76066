"""The gated recurrent convolution encoder (GRCNN, Wang and Hu, NeurIPS 2017), as the four-stage benchmark builds it."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.winograd import Convolution3x3

_ITERATIONS = 5


class _Gate(nn.Module):
    """The BatchNorms of one iteration: they are not shared, the convolutions are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.BN_gfu = nn.BatchNorm2d(channels)
        self.BN_grx = nn.BatchNorm2d(channels)
        self.BN_fu = nn.BatchNorm2d(channels)
        self.BN_rx = nn.BatchNorm2d(channels)
        self.BN_Gx = nn.BatchNorm2d(channels)

    def forward(self, gate_input: Tensor, gate_state: Tensor, input_part: Tensor, state_part: Tensor) -> Tensor:
        """Four (n, channels, H, W) -> the next state, of the same shape."""
        gate = (self.BN_gfu(gate_input) + self.BN_grx(gate_state)).sigmoid()
        return F.relu(self.BN_fu(input_part) + self.BN_Gx(self.BN_rx(state_part) * gate))


class GatedRecurrentConvolution(nn.Module):
    """Convolves its input once and its own state five times; a gate limits how far each pixel looks."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.wgf_u = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.wgr_x = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.wf_u = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.wr_x = Convolution3x3(out_channels, out_channels, bias=False)
        self.BN_x_init = nn.BatchNorm2d(out_channels)
        self.GRCL = nn.Sequential(*(_Gate(out_channels) for _ in range(_ITERATIONS)))

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, out_channels, H, W)."""
        gate_input, input_part = self.wgf_u(images), self.wf_u(images)
        state = F.relu(self.BN_x_init(input_part))
        for iteration in self.GRCL:
            state = iteration(gate_input, self.wgr_x(state), input_part, self.wr_x(state))
        return state


class RCNN(nn.Sequential):
    """(n, channels, 32, W) -> (n, 512, 1, W // 4 + 1): 26 frames for width 100, 33 for 128. 1.86 M parameters.

    Positions and names are those of the published checkpoints.
    """

    out_channels = 512

    def __init__(self, channels: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # (64, 16, 50)
            GatedRecurrentConvolution(64, 64),
            nn.MaxPool2d(2),  # (64, 8, 25)
            GatedRecurrentConvolution(64, 128),
            nn.MaxPool2d(2, stride=(2, 1), padding=(0, 1)),  # (128, 4, 26)
            GatedRecurrentConvolution(128, 256),
            nn.MaxPool2d(2, stride=(2, 1), padding=(0, 1)),  # (256, 2, 27)
            nn.Conv2d(256, 512, 2, bias=False), nn.BatchNorm2d(512), nn.ReLU(inplace=True),  # (512, 1, 26)
        )
