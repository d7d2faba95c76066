"""The sequence stage: bidirectional LSTMs over the frames (CRNN, Shi et al., TPAMI 2017; four-stage benchmark)."""

from torch import Tensor, nn


class BidirectionalLSTM(nn.Module):
    """One bidirectional LSTM layer and a linear layer that joins its two directions."""

    def __init__(self, width: int, hidden: int, out_width: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, out_width)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, frames, width) -> (n, frames, out_width)."""
        return self.linear(self.rnn(frames)[0])


def bilstm_stage(width: int, hidden: int = 256, layers: int = 2) -> nn.Sequential:
    """The stage of the benchmark: `layers` bidirectional LSTMs, (n, frames, width) -> (n, frames, hidden)."""
    return nn.Sequential(*(BidirectionalLSTM(width if i == 0 else hidden, hidden, hidden) for i in range(layers)))
