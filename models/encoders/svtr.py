"""The visual model of SVTR (Du et al., "SVTR: Scene text recognition with a single visual model", IJCAI 2022).

Two strided convolutions cut the image into patches of 4 x 4 pixels, one token each (section 3.2 of the paper). Blocks of self-attention mix
the tokens (3.3): local ones see a window of 7 x 11 tokens around each, which gives strokes; global ones see all of them, which gives how
characters depend on each other. A convolution between the three stages halves the rows (3.4), and at the end the rows are averaged, so
that one token is left for each column (3.5), ready for a linear classifier.

Deviation from the paper, as in all released weights: the norms come before attention and perceptron, not behind the sums, and there is a
last one behind the blocks.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.precision import Table

PATCH = 4  # pixels, each way
WINDOW = (7, 11)  # rows and columns of tokens that a local block sees, the token itself in their middle


@dataclass(frozen=True)
class Size:
    """One size of the model (table 1 of the paper); widths, depths and heads are those of the three stages.

    local_blocks: so many blocks, from the first of all on, are local; the others are global.
    """

    widths: tuple[int, int, int]
    depths: tuple[int, int, int]
    heads: tuple[int, int, int]
    local_blocks: int
    out_width: int


def neighbours(rows: int, columns: int) -> Tensor:
    """(rows * columns, rows * columns) bool: whether the second token lies in the window around the first."""
    row = torch.arange(rows).repeat_interleave(columns)  # of each token
    column = torch.arange(columns).repeat(rows)
    near_rows = (row[:, None] - row).abs() <= WINDOW[0] // 2
    near_columns = (column[:, None] - column).abs() <= WINDOW[1] // 2
    return near_rows & near_columns


class DropPath(nn.Module):
    """In training leaves out a branch for some of the samples and scales it up for the others (Huang et al., ECCV 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(n, tokens, width) -> the same shape; the same values in eval mode and at rate 0."""
        if not self.training or self.rate == 0:
            return branch
        kept = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return branch * kept / (1 - self.rate)


class Mixing(nn.Module):
    """Self-attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, seen: Tensor | None) -> Tensor:
        """(n, tokens, width) -> the same. `seen`: (tokens, tokens) bool, whether the first sees the second; None: all see all."""
        parts = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (n, tokens, 3, heads, width / heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention between the tokens, then a perceptron for each: both see normed tokens, and what they say is added to the tokens."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.mixing_norm = nn.LayerNorm(width, eps=1e-6)
        self.mixing = Mixing(width, heads)
        self.perceptron_norm = nn.LayerNorm(width, eps=1e-6)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, seen: Tensor | None) -> Tensor:
        """(n, tokens, width) -> the same. `seen`: see `Mixing`."""
        tokens = tokens + self.drop_path(self.mixing(self.mixing_norm(tokens), seen))
        return tokens + self.drop_path(self.perceptron(self.perceptron_norm(tokens)))


class Stage(nn.Module):
    """Blocks over one grid of tokens, the first `local_blocks` of them local."""

    def __init__(self, width: int, heads: int, rows: int, columns: int, *, local_blocks: int, drop_paths: list[float]) -> None:
        """`drop_paths`: the rate of each block."""
        super().__init__()
        self.local_blocks = local_blocks
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in drop_paths)
        self.window = Table(partial(neighbours, rows, columns)) if local_blocks else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, rows * columns, width) -> the same."""
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, self.window() if number < self.local_blocks else None)
        return tokens


class Merging(nn.Module):
    """Halves the rows of the tokens and gives them another width."""

    def __init__(self, width: int, out_width: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.convolution = nn.Conv2d(width, out_width, 3, stride=(2, 1), padding=1)
        self.norm = nn.LayerNorm(out_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, rows * columns, width) -> (n, ceil(rows / 2) * columns, out_width)."""
        grid = tokens.transpose(1, 2).unflatten(2, (-1, self.columns))  # (n, width, rows, columns)
        return self.norm(self.convolution(grid).flatten(2).transpose(1, 2))


def _patches(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2), nn.GELU(),
        nn.Conv2d(width // 2, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU())


def _stages(size: Size, rows: int, columns: int, drop_path: float) -> list[Stage]:
    """The three stages over rows, rows / 2 and rows / 4 (rounded up) of tokens."""
    blocks = sum(size.depths)
    rates = [drop_path * number / (blocks - 1) for number in range(blocks)]
    stages, first = [], 0  # the first block of the stage
    for width, depth, heads in zip(size.widths, size.depths, size.heads, strict=True):
        local_blocks = min(depth, max(0, size.local_blocks - first))
        stages.append(Stage(width, heads, rows, columns, local_blocks=local_blocks, drop_paths=rates[first:first + depth]))
        first, rows = first + depth, (rows + 1) // 2
    return stages


class SVTR(nn.Module):
    """(n, channels, height, width) -> (n, width / 4, out_width): 25 frames for width 100, 40 for 160.

    The table of positions is learned for images of one size, and fits no other.
    """

    def __init__(self, channels: int, height: int, width: int, size: Size, *, drop_path: float = 0.1, dropout: float = 0.1) -> None:
        """`drop_path`: of the last block; it grows evenly, from 0 for the first. `dropout`: of the frames.

        ValueError for a height or width that patches do not fill.
        """
        super().__init__()
        if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
            raise ValueError(f"expected a height and a width for SVTR that are multiples of {PATCH}, found {height} x {width}: "
                             f"take {_multiple(height)} x {_multiple(width)}")
        self.height, self.width, self.columns = height, width, width // PATCH
        first, second, third = size.widths
        self.patches = _patches(channels, first)
        self.positions = nn.Parameter(torch.zeros(1, height // PATCH * self.columns, first))
        self.stages = nn.ModuleList(_stages(size, height // PATCH, self.columns, drop_path))
        self.mergings = nn.ModuleList([Merging(first, second, self.columns), Merging(second, third, self.columns)])
        self.norm = nn.LayerNorm(third, eps=1e-6)
        self.combine = nn.Conv2d(third, size.out_width, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, width / 4, out_width). ValueError for images of another size."""
        if images.shape[2:] != (self.height, self.width):
            raise ValueError(f"expected images of {self.height} x {self.width}, for which this SVTR has learned its positions, "
                             f"found {images.shape[2]} x {images.shape[3]}: resize them, or build and train one for their size")
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions  # (n, height / 4 * columns, first width)
        tokens = self.mergings[0](self.stages[0](tokens))  # (n, height / 8 * columns, second width)
        tokens = self.mergings[1](self.stages[1](tokens))  # (n, height / 16 * columns, third width)
        tokens = self.norm(self.stages[2](tokens))
        row = tokens.unflatten(1, (-1, self.columns)).mean(1, keepdim=True)  # (n, 1, columns, third width)
        combined = F.hardswish(self.combine(row.permute(0, 3, 1, 2)))  # (n, out_width, 1, columns)
        return self.dropout(combined.flatten(2).transpose(1, 2))


def _multiple(pixels: int) -> int:
    return max(PATCH, round(pixels / PATCH) * PATCH)
