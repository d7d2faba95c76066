"""The four-stage family: rectifier -> encoder -> sequence stage -> decoder, and the small recognizers for laptops.

Stages and initialisation follow "What is wrong with scene text recognition model comparisons?" (Baek et al., ICCV 2019); the token
table and the embedding of `tokens="fewer_labels"` "What if we only use real datasets for scene text recognition?" (Baek et al., CVPR 2021).
"""

from collections.abc import Callable
from typing import Literal

from torch import nn

from models.charset import Charset
from models.decoders.attention import AttentionDecoder
from models.decoders.ctc import CTCDecoder
from models.encoders.rcnn import RCNN
from models.encoders.rectify import ThinPlateSpline
from models.encoders.resnet import ResNet
from models.encoders.small import Small
from models.encoders.tiny import Tiny
from models.encoders.vgg import VGG
from models.recognizer import Recognizer
from models.sequence import bilstm_stage, convolution_stage


def initialise(module: nn.Module) -> None:
    """The benchmark's initialisation: biases 0, matrices and kernels Kaiming normal (fan-in, gain sqrt 2), BatchNorm 1.

    It also covers the LSTMs. A rectifier keeps its first points.
    """
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.ones_(parameter)
    for part in module.modules():
        if isinstance(part, ThinPlateSpline):
            part.reset_points()


def _decoder(kind: str, charset: Charset, memory_width: int, hidden: int, max_length: int, tokens: str) -> nn.Module:
    if kind == "ctc":
        return CTCDecoder(charset, memory_width, max_length=max_length, table=tokens)
    return AttentionDecoder(charset, memory_width, hidden=hidden, max_length=max_length, table=tokens,
                            embedding=None if tokens == "benchmark" else hidden)


def four_stage(charset: Charset, *, rectifier: Literal["none", "tps"] = "none",
               encoder: Literal["vgg", "rcnn", "resnet"] = "vgg", sequence: Literal["none", "bilstm"] = "bilstm",
               decoder: Literal["ctc", "attention"] = "ctc", channels: int = 1, height: int = 32, width: int = 100,
               max_length: int = 25, hidden: int = 256, tokens: Literal["benchmark", "fewer_labels", "parseq"] = "benchmark") -> Recognizer:
    """Any of the benchmark's 24 combinations of stages (crnn's unless told otherwise), with its initialisation.

    tokens: whose table of ids; the two others feed the attention decoder learned embeddings instead of one-hot symbols.
    """
    visual = {"vgg": VGG, "rcnn": RCNN, "resnet": ResNet}[encoder](channels)
    memory_width = visual.out_channels if sequence == "none" else hidden
    recognizer = Recognizer(
        charset,
        ThinPlateSpline(channels, height, width) if rectifier == "tps" else None,
        visual,
        nn.Identity() if sequence == "none" else bilstm_stage(visual.out_channels, hidden),
        _decoder(decoder, charset, memory_width, hidden, max_length, tokens),
        channels=channels, height=height, width=width, max_length=max_length)
    initialise(recognizer)
    return recognizer


def named(rectifier: str, encoder: str, sequence: str, decoder: str) -> Callable[..., Recognizer]:
    """A builder for one fixed combination of stages."""

    def builder(charset: Charset, *, channels: int = 1, height: int = 32, width: int = 100,
                max_length: int = 25, tokens: Literal["benchmark", "fewer_labels", "parseq"] = "benchmark") -> Recognizer:
        return four_stage(charset, rectifier=rectifier, encoder=encoder, sequence=sequence, decoder=decoder,
                          channels=channels, height=height, width=width, max_length=max_length, tokens=tokens)

    return builder


def _for_laptops(charset: Charset, decoder: nn.Module, kind: type[Tiny] | type[Small], layers: int, channels: int, width: int,
                 max_length: int) -> Recognizer:
    # PyTorch's own initialisation, not the benchmark's: with a BatchNorm behind every convolution, smaller weights
    # learn faster. The decoder's are drawn first, so that a seed means what it meant.
    encoder = kind(channels)
    return Recognizer(charset, None, encoder, convolution_stage(encoder.out_channels, layers=layers), decoder,
                      channels=channels, height=32, width=width, max_length=max_length)


def crnn_tiny(charset: Charset, *, channels: int = 1, width: int = 100, max_length: int = 25) -> Recognizer:
    """For laptops and tests: strided convolutions, convolutions along the frames, CTC. 160,021 parameters."""
    return _for_laptops(charset, CTCDecoder(charset, Tiny.out_channels, max_length=max_length), Tiny, 2, channels, width, max_length)


def trba_tiny(charset: Charset, *, channels: int = 1, width: int = 100, max_length: int = 25) -> Recognizer:
    """The encoder of crnn_tiny under an attention decoder, for laptops and tests. 282,006 parameters."""
    decoder = AttentionDecoder(charset, Tiny.out_channels, hidden=96, max_length=max_length)
    initialise(decoder)
    return _for_laptops(charset, decoder, Tiny, 2, channels, width, max_length)


def crnn_small(charset: Charset, *, channels: int = 1, width: int = 100, max_length: int = 25) -> Recognizer:
    """For experiments on a few cores: like crnn_tiny, eight times its parameters, nine times its multiply-adds. 1,353,741 parameters."""
    return _for_laptops(charset, CTCDecoder(charset, Small.out_channels, max_length=max_length), Small, 4, channels, width, max_length)


def trba_small(charset: Charset, *, channels: int = 1, width: int = 100, max_length: int = 25) -> Recognizer:
    """The encoder of crnn_small under an attention decoder. 1,418,510 parameters."""
    decoder = AttentionDecoder(charset, Small.out_channels, hidden=192, max_length=max_length)
    initialise(decoder)
    return _for_laptops(charset, decoder, Small, 2, channels, width, max_length)
