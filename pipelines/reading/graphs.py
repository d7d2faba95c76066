"""A recognizer as one file that other programs run: ONNX, torch.export, or TorchScript.

The graph takes images (n, 3, height, width), for any n, and gives the logits and the decoder's branches; strings are read from them
outside. A decoder that writes symbol by symbol is unrolled to max_length + 1 steps: no graph stops early. Before a file gets its name, it
is read back and compared with the model in batches of 1, 3 and 8.
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.decoders.decoded import Decoded, Reading
from models.recognizer import Recognizer
from pipelines.corpus.images import Shape
from pipelines.errors import BadInput
from pipelines.reading.batches import as_input, evaluating, shape_of
from pipelines.reading.onnx_reader import READINGS, Symbols

BATCHES = (1, 3, 8)  # sizes in which a file is compared with its model
TRACED = 5  # images in the batch that is traced: a number that no layer has, so that nothing is mistaken for the batch
TOLERANCE = 1e-3  # of the largest logit
NOTE = "textray.json"  # the metadata inside .pt2 and .torchscript files
MARK = b"textray_version"  # stands in every file, by `metadata`: only such a file is replaced
PREPROCESSING = ("images: float32 (n, 3, height, width), RGB, (x / 255 - 0.5) / 0.5; scaled to height x width (aspect stretch), or to the "
                 "height and filled up on the right with the last column (pad, keep; keep: only as far as needed)")


class ReadingGraph(nn.Module):
    """What is exported: images -> the tensors that strings are read from, the logits first, as `names` calls them."""

    def __init__(self, recognizer: Recognizer, names: list[str]) -> None:
        super().__init__()
        self.recognizer, self.names = recognizer, names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(n, 3, height, width) in [-1, 1] -> logits (n, steps, classes), and the branches."""
        decoded = self.recognizer(images)
        return decoded.logits, *(decoded.branches[name] for name in self.names[1:])


@dataclass(frozen=True)
class Compared:
    """How a file reads beside its model. Where it reads otherwise, but for ties, there is no file."""

    images: int
    ties: int  # images whose strings differ because two characters are equally likely, up to rounding
    largest_difference: float  # of all outputs that follow from the same symbols

    def __str__(self) -> str:
        ties = f", but for {self.ties} where two characters are equally likely" if self.ties else ""
        return (f"the same strings as the model on {self.images} images in batches of {', '.join(map(str, BATCHES))}{ties} "
                f"(largest difference {self.largest_difference:.1e})")


@contextmanager
def unrolled(recognizer: Recognizer) -> Iterator[None]:
    """Eval mode, and decoding without a look at the data, inside the block."""
    early = recognizer.decoder.stops_early
    recognizer.decoder.stops_early = False
    try:
        with evaluating(recognizer), torch.no_grad():
            yield
    finally:
        recognizer.decoder.stops_early = early


def metadata(recognizer: Recognizer, description: dict[str, Any], reading: str) -> dict[str, str]:
    """What the file says about itself: all that preprocessing and reading need, and where it came from."""
    tokens = {key: value for key, value in asdict(recognizer.decoder.tokens).items() if key != "charset"}
    return {
        "textray_version": importlib.metadata.version("textray"),
        "recognizer": recognizer.name,
        "overrides": json.dumps(recognizer.overrides, ensure_ascii=False),
        "weights_sha256": str(description.get("weights_sha256", "")),
        "charset": recognizer.charset.characters,
        "tokens": json.dumps({"classes": recognizer.decoder.tokens.classes, **tokens}),
        "decoder": recognizer.decoder.kind,
        "reading": reading,
        "temperature": str(recognizer.temperature),
        "max_length": str(recognizer.max_length),
        "height": str(recognizer.height),
        "width": str(recognizer.width),
        "channels": str(recognizer.channels),  # that the graph makes of RGB
        "aspect": recognizer.aspect,
        "preprocessing": PREPROCESSING,
    }


def way_of_reading(recognizer: Recognizer, outputs: dict[str, Tensor]) -> str:
    """Which of onnx_reader's READINGS gives what the decoder's own `read` gives: found by trying, on outputs like these of random numbers.

    BadInput if none does.
    """
    symbols, generator = symbols_of(recognizer), torch.Generator().manual_seed(0)
    drawn = {name: 2 * torch.randn(256, *values.shape[1:], generator=generator) for name, values in outputs.items()}
    for values in drawn.values():
        if symbols.end is not None and values.shape[-1] == recognizer.decoder.tokens.classes:
            values[..., symbols.end] += 4  # so that many words end before the last step
    expected = read_with(recognizer, drawn)
    arrays = {name: values.numpy() for name, values in drawn.items()}
    for name, read in READINGS.items():
        if (name == "ctc") != (symbols.blank is not None) or (name.startswith("two_directions") and "right_to_left" not in arrays):
            continue
        reads = read(arrays, symbols)
        if [one.text for one in reads] == expected.texts and \
                np.allclose([one.confidence for one in reads], expected.confidences.numpy(), rtol=1e-3, atol=1e-9):
            return name
    raise BadInput(f"expected a recognizer whose strings are read in one of the ways {', '.join(READINGS)}, found {recognizer.name}, whose "
                   "decoder reads otherwise: it cannot be exported")


