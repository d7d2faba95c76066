"""Readings as a file for other programs: CSV, TSV, or a JSON object a line."""

import csv
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple, TextIO

from pipelines.corpus import storage
from pipelines.errors import BadInput

FIELDS = ("key", "text", "confidence", "labeler", "problem", "upside_down")
NOT_WRITTEN = (".json", ".txt", ".parquet", ".xlsx")  # endings of a file that someone may expect


class Line(NamedTuple):
    """What was read from one image."""

    key: str
    text: str  # empty where nothing was read
    confidence: float
    problem: str | None  # why the image cannot be decoded
    upside_down: bool  # whether the image was turned by 180 degrees to be read


def write_csv(file: TextIO, lines: Iterable[Line], labeler: str, delimiter: str = ",") -> int:
    """Write a head and a record for each line, quoted where it must be (RFC 4180, but with line feeds). Returns how many."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(FIELDS)
    count = 0
    for count, line in enumerate(lines, start=1):
        writer.writerow((line.key, line.text, f"{line.confidence:.6f}", labeler, line.problem or "", str(line.upside_down).lower()))
    return count


def write_tsv(file: TextIO, lines: Iterable[Line], labeler: str) -> int:
    """The same with tabs."""
    return write_csv(file, lines, labeler, delimiter="\t")


def write_jsonl(file: TextIO, lines: Iterable[Line], labeler: str) -> int:
    """Write a JSON object for each line. Returns how many."""
    count = 0
    for count, line in enumerate(lines, start=1):
        file.write(as_json(line, labeler) + "\n")
    return count


def as_json(line: Line, labeler: str) -> str:
    """One line as a JSON object."""
    values = (line.key, line.text, round(line.confidence, 6), labeler, line.problem, line.upside_down)
    return json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=False)


Writer = Callable[[TextIO, Iterable[Line], str], int]  # file, lines, labeler -> lines written

WRITERS: dict[str, Writer] = {".csv": write_csv, ".tsv": write_tsv, ".jsonl": write_jsonl}
BEGINNINGS = {".csv": b"key,text,confidence,labeler,", ".tsv": b"key\ttext\tconfidence\tlabeler\t", ".jsonl": b'{"key": '}  # also of earlier versions


def writer_for(target: str) -> Writer | None:
    """What writes a file of this name; None if it is a corpus's. BadInput for a form that is not written."""
    if target.lower().endswith(NOT_WRITTEN):
        raise BadInput(f"--out {target}: expected a name that ends in {', '.join(WRITERS)}, or the name of a corpus, which is a folder, found "
                       "another ending: correct it")
    return next((writer for ending, writer in WRITERS.items() if target.lower().endswith(ending)), None)


def check_file(target: str, overwrite: bool) -> None:
    """Raise BadInput unless a file may be written at `target`: only a file of readings is ever replaced, and only if it is asked for."""
    found, folder = storage.kind(target), storage.parent(target)
    if storage.kind(folder) == "file":
        raise BadInput(f"--out {target}: expected a name in a folder, found a file at {folder}: choose another --out")
    if found is None:
        return
    if found == "folder":
        raise BadInput(f"--out {target}: expected a file name that is free, found a folder: choose another --out")
    with storage.open_stream(target) as file:
        ours = any(file.read(80).startswith(beginning) for ending, beginning in BEGINNINGS.items() if target.lower().endswith(ending))
    if not ours:
        raise BadInput(f"--out {target}: expected a free name or an earlier file of readings, found another file: choose another --out")
    if not overwrite:
        raise BadInput(f"--out {target}: expected a free name, found an earlier file of readings: choose another --out, or add --overwrite to "
                       "replace it")
