"""Transformer layers in their first form (Vaswani et al., NeurIPS 2017); ABINet's encoder over a map (Fang et al., CVPR 2021, section 3.1).

    position p:  table[p, 2i] = sin(p / 10000^(2i / width)),  table[p, 2i + 1] = cos of the same                 (section 3.5)
    attention:   softmax(Q K^T / sqrt(width of a head)) V, for every head                                        (equation 1)
    layer:       x = norm(x + attention(x)),  x = norm(x + W_2 relu(W_1 x + b_1) + b_2)                           (equation 2)
The norm comes behind the sum, and there is none behind the last layer. Dropout is on the attention's weights, inside the feed-forward part,
and on both parts' results. The three input projections of an attention are one matrix.

Deviation: the encoder's positions belong to the cells of the full map, so that a cell of a narrower map keeps its position.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.precision import Table


def sinusoids(length: int, width: int) -> Tensor:
    """The positions' table (length, width) float64; sines at even, cosines at odd places. ValueError for an odd width."""
    if width % 2:
        raise ValueError(f"expected an even width for a table of sines and cosines, found {width}")
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) * frequencies  # (length, width / 2)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class MultiHeadAttention(nn.Module):
    """Queries (n, steps, width) over a memory (n, frames, width), which is keys and values."""

    def __init__(self, width: int, heads: int, dropout: float = 0.1) -> None:
        """ValueError where the heads do not divide the width."""
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width that {heads} heads divide, found {width}")
        self.heads = heads
        self.input_projection = nn.Linear(width, 3 * width)  # queries, keys, values
        self.output_projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.reset_input_projection()
        nn.init.zeros_(self.output_projection.bias)

    def reset_input_projection(self) -> None:
        """Xavier uniform over the three matrices as one, biases 0."""
        nn.init.xavier_uniform_(self.input_projection.weight)
        nn.init.zeros_(self.input_projection.bias)

    def forward(self, queries: Tensor, memory: Tensor, visible: Tensor | None = None) -> Tensor:
        """(n or 1, steps, width), (n, frames, width) -> (n, steps, width). One row of queries serves all images.

        visible: bool, broadcast to (n, heads, steps, frames): which frames each query may look at; every query needs one.
        """
        count, _, width = memory.shape
        query_weight, memory_weight = self.input_projection.weight.split([width, 2 * width])
        query_bias, memory_bias = self.input_projection.bias.split([width, 2 * width])
        queries = self._split(F.linear(queries, query_weight, query_bias)).expand(count, -1, -1, -1)
        keys, values = F.linear(memory, memory_weight, memory_bias).chunk(2, -1)
        mixed = F.scaled_dot_product_attention(queries, self._split(keys), self._split(values), attn_mask=visible,
                                               dropout_p=self.dropout.p if self.dropout.training else 0.0)
        return self.output_projection(mixed.transpose(1, 2).flatten(2))

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (n, heads, rows, width of a head)


class AttentionLayer(nn.Module):
    """Attention and a feed-forward part, each added to its input and normalised. With memory = queries it is self-attention."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.ReLU(), nn.Dropout(dropout), nn.Linear(feed_forward, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor, visible: Tensor | None = None) -> Tensor:
        """(n or 1, steps, width), (n, frames, width) -> (n, steps, width); `visible` as in `MultiHeadAttention`."""
        queries = self.attention_norm(queries + self.dropout(self.attention(queries, memory, visible)))
        return self.feed_forward_norm(queries + self.dropout(self.feed_forward(queries)))


class MapEncoder(nn.Module):
    """A map (n, width, rows, columns) -> frames (n, rows * columns, width), row by row, each of which has looked at all."""

    def __init__(self, width: int, rows: int, columns: int, *, layers: int = 3, heads: int = 8, feed_forward: int = 2048,
                 dropout: float = 0.1) -> None:
        """`rows` and `columns` of the full map; a map may have fewer columns."""
        super().__init__()
        self.layers = nn.ModuleList(AttentionLayer(width, heads, feed_forward, dropout) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.rows, self.columns = rows, columns
        self.positions = Table(partial(sinusoids, rows * columns, width))

    def forward(self, features: Tensor) -> Tensor:
        """(n, width, rows, columns) -> (n, rows * columns, width). ValueError for a map that is larger than the full one."""
        rows, columns = features.shape[2:]
        if rows != self.rows or columns > self.columns:
            raise ValueError(f"expected a map of {self.rows} rows and at most {self.columns} columns, found {rows} and {columns}: "
                             "build the recognizer for images of this size, or resize them")
        frames = features.flatten(2).transpose(1, 2)  # (n, rows * columns, width)
        positions = self.positions().unflatten(0, (self.rows, self.columns))[:, :columns].flatten(0, 1)  # (rows * columns, width)
        frames = self.dropout(frames + positions)
        for layer in self.layers:
            frames = layer(frames, frames)
        return frames
