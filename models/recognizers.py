"""Named recognizers: rectifier -> encoder -> sequence stage -> decoder, composed from the parts beside this file.

The four-stage family and its initialisation follow "What is wrong with scene text recognition model comparisons?"
(Baek et al., ICCV 2019).
"""

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from models.charset import Charset
from models.decoders.attention import AttentionDecoder
from models.decoders.ctc import CTCDecoder
from models.decoders.decoded import Decoded, Reading
from models.encoders.rcnn import RCNN
from models.encoders.rectify import ThinPlateSpline
from models.encoders.resnet import ResNet
from models.encoders.tiny import Tiny
from models.encoders.vgg import VGG
from models.sequence import bilstm_stage, convolution_stage


# "stretch": scaled to height x width; "pad": scaled to the height and filled up on the right to the width; "keep": the same, filled
# up only as far as the images of a batch need, at most to the width.
ASPECTS = ("stretch", "pad", "keep")


class Recognizer(nn.Module):
    """Images of one word each in, strings out. `name` and `overrides` are what `build` was given."""

    name: str = ""
    aspect: str = "stretch"  # how images become height x width: one of ASPECTS
    overrides: dict[str, object]

    def __init__(self, charset: Charset, rectifier: nn.Module | None, encoder: nn.Module, sequence: nn.Module,
                 decoder: nn.Module, *, channels: int, height: int, width: int, max_length: int) -> None:
        super().__init__()
        self.charset = charset
        self.height, self.width, self.channels, self.max_length = height, width, channels, max_length
        self.overrides = {}
        self.rectifier = rectifier
        self.encoder = encoder
        self.sequence = sequence
        self.decoder = decoder
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False)

    def _as_channels(self, images: Tensor) -> Tensor:
        """The images with this recognizer's number of channels: luma (ITU-R BT.601) or a repeated gray channel."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != self.height:
            raise ValueError(f"expected images of shape (n, 1 or 3, {self.height}, width), found "
                             f"{tuple(images.shape)}: resize them to height {self.height} first")
        if images.shape[1] == self.channels:
            return images
        return images.expand(-1, 3, -1, -1) if self.channels == 3 else (images * self.luma).sum(1, keepdim=True)

    def visual(self, images: Tensor) -> Tensor:
        """(n, 3 or 1, height, W) float in [-1, 1] -> (n, frames, features): rectified, encoded, mean over height."""
        images = self._as_channels(images)
        if self.rectifier is not None:
            images = self.rectifier(images)
        return self.encoder(images).mean(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Tensor:
        """(n, 3 or 1, height, W) -> (n, frames, width): the visual features behind the sequence stage, the memory."""
        return self.sequence(self.visual(images))

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> Decoded:
        """(n, 3 or 1, height, W) -> the decoder's outputs, fed with `tokens` (n, steps) or with its own symbols."""
        return self.decoder(self.encode(images), tokens)

    def read(self, images: Tensor) -> Reading:
        """The strings in (n, 3 or 1, height, W), greedily. The caller chooses eval mode and no_grad."""
        return self.decoder.read(self(images).logits)


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


def _decoder(kind: str, charset: Charset, memory_width: int, hidden: int, max_length: int) -> nn.Module:
    if kind == "ctc":
        return CTCDecoder(charset, memory_width, max_length=max_length)
    return AttentionDecoder(charset, memory_width, hidden=hidden, max_length=max_length)


def four_stage(charset: Charset, *, rectifier: Literal["none", "tps"] = "none",
               encoder: Literal["vgg", "rcnn", "resnet"] = "vgg", sequence: Literal["none", "bilstm"] = "bilstm",
               decoder: Literal["ctc", "attention"] = "ctc", channels: int = 1, height: int = 32, width: int = 100,
               max_length: int = 25, hidden: int = 256) -> Recognizer:
    """Any of the benchmark's 24 combinations of stages (crnn's unless told otherwise), with its initialisation."""
    visual = {"vgg": VGG, "rcnn": RCNN, "resnet": ResNet}[encoder](channels)
    memory_width = visual.out_channels if sequence == "none" else hidden
    recognizer = Recognizer(
        charset,
        ThinPlateSpline(channels, height, width) if rectifier == "tps" else None,
        visual,
        nn.Identity() if sequence == "none" else bilstm_stage(visual.out_channels, hidden),
        _decoder(decoder, charset, memory_width, hidden, max_length),
        channels=channels, height=height, width=width, max_length=max_length)
    initialise(recognizer)
    return recognizer


