"""ABINet: a vision model and a language model that correct each other (Fang et al., "Read like humans", CVPR 2021).

SemiMTR trains the same network from unlabeled images (Aberdam et al., 2022): `no_null_length="full"`. The parseq hub has it with its
own conventions (Bautista and Atienza, ECCV 2022): `tokens="parseq"`, `normalisation="half"`, `no_null_length="full"`.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from models.charset import Charset
from models.decoders.abinet import ABINetDecoder
from models.encoders.resnet45 import ResNet45
from models.encoders.small import SmallMap
from models.encoders.transformer import MapEncoder, MultiHeadAttention
from models.precision import Table
from models.recognizer import Recognizer

CHARSET = Charset("abcdefghijklmnopqrstuvwxyz1234567890")  # in the order of the first authors' and SemiMTR's class ids
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


def _imagenet_scale() -> Tensor:
    """(1, 3, 1, 1) float64."""
    return (0.5 / torch.tensor(DEVIATION, dtype=torch.float64)).view(1, 3, 1, 1)


def _imagenet_shift() -> Tensor:
    """(1, 3, 1, 1) float64."""
    mean, deviation = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, DEVIATION))
    return ((0.5 - mean) / deviation).view(1, 3, 1, 1)


class ImageNetNormalisation(nn.Module):
    """Colour images in [-1, 1] -> the range in [0, 1] less ImageNet's mean, divided by its deviation, channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = Table(_imagenet_scale), Table(_imagenet_shift)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) -> the same shape."""
        return images * self.scale() + self.shift()


def _normalisation(name: str, channels: int) -> nn.Module:
    if name == "half":
        return nn.Identity()
    if name != "imagenet" or channels != 3:
        raise ValueError(f"expected the normalisation imagenet with 3 channels, or half, found {name!r} with {channels}: choose half")
    return ImageNetNormalisation()


def initialise_as_hub(recognizer: Recognizer) -> None:
    """The hub's: linear layers and embeddings N(0, 0.02) within two deviations, kernels Kaiming normal by fan-out, biases 0, norms 1 and 0.

    The attentions' input projections keep Xavier uniform.
    """
    for module in recognizer.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in recognizer.modules():
        if isinstance(module, MultiHeadAttention):
            module.reset_input_projection()


def abinet(charset: Charset, *, channels: int = 3, height: int = 32, width: int = 128, max_length: int = 25,
           vision: Literal["large", "small"] = "large", vision_layers: int | None = None, language_layers: int = 4, iterations: int = 3,
           hidden: int = 512, tokens: Literal["original", "parseq"] = "original", normalisation: Literal["imagenet", "half"] = "imagenet",
           no_null_length: Literal["original", "full"] = "original", vision_weight: float = 1.0, language_weight: float = 1.0,
           fusion_weight: float = 1.0) -> Recognizer:
    """ABINet-LV, or with `vision="small"` ABINet-SV, with the first authors' initialisation.

    vision_layers: of the encoder over the map; 3 in the large model, 2 in the small one, unless told otherwise.
    iterations: how often language and vision correct each other; 0 is the vision model alone, which later goes on with any other number.
    hidden: the memory's width; all other widths follow from it.
    tokens: whose table of ids; "parseq" also initialises as the hub does.
    normalisation: of images in [-1, 1]: ImageNet's, or "half", which leaves them as they are.
    no_null_length: how long the language model takes a word without an end symbol to be, 2 (original) or all steps (full).
    vision_weight, language_weight, fusion_weight: of the three losses.
    """
    rows, columns = -(-height // 4), -(-width // 4)  # rounded up, as the two strides do
    if vision_layers is None:
        vision_layers = 3 if vision == "large" else 2
    encoder = nn.Sequential(OrderedDict(
        normalisation=_normalisation(normalisation, channels),
        resnet=ResNet45(channels, out_channels=hidden),
        transformer=MapEncoder(hidden, rows, columns, layers=vision_layers, feed_forward=4 * hidden)))
    decoder = ABINetDecoder(
        charset, hidden, rows, columns, max_length=max_length, vision=vision, language_layers=language_layers, iterations=iterations,
        table=tokens, no_null_length=no_null_length,
        vision_weight=vision_weight, language_weight=language_weight, fusion_weight=fusion_weight)
    recognizer = Recognizer(charset, None, encoder, nn.Identity(), decoder,
                            channels=channels, height=height, width=width, max_length=max_length, memory_rows=rows)
    if tokens == "parseq":
        initialise_as_hub(recognizer)
    return recognizer


def abinet_small(charset: Charset, *, channels: int = 1, width: int = 100, max_length: int = 25, hidden: int = 128, vision_layers: int = 1,
                 language_layers: int = 1, iterations: int = 2, no_null_length: Literal["original", "full"] = "full") -> Recognizer:
    """For experiments on a few cores: ABINet-LV's decoder and encoder over the map, a quarter as wide, behind convolutions like crnn_small's.

    PyTorch's own initialisation of the convolutions, as crnn_small's; `iterations` as in `abinet`.
    """
    rows, columns = 2, -(-width // 4)
    encoder = nn.Sequential(OrderedDict(
        convolutions=SmallMap(channels, out_channels=hidden),
        transformer=MapEncoder(hidden, rows, columns, layers=vision_layers, heads=4, feed_forward=2 * hidden, dropout=0.0)))
    decoder = ABINetDecoder(charset, hidden, rows, columns, max_length=max_length, language_layers=language_layers, iterations=iterations,
                            no_null_length=no_null_length)
    return Recognizer(charset, None, encoder, nn.Identity(), decoder,
                      channels=channels, height=32, width=width, max_length=max_length, memory_rows=rows)
