"""Where the text of scene images stands: the formats in MATLAB files (version 5, the one before HDF5).

    totaltext-mat  poly_gt_IMG.mat, `polygt` (newer: `gt`): rows [.., x (1, N), .., y (1, N), text, orientation]
    synthtext      gt.mat for the whole set: imnames, wordBB (2, 4, words) or (2, 4), txt (a list of strings, which
                   split at whitespace give the words, in the order of the boxes)

To be ignored in Total-Text: the text or the orientation `#`, and no text at all.
"""

import io
import zlib
from collections.abc import Iterator

import numpy as np

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.ingestion.sources.annotations import IGNORED, Region, malformed, region

WORDS = ("imnames", "wordBB", "txt")


def mat_errors() -> tuple[type[Exception], ...]:
    """What scipy.io, which takes half a second to import, raises for files that are cut off, of version 7.3, or something else."""
    from scipy.io.matlab import MatReadError
    return MatReadError, ValueError, TypeError, KeyError, IndexError, EOFError, NotImplementedError, OSError, zlib.error


def mat_format(path: str) -> str | None:
    """Which format a MATLAB file is, by its variables; None if it is none."""
    from scipy.io import whosmat
    try:
        names = {name for name, _, _ in whosmat(_opened(path))}
    except mat_errors():
        return None
    if names >= set(WORDS):
        return "synthtext"
    return "totaltext-mat" if names & {"polygt", "gt"} else None


def _opened(path: str) -> str | io.BytesIO:
    return io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else storage.absolute(path)


def totaltext_mat(data: bytes, where: str) -> list[Region]:
    """The regions of one file of Total-Text; one with the problem "malformed annotation file" if it cannot be read."""
    from scipy.io import loadmat
    try:
        content = loadmat(io.BytesIO(data), variable_names=("polygt", "gt"))
        rows = content["gt"] if "gt" in content else content["polygt"]
    except mat_errors() as problem:
        return [malformed("malformed annotation file", f"{where}: expected `polygt` or `gt`, found {type(problem).__name__} {problem}")]
    return [_row(row, f"{where}: row {number}") for number, row in enumerate(np.atleast_2d(rows), 1) if len(row)]


def _row(row: np.ndarray, where: str) -> Region:
    try:
        xs, ys = (np.asarray(row[column], np.float32).ravel() for column in (1, 3))
        texts, orientation = _strings(row[4]), _strings(row[5])
    except (ValueError, TypeError, IndexError) as problem:
        return malformed("malformed annotation", f"{where}: expected x, y, text and orientation, found {problem}")
    if len(xs) != len(ys):
        return malformed("malformed annotation", f"{where}: expected as many x as y, found {len(xs)} and {len(ys)}")
    return region(np.stack([xs, ys], 1).ravel().tolist(), "".join(texts) or "#", ("#", IGNORED), ignore=orientation == ["#"])


def _strings(value: object) -> list[str]:
    """The strings in a MATLAB value, whatever arrays they are wrapped in."""
    if isinstance(value, np.ndarray):
        return [text for item in value.ravel() for text in _strings(item)]
    return [str(value)] if isinstance(value, str) else []


def read_synthtext(path: str) -> Iterator[tuple[str, list[Region]]]:
    """(image relative to the file, its words) for every image of SynthText. Raises BadInput if it cannot be read.

    Boxes and words of different number are one region each with the problem "malformed annotation". Characters' boxes,
    most of the file, are not read.
    """
    from scipy.io import loadmat
    try:
        content = loadmat(_opened(path), variable_names=WORDS)
        names, boxes, texts = (content[name].ravel() for name in WORDS)
    except mat_errors() as problem:
        raise BadInput(f"{path}: expected SynthText's gt.mat with {', '.join(WORDS)}, found {type(problem).__name__} {problem}: "
                       "copy the file again (MATLAB files of version 7.3 must be saved as version 7)") from problem
    if not len(names) == len(boxes) == len(texts):
        raise BadInput(f"{path}: expected as many names as boxes and texts, found {len(names)}, {len(boxes)} and {len(texts)}: "
                       "copy the file again")
    del content
    for index in range(len(names)):
        image = "".join(_strings(names[index]))
        yield image, _words(boxes[index], _strings(texts[index]), f"{path}: {image}")
        names[index] = boxes[index] = texts[index] = None  # the arrays of 858,750 images are not held twice


def _words(boxes: np.ndarray, texts: list[str], where: str) -> list[Region]:
    words = [word for text in texts for word in text.split()]
    if boxes.ndim == 2:
        boxes = boxes[:, :, None]
    if boxes.ndim != 3 or boxes.shape[:2] != (2, 4):
        return [malformed("malformed annotation", f"{where}: expected boxes (2, 4, words), found {boxes.shape}")] * max(1, len(words))
    if boxes.shape[2] != len(words):
        return [malformed("malformed annotation", f"{where}: expected as many words as boxes, found {len(words)} and {boxes.shape[2]}")
                ] * max(boxes.shape[2], 1)
    return [region(boxes[:, :, number].T.ravel().tolist(), word, ()) for number, word in enumerate(words)]
