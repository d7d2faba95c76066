"""HGA: "A holistic representation guided attention network for scene text recognition" (Yang et al., Neurocomputing 2020)."""

from torch import nn

from models.charset import Charset
from models.decoders.parallel import HolisticDecoder
from models.encoders.hga_resnet import HGAResNet
from models.recognizer import Recognizer

# The authors' characters in their order: the apostrophe comes third among the marks, and ^ { | } are missing.
HGA_CHARSET = Charset(Charset.named("62").characters + "!\"'#$%&()*+,-./:;<=>?@[\\]_`~")


def hga(charset: Charset, *, channels: int = 3, height: int = 48, width: int = 160, max_length: int = 34, directions: int = 2,
        decoder_layers: int = 1) -> Recognizer:
    """A ResNet's map under transformer decoders, which are shown one vector of the whole image at every step.

    directions: 2 reads from left to right and from right to left and keeps the likelier; 1 only from left to right.
    """
    if height < 8 or width < 8:
        raise ValueError(f"expected images of at least 8x8 for the three poolings, found {height}x{width}: the paper has 48x160")
    encoder = HGAResNet(channels)
    decoder = HolisticDecoder(charset, encoder.out_channels, rows=height // 8, directions=directions, layers=decoder_layers,
                              max_length=max_length)
    return Recognizer(charset, None, encoder, nn.Identity(), decoder, channels=channels, height=height, width=width, max_length=max_length,
                      memory_rows=height // 8)
