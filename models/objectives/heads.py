"""Projection heads, (n, frames, width) -> (n, frames, projection width): what stands between an encoder and a contrast, and is thrown away afterwards."""

from typing import Literal

import torch
from torch import Tensor, nn

from models.sequence import BidirectionalLSTM

Head = Literal["none", "linear", "mlp", "bilstm", "gated"]


class GatedLinear(nn.Module):
    """SemiMTR's attention-like head: a gate mixes the two halves of each frame, then a linear layer (their `attn_linear_per_column`)."""

    def __init__(self, width: int, projection_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width // 2)
        self.linear = nn.Linear(width // 2, projection_width)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, frames, width) -> (n, frames, projection_width). The width is even."""
        gate, (first, second) = torch.sigmoid(self.gate(frames)), frames.chunk(2, -1)
        return self.linear(gate * first + (1 - gate) * second)


def head(name: Head, width: int, projection_width: int) -> nn.Module:
    """none: nothing, its width stays; linear; mlp: linear, ReLU, linear, on each frame; bilstm: one bidirectional LSTM and a linear layer."""
    match name:
        case "none":
            return nn.Identity()
        case "linear":
            return nn.Linear(width, projection_width)
        case "mlp":
            return nn.Sequential(nn.Linear(width, projection_width), nn.ReLU(), nn.Linear(projection_width, projection_width))
        case "gated":
            return GatedLinear(width, projection_width)
    return BidirectionalLSTM(width, projection_width, projection_width)
