"""MORAN, the multi-object rectified attention network, version 2 (Luo, Jin and Sun, Pattern Recognition 2019, arXiv 1901.03003).

Rectifier -> residual encoder -> two bidirectional LSTMs -> attention decoders in both directions. The convolutions of the encoder start
Kaiming normal (fan-out); everything else as PyTorch initialises it, as the authors left it.
"""

from models.charset import Charset
from models.decoders.moran import BidirectionalDecoder
from models.encoders.moran_resnet import MORANResNet
from models.encoders.morn import MORN
from models.recognizer import Recognizer
from models.sequence import bilstm_stage


def moran(charset: Charset, *, channels: int = 1, height: int = 64, width: int = 200, max_length: int = 25, bidirectional: bool = True,
          target_height: int = 32, target_width: int = 100, hidden: int = 256) -> Recognizer:
    """20,340,141 parameters with 36 characters.

    height, width: of the images, which are sampled at the rectifier's target_height x target_width.
    bidirectional: False decodes from left to right only.
    hidden: of the LSTMs and of the decoders.
    """
    encoder = MORANResNet(channels)
    return Recognizer(
        charset,
        MORN(channels, target_height, target_width),
        encoder,
        bilstm_stage(encoder.out_channels, hidden),
        BidirectionalDecoder(charset, hidden, hidden=hidden, max_length=max_length, bidirectional=bidirectional),
        channels=channels, height=height, width=width, max_length=max_length)
