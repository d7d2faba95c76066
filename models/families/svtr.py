"""SVTR (Du et al., IJCAI 2022): images -> rectifier -> patches, mixed locally and globally -> CTC. Four sizes, no sequence stage."""

from typing import Literal

from torch import nn

from models.charset import Charset
from models.decoders.ctc import CTCDecoder
from models.encoders.stn import SpatialTransformer
from models.encoders.svtr import SVTR, Size
from models.recognizer import Recognizer

SIZES = {
    "tiny": Size(widths=(64, 128, 256), depths=(3, 6, 3), heads=(2, 4, 8), local_blocks=6, out_width=192),
    "small": Size(widths=(96, 192, 256), depths=(3, 6, 6), heads=(3, 6, 8), local_blocks=8, out_width=192),
    "base": Size(widths=(128, 256, 384), depths=(3, 6, 9), heads=(4, 8, 12), local_blocks=8, out_width=256),
    "large": Size(widths=(192, 256, 512), depths=(3, 9, 9), heads=(6, 8, 16), local_blocks=10, out_width=384),
}
READ = {"tiny": (32, 100), "small": (32, 100), "base": (48, 160), "large": (48, 160)}  # height and width that the encoder reads
RECTIFIED_FROM = (64, 256)  # height and width of the images that the rectifier samples


def initialise(recognizer: Recognizer) -> None:
    """The paper's initialisation: matrices and positions normal with deviation 0.02, kernels Kaiming normal (fan-out, gain sqrt 2).

    Biases are 0, norms stay at 1 and 0, and a rectifier gets its first points.
    """
    for part in recognizer.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(part, (nn.Linear, nn.Conv2d)) and part.bias is not None:
            nn.init.zeros_(part.bias)
    nn.init.normal_(recognizer.encoder.positions, std=0.02)
    if recognizer.rectifier is not None:
        recognizer.rectifier.reset_points()


def svtr(charset: Charset, *, size: Literal["tiny", "small", "base", "large"] = "tiny", channels: int = 3, height: int | None = None,
         width: int | None = None, rectifier: bool = True, max_length: int = 25) -> Recognizer:
    """SVTR-T, -S, -B or -L, with its initialisation.

    height, width: of the images. With the rectifier any, 64 x 256 unless told otherwise: it samples from them what the encoder reads,
        32 x 100 (tiny, small) or 48 x 160 (base, large). Without it the encoder reads the images themselves, multiples of 4 each way,
        these two sizes unless told otherwise.
    max_length: a text of so many characters needs as many frames, one for each 4 columns that the encoder reads.
    ValueError for an unknown size and for a height or width that cannot be read.
    """
    if size not in SIZES:
        raise ValueError(f"expected a size of SVTR ({', '.join(SIZES)}), found {size!r}: choose one of them")
    usual = RECTIFIED_FROM if rectifier else READ[size]
    height, width = usual[0] if height is None else height, usual[1] if width is None else width
    read = READ[size] if rectifier else (height, width)
    encoder = SVTR(channels, *read, SIZES[size])
    recognizer = Recognizer(charset, SpatialTransformer(channels, *read) if rectifier else None, encoder, nn.Identity(),
                            CTCDecoder(charset, SIZES[size].out_width, max_length=max_length),
                            channels=channels, height=height, width=width, max_length=max_length)
    initialise(recognizer)
    return recognizer