def _named(rectifier: str, encoder: str, sequence: str, decoder: str) -> Callable[..., Recognizer]:
    """A builder for one fixed combination of stages."""

    def builder(charset: Charset, *, channels: int = 1, height: int = 32, width: int = 100,
                max_length: int = 25) -> Recognizer:
        return four_stage(charset, rectifier=rectifier, encoder=encoder, sequence=sequence, decoder=decoder,
                          channels=channels, height=height, width=width, max_length=max_length)

    return builder


def _tiny(charset: Charset, decoder: nn.Module, channels: int, width: int, max_length: int) -> Recognizer:
    # PyTorch's own initialisation, not the benchmark's: with a BatchNorm behind every convolution, smaller weights
    # learn faster.
    encoder = Tiny(channels)
    return Recognizer(charset, None, encoder, convolution_stage(encoder.out_channels), decoder,
                      channels=channels, height=32, width=width, max_length=max_length)


def crnn_tiny(charset: Charset, *, channels: int = 1, width: int = 100, max_length: int = 25) -> Recognizer:
    """For laptops and tests: strided convolutions, convolutions along the frames, CTC. 160,021 parameters."""
    return _tiny(charset, CTCDecoder(charset, Tiny.out_channels, max_length=max_length), channels, width, max_length)


def trba_tiny(charset: Charset, *, channels: int = 1, width: int = 100, max_length: int = 25) -> Recognizer:
    """The encoder of crnn_tiny under an attention decoder, for laptops and tests. 282,006 parameters."""
    decoder = AttentionDecoder(charset, Tiny.out_channels, hidden=96, max_length=max_length)
    initialise(decoder)
    return _tiny(charset, decoder, channels, width, max_length)


RECOGNIZERS: dict[str, Callable[..., Recognizer]] = {
    "crnn": _named("none", "vgg", "bilstm", "ctc"),  # Shi et al., TPAMI 2017; 8,451,621 parameters with 36 characters
    "grcnn": _named("none", "rcnn", "bilstm", "ctc"),  # Wang and Hu, NeurIPS 2017; 4,761,765
    "rosetta": _named("none", "resnet", "none", "ctc"),  # Borisyuk et al., KDD 2018; 44,282,885
    "rare": _named("tps", "vgg", "bilstm", "attention"),  # Shi et al., CVPR 2016; 10,841,102
    "star_net": _named("tps", "resnet", "bilstm", "ctc"),  # Liu et al., BMVC 2016; 48,858,093
    "trba": _named("tps", "resnet", "bilstm", "attention"),  # Baek et al., ICCV 2019; 49,555,182
    "four_stage": four_stage,
    "crnn_tiny": crnn_tiny,
    "trba_tiny": trba_tiny,
}


def build(name: str, charset: Charset, **overrides: object) -> Recognizer:
    """A freshly initialised recognizer. `overrides` are keyword arguments of its entry in RECOGNIZERS, and `aspect`.

    ValueError for an unknown name or override; the message names the nearest.
    """
    if name not in RECOGNIZERS:
        raise ValueError(f"expected a recognizer, found {name!r}: {_nearest(name, RECOGNIZERS)}")
    builder = RECOGNIZERS[name]
    fields = [*(field for field in inspect.signature(builder).parameters if field != "charset"), "aspect"]
    for field in overrides:
        if field not in fields:
            raise ValueError(f"expected a setting of the recognizer {name}, found {field!r}: {_nearest(field, fields)}")
    recognizer = builder(charset, **{field: value for field, value in overrides.items() if field != "aspect"})
    recognizer.aspect = overrides.get("aspect", "stretch")
    if recognizer.aspect not in ASPECTS:
        raise ValueError(f"aspect: expected {', '.join(ASPECTS)}, found {recognizer.aspect!r}")
    if recognizer.aspect == "keep" and recognizer.rectifier is not None:
        raise ValueError(f"aspect: expected stretch or pad, found keep: the rectifier of {name} takes images of one width")
    recognizer.name, recognizer.overrides = name, dict(overrides)
    return recognizer


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
