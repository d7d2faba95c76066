"""Self-attention inside windows of a map (Liu et al., "Swin Transformer", ICCV 2021, equation 4): the context that a masked position is guessed from.

    attention = softmax(Q K^T / sqrt(width of a head) + B) V,   B: a learned number for each head and each relative place of two cells
Windows do not overlap; a map that they do not tile is filled up, and nobody looks at what was added.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowedAttention(nn.Module):
    """(n, rows, columns, width) -> the same shape."""

    def __init__(self, width: int, heads: int, window: tuple[int, int]) -> None:
        """`window`: rows and columns of cells. ValueError where the heads do not divide the width."""
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width that {heads} heads divide, found {width}")
        self.heads, self.window = heads, window
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.places = nn.Parameter(torch.zeros(heads, 2 * window[0] - 1, 2 * window[1] - 1))
        nn.init.trunc_normal_(self.places, std=0.02)

    def forward(self, cells: Tensor) -> Tensor:
        """(n, rows, columns, width) -> the same shape."""
        rows, columns = cells.shape[1:3]
        high, wide = self.window
        filled = F.pad(cells, (0, 0, 0, -columns % wide, 0, -rows % high))
        inside = F.pad(torch.ones(rows, columns, dtype=torch.bool, device=cells.device), (0, -columns % wide, 0, -rows % high))
        down, across = filled.shape[1] // high, filled.shape[2] // wide
        windows = filled.unflatten(2, (across, wide)).unflatten(1, (down, high)).transpose(2, 3)  # (n, down, across, high, wide, width)
        tokens = windows.flatten(3, 4).flatten(0, 2)  # (n * windows, cells of a window, width)
        seen = inside.unflatten(1, (across, wide)).unflatten(0, (down, high)).transpose(1, 2).flatten(2)  # (down, across, cells)
        bias = self._bias().masked_fill(~seen.flatten(0, 1)[:, None, None], -1e9)  # (windows, heads, cells, cells)
        parts = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = bias.to(parts.dtype).repeat(len(cells), 1, 1, 1)
        mixed = self.out(F.scaled_dot_product_attention(*parts, attn_mask=bias).transpose(1, 2).flatten(2))
        mixed = mixed.unflatten(0, (-1, down, across)).unflatten(3, (high, wide)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return mixed[:, :rows, :columns]

    def _bias(self) -> Tensor:
        """(1, heads, cells, cells) of a window."""
        row = torch.arange(self.window[0], device=self.places.device).repeat_interleave(self.window[1])
        column = torch.arange(self.window[1], device=self.places.device).repeat(self.window[0])
        return self.places[:, row[:, None] - row + self.window[0] - 1, column[:, None] - column + self.window[1] - 1].unsqueeze(0)


class WindowedLayer(nn.Module):
    """Windowed attention and a feed-forward part of four times the width, each behind a norm and added to its input."""

    def __init__(self, width: int, heads: int, window: tuple[int, int]) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), WindowedAttention(width, heads, window)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, cells: Tensor) -> Tensor:
        """(n, rows, columns, width) -> the same shape."""
        cells = cells + self.attention(self.attention_norm(cells))
        return cells + self.feed_forward(self.feed_forward_norm(cells))
