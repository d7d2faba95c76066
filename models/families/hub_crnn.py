"""CRNN (Shi et al., TPAMI 2017) as the parseq hub (Bautista and Atienza, ECCV 2022) builds and initialises it.

The second LSTM's linear layer writes the classes, where the four-stage benchmark puts a linear layer of 256 between the two.
"""

from torch import Tensor, nn

from models.charset import Charset
from models.decoders.ctc import CTCDecoder
from models.encoders.vgg_hub import HubVGG
from models.recognizer import Recognizer
from models.sequence import BidirectionalLSTM


class LastLSTM(nn.Module):
    """A bidirectional LSTM whose linear layer is the decoder's classifier."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, bidirectional=True, batch_first=True)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, frames, width) -> (n, frames, 2 hidden)."""
        return self.rnn(frames)[0]


def hub_initialise(module: nn.Module) -> None:
    """The hub's initialisation: linear layers and embeddings normal 0.02, convolutions Kaiming normal (fan-out), norms 1.

    The hub truncates the former at 2, a hundred deviations out: these are not cut. Their biases become 0. LSTMs, and parameters that stand
    in none of these, keep what they have.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=0.02)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, (nn.Linear, nn.Conv2d)) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def hub_crnn(charset: Charset, *, channels: int = 3, height: int = 32, width: int = 128, max_length: int = 25,
             hidden: int = 256) -> Recognizer:
    """The hub's CRNN: 8,360,927 parameters with 94 characters; 33 frames for width 128."""
    encoder = HubVGG(channels)
    sequence = nn.Sequential(BidirectionalLSTM(encoder.out_channels, hidden, hidden), LastLSTM(hidden, hidden))
    recognizer = Recognizer(charset, None, encoder, sequence, CTCDecoder(charset, 2 * hidden, max_length=max_length),
                            channels=channels, height=height, width=width, max_length=max_length)
    hub_initialise(recognizer)
    return recognizer
