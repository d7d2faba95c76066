"""How ABINet's vision models find the characters: one query for each place in the word (Fang et al., CVPR 2021, section 3.1).

    weights = softmax over frames of Q K^T / sqrt(width),   glimpses = weights . V
The large model: Q are projected sinusoids of the places, K a small U-Net over the map, V the map itself. The small model has plain
additive attention instead: weights = softmax over frames of W_e tanh(the queries, mixed for every frame + W_v frame).

Deviation: the U-Net enlarges to the size of the map that it adds instead of by 2, which is the same wherever that is possible, and so it
takes maps of every size.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.transformer import sinusoids
from models.precision import Table, at_least_float32


class PositionAttention(nn.Module):
    """The large model's: memory (n, rows * columns, width) -> what each of `steps` places sees, and where it looks."""

    def __init__(self, width: int, rows: int, steps: int) -> None:
        super().__init__()
        self.rows = rows
        channels = width // 8
        self.down = nn.ModuleList([_convolution(width, channels, (1, 2)), *(_convolution(channels, channels, 2) for _ in range(3))])
        self.up = nn.ModuleList([*(_convolution(channels, channels) for _ in range(3)), _convolution(channels, width)])
        self.project = nn.Linear(width, width)
        self.positions = Table(partial(sinusoids, steps, width))

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(n, rows * columns, width) -> glimpses (n, steps, width), weights (n, steps, rows * columns).

        ValueError where the frames are no whole rows.
        """
        frames, width = memory.shape[1:]
        if frames % self.rows:
            raise ValueError(f"expected the frames of a map of {self.rows} rows, found {frames} frames: "
                             "give all frames of the encoder, row by row")
        keys = self.keys(memory.transpose(1, 2).unflatten(2, (self.rows, -1)))  # (n, width, rows, columns)
        queries = self.project(self.positions())  # (steps, width)
        scores = queries @ keys.flatten(2) / width**0.5  # (n, steps, frames)
        return _look(scores, memory)

    def keys(self, features: Tensor) -> Tensor:
        """The U-Net: (n, width, rows, columns) -> the same shape."""
        maps = [features]
        for convolution in self.down:
            maps.append(convolution(maps[-1]))  # of 8 x 32: 8 x 16, 4 x 8, 2 x 4, 1 x 2
        *adding, last = self.up
        found = maps[-1]
        for convolution, same_size in zip(adding, maps[-2:0:-1], strict=True):
            found = convolution(F.interpolate(found, size=same_size.shape[2:])) + same_size
        return last(F.interpolate(found, size=features.shape[2:]))


class PlainAttention(nn.Module):
    """The small model's: memory (n, frames, width) -> what each of `steps` places sees, and where it looks."""

    def __init__(self, width: int, frames: int, steps: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(steps, width)
        self.mix = nn.Linear(steps, frames)  # every frame's own mixture of the queries
        self.key = nn.Linear(width, width)
        self.score = nn.Linear(width, steps)

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(n, frames, width) -> glimpses (n, steps, width), weights (n, steps, frames). ValueError for another number of frames."""
        if memory.shape[1] != self.mix.out_features:
            raise ValueError(f"expected {self.mix.out_features} frames, found {memory.shape[1]}: "
                             "ABINet's small vision model takes images of one width only")
        queries = self.mix(self.queries.weight.t()).t()  # (frames, width)
        return _look(self.score(torch.tanh(queries + self.key(memory))).transpose(1, 2), memory)


def _look(scores: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n, steps, frames) -> glimpses (n, steps, width), weights (n, steps, frames)."""
    weights = at_least_float32(scores).softmax(2)
    return weights.to(memory.dtype) @ memory, weights


def _convolution(channels: int, out_channels: int, stride: int | tuple[int, int] = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out_channels, 3, stride, 1), nn.BatchNorm2d(out_channels), nn.ReLU())
