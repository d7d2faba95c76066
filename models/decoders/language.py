"""The bidirectional cloze network, ABINet's language model (Fang et al., CVPR 2021, section 3.2).

For every place of a word it says which character belongs there, from all other places at once and never from that place itself. The
queries are the places alone, keys and values the given characters; a layer has no self-attention, through which a place could
learn of its own character. What it is given is a probability for each symbol, and no gradient flows back into it.

    K = V = P W_l + table,   Q of the first layer = table,   softmax(Q K^T / sqrt(width of a head) + M) V
with M = -infinity where a place would look at itself or behind the word, else 0.
"""

from functools import partial

import torch
from torch import Tensor, nn

from models.encoders.transformer import AttentionLayer, sinusoids
from models.precision import Table


def _elsewhere(steps: int) -> Tensor:
    """(place that asks, place asked) bool: all but itself."""
    return ~torch.eye(steps, dtype=torch.bool)


class LanguageModel(nn.Module):
    """Words as probabilities of symbols in, corrected words out."""

    def __init__(self, classes: int, width: int = 512, *, steps: int = 26, layers: int = 4, heads: int = 8, feed_forward: int = 2048,
                 dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Linear(classes, width, bias=False)
        self.layers = nn.ModuleList(AttentionLayer(width, heads, feed_forward, dropout) for _ in range(layers))
        self.classifier = nn.Linear(width, classes)
        self.dropout = nn.Dropout(dropout)
        self.steps = steps
        self.positions = Table(partial(sinusoids, steps, width))
        self.elsewhere = Table(partial(_elsewhere, steps))

    def forward(self, probabilities: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(n, steps, classes), (n,) -> features (n, steps, width), logits (n, steps, classes).

        lengths: int64, of each word with its end symbol, at least 2: what lies behind is not looked at. ValueError for
            another number of steps or classes.
        """
        expected = (self.steps, self.classifier.out_features)
        if probabilities.shape[1:] != expected:
            raise ValueError(f"expected probabilities of shape (n, {expected[0]}, {expected[1]}), found {tuple(probabilities.shape)}: "
                             "give one row of class probabilities for every step")
        positions = self.positions()  # (steps, width)
        memory = self.dropout(self.embedding(probabilities.detach()) + positions)  # (n, steps, width)
        inside = torch.arange(expected[0], device=lengths.device) < lengths.unsqueeze(1)  # (n, steps)
        visible = (self.elsewhere() & inside.unsqueeze(1)).unsqueeze(1)  # (n, 1, steps, steps)
        features = positions.unsqueeze(0)  # the same for all images
        for layer in self.layers:
            features = layer(features, memory, visible)  # (n, steps, width)
        return features, self.classifier(features)
