"""ViTSTR (Atienza, ICDAR 2021) and PARSeq (Bautista and Atienza, ECCV 2022): a vision transformer, then nothing or one layer of queries.

Sizes and initialisation as in the parseq hub, whose images are 32 x 128 in patches of 4 x 8; ViTSTR's own paper has 224 x 224 in patches of
16 x 16 and the token table "benchmark".
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from models.charset import Charset
from models.decoders.ctc import CTCDecoder
from models.decoders.parseq import PARSeqDecoder
from models.decoders.vitstr import ViTSTRDecoder
from models.encoders.vit import ViT
from models.families.hub_crnn import hub_initialise
from models.recognizer import Recognizer
from models.sequence import ColumnMeans

# (width, heads); PARSeq's decoder has twice the heads. PARSeq calls 384 "base", ViTSTR and DeiT "small".
VITSTR_SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
PARSEQ_SIZES = {"tiny": (192, 3), "base": (384, 6), "large": (768, 12)}


def _of_size(sizes: dict[str, tuple[int, int]], size: str) -> tuple[int, int]:
    if size not in sizes:
        raise ValueError(f"expected a size ({', '.join(sizes)}), found {size!r}: choose one of these")
    return sizes[size]


def vitstr(charset: Charset, *, size: Literal["tiny", "small", "base"] = "small", channels: int = 3, height: int = 32, width: int = 128,
           patch: Sequence[int] = (4, 8), max_length: int = 25, tokens: Literal["parseq", "benchmark"] = "parseq") -> Recognizer:
    """ViTSTR: 5,400,671, 21,418,079 or 85,303,391 parameters with 94 characters. patch: (height, width).

    ValueError if the patches do not tile the image, or are fewer than max_length + 1.
    """
    model_width, heads = _of_size(VITSTR_SIZES, size)
    encoder = ViT(channels, image=(height, width), patch=tuple(patch), width=model_width, heads=heads)
    decoder = ViTSTRDecoder(charset, model_width, max_length=max_length, table=tokens)
    decoder.check_frames(1 + encoder.rows * encoder.columns)
    hub_initialise(decoder)
    return Recognizer(charset, None, encoder, nn.Identity(), decoder, channels=channels, height=height, width=width, max_length=max_length,
                      memory_rows=encoder.rows, class_tokens=1)


def parseq(charset: Charset, *, size: Literal["tiny", "base", "large"] = "base", channels: int = 3, height: int = 32, width: int = 128,
           patch: Sequence[int] = (4, 8), max_length: int = 25, permutations: int = 6, dropout: float = 0.1,
           decode: Literal["autoregressive", "one_shot"] = "autoregressive", refinements: int | None = None) -> Recognizer:
    """PARSeq: 6,018,143, 23,832,671 or 94,851,167 parameters with 94 characters. patch: (height, width).

    permutations, dropout, decode and refinements are the decoder's: see PARSeqDecoder. ValueError if the patches do not tile the image.
    """
    model_width, heads = _of_size(PARSEQ_SIZES, size)
    encoder = ViT(channels, image=(height, width), patch=tuple(patch), width=model_width, heads=heads, class_token=False)
    decoder = PARSeqDecoder(charset, model_width, heads=2 * heads, max_length=max_length, dropout=dropout, permutations=permutations,
                            decode=decode, refinements=refinements)
    hub_initialise(decoder)
    return Recognizer(charset, None, encoder, nn.Identity(), decoder, channels=channels, height=height, width=width, max_length=max_length,
                      memory_rows=encoder.rows)


def vit_tiny(charset: Charset, *, channels: int = 1, width: int = 100, patch: Sequence[int] = (16, 4), hidden: int = 96, depth: int = 3, heads: int = 3,
             max_length: int = 25) -> Recognizer:
    """For laptops and tests: a small vision transformer whose columns of patches are frames for CTC. patch: (height, width).

    ValueError if the patches do not tile the image.
    """
    encoder = ViT(channels, image=(32, width), patch=tuple(patch), width=hidden, heads=heads, depth=depth, class_token=False)
    decoder = CTCDecoder(charset, hidden, max_length=max_length)
    return Recognizer(charset, None, encoder, ColumnMeans(encoder.rows), decoder, channels=channels, height=32, width=width, max_length=max_length)
