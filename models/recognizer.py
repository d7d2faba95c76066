"""The contract that every recognizer keeps, whatever paper it comes from; objectives and evaluation need nothing else."""

import torch
from torch import Tensor, nn

from models.charset import Charset
from models.decoders.decoded import Decoded, Reading
from models.decoders.decoder import Decoder
from models.decoding.temperature import at_temperature
from models.precision import Table

# "stretch": scaled to height x width; "pad": scaled to the height and filled up on the right to the width; "keep": the same, filled
# up only as far as the images of a batch need, at most to the width.
ASPECTS = ("stretch", "pad", "keep")


def _luma() -> Tensor:
    """(1, 3, 1, 1) float64: what red, green and blue give to gray (ITU-R BT.601)."""
    return torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)


class Recognizer(nn.Module):
    """Images of one word each in, strings out: rectifier -> encoder -> sequence stage -> decoder.

    `name` and `overrides` are what `build` was given.
    rectifier: images -> images, or None.
    encoder: images -> frames (n, frames, width), or a map (n, width, rows, columns), whose rows are averaged into frames.
    sequence: frames -> frames, the memory.
    decoder: see models/decoders/decoder.py.
    memory_rows, class_tokens: the memory's frames are the cells of a map with so many rows, row by row, behind so many tokens that stand for
        the whole image. Most recognizers have one row: a frame for each column.
    """

    name: str = ""
    aspect: str = "stretch"  # how images become height x width: one of ASPECTS
    frozen: bool = False  # whether all but the decoder rests, see `freeze`
    temperature: float = 1.0  # what `read` divides logits by, so that confidences are calibrated; the strings stay
    overrides: dict[str, object]

    def __init__(self, charset: Charset, rectifier: nn.Module | None, encoder: nn.Module, sequence: nn.Module,
                 decoder: Decoder, *, channels: int, height: int, width: int, max_length: int, memory_rows: int = 1,
                 class_tokens: int = 0) -> None:
        super().__init__()
        self.charset = charset
        self.height, self.width, self.channels, self.max_length = height, width, channels, max_length
        self.memory_rows, self.class_tokens = memory_rows, class_tokens
        self.overrides = {}
        self.rectifier = rectifier
        self.encoder = encoder
        self.sequence = sequence
        self.decoder = decoder
        self.luma = Table(_luma)

    def freeze(self) -> None:
        """Let all but the decoder rest: without gradient, and in eval mode whatever mode is set, so that no batch statistic changes."""
        self.frozen = True
        for part in self._before_the_decoder():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Recognizer":
        """Sets the mode of everything that is not frozen."""
        super().train(mode)
        for part in self._before_the_decoder() if self.frozen else ():
            part.eval()
        return self

    def _before_the_decoder(self) -> list[nn.Module]:
        return [part for part in (self.rectifier, self.encoder, self.sequence) if part is not None]

    def _as_channels(self, images: Tensor) -> Tensor:
        """The images with this recognizer's number of channels: luma or a repeated gray channel."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != self.height:
            raise ValueError(f"expected images of shape (n, 1 or 3, {self.height}, width), found "
                             f"{tuple(images.shape)}: resize them to height {self.height} first")
        if images.shape[1] == self.channels:
            return images
        return images.expand(-1, 3, -1, -1) if self.channels == 3 else (images * self.luma()).sum(1, keepdim=True)

    def visual(self, images: Tensor) -> Tensor:
        """(n, 3 or 1, height, W) float in [-1, 1] -> (n, frames, features): rectified, encoded, a map's rows averaged."""
        images = self._as_channels(images)
        if self.rectifier is not None:
            images = self.rectifier(images)
        features = self.encoder(images)
        return features if features.ndim == 3 else features.mean(2).transpose(1, 2)

    def encode(self, images: Tensor) -> Tensor:
        """(n, 3 or 1, height, W) -> (n, frames, width): the visual features behind the sequence stage, the memory."""
        return self.sequence(self.visual(images))

    def cells(self, memory: Tensor) -> Tensor:
        """(n, frames, width) -> (n, rows, columns, width): the places of the image that a memory's frames stand for."""
        return memory[:, self.class_tokens:].unflatten(1, (self.memory_rows, -1))

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> Decoded:
        """(n, 3 or 1, height, W) -> the decoder's outputs, fed with `tokens` (n, steps) or with its own symbols."""
        return self.decoder(self.encode(images), tokens)

    def read(self, images: Tensor) -> Reading:
        """The strings in (n, 3 or 1, height, W), greedily. The caller chooses eval mode and no_grad."""
        return self.decoder.read(at_temperature(self(images), self.temperature))