def symbols_of(recognizer: Recognizer) -> Symbols:
    """The ids of the recognizer's outputs, as the reader of exported files knows them."""
    tokens = recognizer.decoder.tokens
    return Symbols(recognizer.charset.characters, tokens.first_character, getattr(tokens, "blank", None), getattr(tokens, "end", None))


def read_with(recognizer: Recognizer, outputs: dict[str, Tensor]) -> Reading:
    """The strings in a graph's outputs, by the recognizer's own decoder."""
    branches = {name: values for name, values in outputs.items() if name != "logits"}
    return recognizer.decoder.read(Decoded(outputs["logits"], outputs["logits"], branches=branches))


def run(recognizer: Recognizer, images: Tensor) -> dict[str, Tensor]:
    """The outputs of an exported graph by name, computed by the model itself."""
    decoded = recognizer(images)
    return {"logits": decoded.logits, **decoded.branches}


def _dimensions(recognizer: Recognizer) -> dict[int, torch.export.Dim]:
    """The dimensions of the images that a graph leaves open: how many, and with aspect "keep" how wide."""
    return {0: torch.export.Dim("n")} | ({3: torch.export.Dim.DYNAMIC} if recognizer.aspect == "keep" else {})


def _write_onnx(graph: ReadingGraph, example: Tensor, file: Path, about: dict[str, str]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # operators of torchvision that are not here, four lines each time
    program = torch.onnx.export(graph, (example,), dynamo=True, input_names=["images"], output_names=graph.names, verbose=False,
                                dynamic_shapes=(_dimensions(graph.recognizer),))
    program.model.metadata_props.update(about)
    program.save(str(file), external_data=False)


def _write_exported_program(graph: ReadingGraph, example: Tensor, file: Path, about: dict[str, str]) -> None:
    program = torch.export.export(graph, (example,), dynamic_shapes=(_dimensions(graph.recognizer),))
    torch.export.save(program, file, extra_files={NOTE: json.dumps(about, ensure_ascii=False)})


def _write_torchscript(graph: ReadingGraph, example: Tensor, file: Path, about: dict[str, str]) -> None:
    scripted = torch.jit.trace(graph, (example,), check_trace=False)  # compared in other batches below, which tells more
    torch.jit.save(scripted, str(file), _extra_files={NOTE: json.dumps(about, ensure_ascii=False)})


def _run_onnx(file: Path, names: list[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException
    refusals = (Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException)
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except refusals as problem:
        raise ValueError(f"ONNX Runtime cannot open it: {problem}") from problem

    def run_session(images: Tensor) -> dict[str, Tensor]:
        try:
            return dict(zip(names, map(torch.from_numpy, session.run(names, {"images": images.numpy()})), strict=True))
        except refusals as problem:
            raise ValueError(f"ONNX Runtime cannot run it on {len(images)} images: {problem}") from problem

    return run_session


def _run_exported_program(file: Path, names: list[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    module = torch.export.load(file).module()
    return lambda images: dict(zip(names, module(images), strict=True))


def _run_torchscript(file: Path, names: list[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    module = torch.jit.load(str(file), map_location="cpu")
    return lambda images: dict(zip(names, module(images), strict=True))


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    name: str
    write: Callable[[ReadingGraph, Tensor, Path, dict[str, str]], None]
    opened: Callable[[Path, list[str]], Callable[[Tensor], dict[str, Tensor]]]  # (file, names of the outputs) -> images -> outputs
    packages: tuple[str, ...] = ()  # beyond this package's own


FORMATS = {  # by the ending of the file
    ".onnx": Format("ONNX", _write_onnx, _run_onnx, ("onnx", "onnxscript", "onnxruntime")),
    ".pt2": Format("torch.export", _write_exported_program, _run_exported_program),
    ".torchscript": Format("TorchScript", _write_torchscript, _run_torchscript),
}


def export_model(recognizer: Recognizer, target: Path, description: dict[str, Any] | None = None,
                 pictures: list[np.ndarray] | None = None) -> Compared:
    """Write a recognizer into a file, and compare what the file reads with what the recognizer reads.

    Args:
        target: its ending chooses the format, see FORMATS.
        description: of its model folder, for the sha256 of the weights.
        pictures: to compare on, each (height, its width, 3) uint8 RGB. Fewer than a batch of each size are joined by some of noise.

    Raises:
        BadInput: an unknown ending, packages that are missing, a graph that the format does not allow or that reads otherwise. Then there
            is no file.
    """
    chosen = format_of(target)
    example = as_input(noise(shape_of(recognizer), TRACED)[-TRACED:], torch.device("cpu"))  # of the full width
    part = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        with unrolled(recognizer):
            outputs = run(recognizer, example[:1])
            graph = ReadingGraph(recognizer, list(outputs)).eval()
            reading = way_of_reading(recognizer, outputs)
            about = metadata(recognizer, description or {}, reading)
            with _sentence_for_refusals(target, chosen, recognizer), _quiet():
                chosen.write(graph, example, part, about)
                shown = _enough(pictures or [], shape_of(recognizer))
                compared = compare(recognizer, chosen.opened(part, graph.names), reading, shown)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return compared


def format_of(target: Path) -> Format:
    """The format that a file's ending means. BadInput for an unknown one, or if packages that it needs are missing."""
    if target.suffix not in FORMATS:
        endings = ", ".join(f"{ending} ({known.name})" for ending, known in FORMATS.items())
        raise BadInput(f"--out: expected a file ending in {endings}, found {target.name}: choose one of these endings")
    chosen = FORMATS[target.suffix]
    missing = [package for package in chosen.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise BadInput(f"{chosen.name} needs packages that are not installed ({', '.join(missing)}): pip install 'textray[onnx]'")
    return chosen


def _enough(pictures: list[np.ndarray], shape: Shape) -> list[np.ndarray]:
    return pictures if len(pictures) >= sum(BATCHES) else [*pictures, *noise(shape, sum(BATCHES))]


def noise(shape: Shape, count: int) -> list[np.ndarray]:
    """So many images of each width that the shape allows: (height, width, 3) uint8, blocks of random colours, always the same."""
    generator, images = np.random.default_rng(0), []
    for width in [pixels for _, pixels in shape.buckets()] or [shape.width]:
        blocks = generator.integers(0, 256, (count, 1 + shape.height // 4, 1 + width // 4, 3), np.uint8)
        images += [block.repeat(4, 0).repeat(4, 1)[:shape.height, :width] for block in blocks]
    return images


def compare(recognizer: Recognizer, opened: Callable[[Tensor], dict[str, Tensor]], reading: str, pictures: list[np.ndarray]) -> Compared:
    """Both on all pictures, in batches of 1, 3 and 8: the model with its decoder's `read`, the opened file with one of READINGS.

    ValueError where their outputs are further apart than rounding explains.
    """
    worst, ties, symbols = 0.0, 0, symbols_of(recognizer)
    for batch in in_batches(pictures):
        images = as_input(batch, torch.device("cpu"))
        own, theirs = run(recognizer, images), opened(images)
        reads = READINGS[reading]({name: values.numpy() for name, values in theirs.items()}, symbols)
        pairs = list(zip([read.text for read in reads], read_with(recognizer, own).texts, strict=True))
        difference = max(_difference(own[name], theirs[name], recognizer.decoder.kind == "attention") for name in own)
        if difference > TOLERANCE * max(1.0, float(own["logits"].abs().max())):
            found, expected = max(pairs, key=lambda pair: pair[0] != pair[1])
            raise ValueError(f"in a batch of {len(batch)} its outputs are off by {difference:.1e}, it reads {found!r} where the model "
                             f"reads {expected!r}")
        worst, ties = max(worst, difference), ties + sum(found != expected for found, expected in pairs)
    return Compared(len(pictures), ties, worst)


def _difference(own: Tensor, theirs: Tensor, fed_back: bool) -> float:
    """The largest difference of two (n, steps, classes).

    fed_back: each step is fed with the symbol before. Where these differ, the steps behind cannot be compared; the step itself can,
    and if it is alike, the two symbols are equally likely.
    """
    apart = (own - theirs).abs().flatten(2).amax(2)  # (n, steps)
    if fed_back:
        alike = (own.argmax(-1) == theirs.argmax(-1)).long().cumprod(1)
        apart[:, 1:] *= alike[:, :-1]
    return float(apart.max())


def in_batches(pictures: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Pictures of one width each time, in turn 1, 3 and 8 of them, as far as they go."""
    for width in sorted({picture.shape[1] for picture in pictures}):
        remaining = iter([picture for picture in pictures if picture.shape[1] == width])
        turn = 0
        while batch := list(islice(remaining, BATCHES[turn % len(BATCHES)])):
            yield batch
            turn += 1


@contextmanager
def _sentence_for_refusals(target: Path, chosen: Format, recognizer: Recognizer) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as problem:  # what PyTorch's exporters raise, and the comparison
        reason = " ".join(str(problem).split())[:300]
        raise BadInput(f"{recognizer.name} cannot be written as {chosen.name} ({reason}); {target} was not written: choose another "
                       f"ending ({', '.join(FORMATS)})") from problem


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings: what they guess about, `compare` measures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
