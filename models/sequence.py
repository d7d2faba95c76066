"""Sequence stages: what the frames tell each other before the decoder sees them."""

import torch.nn.functional as F
from torch import Tensor, nn


class BidirectionalLSTM(nn.Module):
    """One bidirectional LSTM layer and a linear layer that joins its two directions (CRNN, Shi et al., TPAMI 2017)."""

    def __init__(self, width: int, hidden: int, out_width: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, out_width)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, frames, width) -> (n, frames, out_width)."""
        return self.linear(self.rnn(frames)[0])


def bilstm_stage(width: int, hidden: int = 256, layers: int = 2) -> nn.Sequential:
    """The benchmark's stage: `layers` bidirectional LSTMs, (n, frames, width) -> (n, frames, hidden)."""
    return nn.Sequential(*(BidirectionalLSTM(width if i == 0 else hidden, hidden, hidden) for i in range(layers)))


class ResidualConvolution(nn.Module):
    """A convolution along the frames, BatchNorm and ReLU, added to its input."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, (1, kernel), padding=(0, kernel // 2), bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, frames, width) -> (n, frames, width)."""
        # As an image of height 1 the frames already lie channels last, the fast layout, and nothing is copied.
        picture = frames.transpose(1, 2).unsqueeze(2)  # (n, width, 1, frames)
        heard = F.relu(self.norm(self.convolution(picture)), inplace=True)
        return frames + heard.squeeze(2).transpose(1, 2)


def convolution_stage(width: int, kernel: int = 3, layers: int = 2) -> nn.Sequential:
    """A stage without recurrence for small recognizers, (n, frames, width) -> (n, frames, width)."""
    return nn.Sequential(*(ResidualConvolution(width, kernel) for _ in range(layers)))


class ColumnMeans(nn.Module):
    """Frames for a CTC decoder from the tokens of a vision transformer: the mean over the rows of each column of patches."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, rows * columns, width) -> (n, columns, width)."""
        return tokens.unflatten(1, (self.rows, -1)).mean(1)
