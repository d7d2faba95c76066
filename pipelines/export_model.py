"""`textray export-model`: a recognizer as one file that other programs run: ONNX, torch.export, or TorchScript."""

import argparse
import time
from itertools import islice

import numpy as np

from pipelines.arguments import Parser, add_data, add_out, add_overwrite
from pipelines.corpus import storage
from pipelines.corpus.images import Shape, decode_image
from pipelines.corpus.storage import here
from pipelines.errors import BadInput
from pipelines.ingestion.wordsets import open_sets
from pipelines.progress import say
from pipelines.reading.batches import shape_of
from pipelines.reading.graphs import FORMATS, MARK, export_model, format_of
from pipelines.reading.weights import find_model, load_recognizer, read_description

CHECKED_WORDS = 64  # of each --data set


def pictures_of(sets: list[str], shape: Shape) -> list[np.ndarray]:
    """The first images of each `NAME=PATH` set that can be decoded, as the recognizer wants them."""
    found = []
    for words in open_sets(sets):
        images = (decode_image(image, shape) for _, image, _ in islice(words.read(), CHECKED_WORDS) if image is not None)
        found += [image for image in images if image is not None]
    return found


def parser() -> argparse.ArgumentParser:
    """The command line of `textray export-model`."""
    arguments = Parser(
        prog="textray export-model", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write a model as one file for other programs, for batches of any size. Its ending chooses the format:\n"
                    + "\n".join(f"  {ending:<13} {known.name}" for ending, known in FORMATS.items())
                    + "\nCharacters, preprocessing and origin are inside. The file is compared with the model before it is kept.",
        epilog="example:\n  textray export-model my-run --out words.onnx --data data/IIIT5K")
    arguments.add_argument("model", help="a run's name or folder, a model folder, or models:/NAME@champion")
    add_out(arguments, "FILE", "a file, whose ending chooses the format", required=True)
    add_data(arguments, f"file and model are compared on the first {CHECKED_WORDS} images, not on noise")
    arguments.renamed("--check", "--data NAME=PATH")
    add_overwrite(arguments, "a file of an earlier export")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of `textray export-model`."""
    options = parser().parse_args(argv)
    target, start = here(options.out, "--out"), time.monotonic()
    chosen = format_of(target)
    if target.exists() and not options.overwrite:
        raise BadInput(f"--out: expected a free name, found {target}: choose another, or add --overwrite to replace it")
    storage.check_replaceable(options.out, MARK, "--out")
    if not target.absolute().parent.is_dir():
        raise BadInput(f"--out: expected a folder that exists, found none at {target.absolute().parent}: make it first")
    folder = find_model(options.model)
    recognizer = load_recognizer(folder)
    pictures = pictures_of(options.data, shape_of(recognizer))
    say(f"export-model: {recognizer.name} as {chosen.name}; a decoder that writes symbol by symbol takes minutes")
    compared = export_model(recognizer, target, read_description(folder), pictures)
    print(f"made {target}: {recognizer.name} as {chosen.name}, {target.stat().st_size / 1e6:.1f} MB, in {time.monotonic() - start:.0f} s; "
          f"{compared}")
    return 0


if __name__ == "__main__":
    from pipelines.cli import run as run_command
    raise SystemExit(run_command("export-model"))
