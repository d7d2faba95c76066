"""Reads strings with a recognizer that `textray export-model` wrote as ONNX.

ONNX Runtime and NumPy are all that this file needs, and the exported file all that it reads: copy both to where words are read. What it
must know is in the file's metadata: characters, table of ids, sizes, preprocessing, and how strings are read from the outputs.

    reader = OnnxReader("crnn.onnx")
    images = ...                      # (n, reader.height, reader.width, 3) uint8, RGB
    for text, confidence in reader.read(images): ...
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Read(NamedTuple):
    """What was read from one image."""

    text: str
    confidence: float  # in [0, 1]: the probability of the text: the product of its symbols', of CTC the sum over its alignments


@dataclass(frozen=True)
class Symbols:
    """Which ids the outputs have."""

    charset: str
    first_character: int
    blank: int | None = None  # of CTC
    end: int | None = None  # of all others

    def text(self, ids: Sequence[int]) -> str:
        """The characters among the ids, as a string."""
        places = (token - self.first_character for token in ids)
        return "".join(self.charset[place] for place in places if 0 <= place < len(self.charset))


Outputs = dict[str, np.ndarray]  # by name; "logits" (n, steps, classes)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def read_ctc(outputs: Outputs, symbols: Symbols) -> list[Read]:
    """The likeliest class of each frame, repeats collapsed, blanks dropped; the confidence sums over all alignments of that text."""
    reads = []
    for frames in _probabilities(outputs["logits"].astype(np.float64)):  # (frames, classes)
        written = [token for token, _ in groupby(frames.argmax(-1).tolist()) if token != symbols.blank]
        reads.append(Read(symbols.text(written), _probability_of(written, frames, symbols.blank)))
    return reads


def _probability_of(written: list[int], frames: np.ndarray, blank: int) -> float:
    """The sum over all paths of classes through frames (frames, classes) that write these (Graves et al., ICML 2006, equations 5 to 8)."""
    path = np.array([blank, *(each for token in written for each in (token, blank))])  # a blank before, between and behind the characters
    may_skip = np.append([False, False], (path[2:] != blank) & (path[2:] != path[:-2]))  # the blank before it may be left out
    alpha = np.where(np.arange(len(path)) < 2, frames[0, path], 0)
    for probabilities in frames[1:]:
        before, skipped = np.append([0], alpha[:-1]), np.append([0, 0], alpha[:-2])[:len(path)]
        alpha = (alpha + before + skipped * may_skip[:len(path)]) * probabilities[path]
    return min(1.0, float(alpha[-2:].sum()))  # rounding may reach beyond


def read_symbols(outputs: Outputs, symbols: Symbols, name: str = "logits") -> list[Read]:
    """The likeliest symbol of each step, up to the first end symbol, whose probability counts, too."""
    probabilities = _probabilities(outputs[name])
    reads = []
    for ids, largest in zip(probabilities.argmax(-1).tolist(), probabilities.max(-1).tolist(), strict=True):
        length = ids.index(symbols.end) if symbols.end in ids else len(ids)
        reads.append(Read(symbols.text(ids[:length]), prod(largest[:length + 1])))
    return reads


def _kept(logits: np.ndarray, end: int | None) -> np.ndarray:
    """(n, steps, classes) -> (n, steps) bool: the steps up to the first end symbol, and with it."""
    ends = logits.argmax(-1) == end
    return ends.cumsum(1) - ends == 0


def _mean_logit(logits: np.ndarray, end: int | None) -> np.ndarray:
    kept = _kept(logits, end)
    return (logits.max(-1) * kept).sum(1) / kept.sum(1)


def _log_probability(logits: np.ndarray, end: int | None) -> np.ndarray:
    largest = -np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1))  # (n, steps): the log of each step's largest probability
    return (largest * _kept(logits, end)).sum(1)


def _read_surer(outputs: Outputs, symbols: Symbols, backward: np.ndarray) -> list[Read]:
    """Of each image the string from right to left, turned around, where `backward` (n,) is True, else the one from left to right."""
    pairs = zip(read_symbols(outputs, symbols), read_symbols(outputs, symbols, "right_to_left"), backward.tolist(), strict=True)
    return [Read(right.text[::-1], right.confidence) if chosen else left for left, right, chosen in pairs]


def read_higher_mean_logit(outputs: Outputs, symbols: Symbols) -> list[Read]:
    """Both directions; the one whose largest logits are higher in the mean (MORAN)."""
    left, right = (_mean_logit(outputs[name], symbols.end) for name in ("logits", "right_to_left"))
    return _read_surer(outputs, symbols, right > left)


def read_likelier(outputs: Outputs, symbols: Symbols) -> list[Read]:
    """Both directions; the likelier one (HGA)."""
    left, right = (_log_probability(outputs[name], symbols.end) for name in ("logits", "right_to_left"))
    return _read_surer(outputs, symbols, right >= left)


READINGS: dict[str, Callable[[Outputs, Symbols], list[Read]]] = {
    "ctc": read_ctc,
    "symbols": read_symbols,
    "two_directions_by_mean_logit": read_higher_mean_logit,
    "two_directions_by_probability": read_likelier,
}


class OnnxReader:
    """An exported recognizer."""

    def __init__(self, file: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        """`providers`: ONNX Runtime's, the preferred first. ValueError for a file that `textray export-model` did not write."""
        import onnxruntime  # only here: how outputs are read needs NumPy alone
        self.session = onnxruntime.InferenceSession(str(file), providers=list(providers))
        self.about: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        if "textray_version" not in self.about:
            raise ValueError(f"expected an ONNX file of `textray export-model`, found {file} without its metadata: export the model again")
        self.height, self.width = int(self.about["height"]), int(self.about["width"])
        self.aspect = self.about["aspect"]  # "stretch", "pad" or "keep": how images become height x width
        self.temperature = float(self.about["temperature"])
        tokens = json.loads(self.about["tokens"])
        self.symbols = Symbols(self.about["charset"], tokens["first_character"], tokens.get("blank"), tokens.get("end"))

    def outputs(self, images: np.ndarray) -> Outputs:
        """Images (n, height, width, 3) uint8 in RGB -> the graph's outputs by name; "logits" are (n, steps, classes).

        With the aspect "keep" images may be narrower than width. ValueError for images of another shape or type.
        """
        fits = images.ndim == 4 and images.dtype == np.uint8 and images.shape[1] == self.height and images.shape[3] == 3
        if not fits or (images.shape[2] != self.width and self.aspect != "keep"):
            raise ValueError(f"expected images (n, {self.height}, {self.width}, 3) of uint8, found {images.shape} of {images.dtype}: "
                             "resize them, RGB")
        pixels = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)  # (n, 3, height, width) in [-1, 1]
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"images": np.ascontiguousarray(pixels)}), strict=True))

    def read(self, images: np.ndarray) -> list[Read]:
        """The strings in images (n, height, width, 3) uint8, RGB, greedily."""
        outputs = {name: values / np.float32(self.temperature) for name, values in self.outputs(images).items()}
        return READINGS[self.about["reading"]](outputs, self.symbols)
