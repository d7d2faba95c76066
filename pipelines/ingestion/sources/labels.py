"""Label files: which image shows which text.

    .tsv                 path<TAB>text, one image a line; text is everything after the first tab
    .txt                 ICDAR's `word_1.jpg, "Text"` (\\" and \\\\ inside the quotes), or path<TAB>text
    .csv                 with a header; quotes as RFC 4180 has them; commas, semicolons or tabs
    .jsonl               one JSON object a line

Headers and objects name the image by one of IMAGE_NAMES and the text by one of TEXT_NAMES, the first that is there; Hugging Face's
`metadata.csv` and `metadata.jsonl` do. Files are UTF-8, with or without BOM, or UTF-16 and UTF-32 with it. Lines end in LF, CRLF or CR, and at
nothing else: a text may hold form feeds and U+2028.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import is_image_name

LABEL_FILES = ("labels.tsv", "gt.txt", "labels.csv", "labels.jsonl", "metadata.csv", "metadata.jsonl")
LIST_SUFFIXES = (".tsv", ".txt", ".csv", ".jsonl")
KEY = "key"  # of the tables that `textray predict` writes: the name of the source, and the image's within it
IMAGE_NAMES = ("file_name", "filename", "image_name", "file", "image_path", "image", "path", "img", KEY)
TEXT_NAMES = ("text", "transcription", "label", "words", "word", "sentence", "gt", "ground_truth")
BOM = codecs.BOM_UTF8
WIDE_BOMS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LINE_END = re.compile(rb"\r*\n|\r")  # CR CR LF is what two conversions make of one end
DELIMITERS = ",;\t"
ICDAR_LINE = re.compile(r'([^\t]+?),\s*"(.*)"\s*', re.DOTALL)
ICDAR_LINE_BARE = re.compile(r"([^\t,]+),\s*(.*?)\s*", re.DOTALL)
ESCAPED = re.compile(r'\\(["\\])')
SURROGATES = re.compile("[\ud800-\udfff]")


class Label(NamedTuple):
    """What one line of a label file says."""

    line: int  # its number, counted from 1
    path: str | None  # as written; None with a problem
    text: str | None  # None: unlabeled
    problem: str | None = None
    detail: str = ""
    keyed: bool = False  # whether the path is a key, which begins with the name of a source


def read_labels(name: str, data: bytes) -> Iterator[Label]:
    """The lines of a label file that are not empty.

    Raises BadInput for what is no text, for a header without the columns, and for broken quotes.
    """
    data = _checked_text(name, data)
    if name.lower().endswith(".csv"):
        return _csv_labels(name, data)
    if name.lower().endswith(".jsonl"):
        return _json_labels(name, data)
    return _line_labels(name, data)


def as_utf8(data: bytes) -> bytes:
    """A text without its byte-order mark, in UTF-8 if the mark says that it is in UTF-16 or UTF-32. Raises UnicodeDecodeError."""
    wide = next((encoding for mark, encoding in WIDE_BOMS.items() if data.startswith(mark)), None)
    return data.removeprefix(BOM) if wide is None else data.decode(wide).encode("utf-8")


def _checked_text(name: str, data: bytes) -> bytes:
    try:
        text = as_utf8(data)
    except UnicodeDecodeError as problem:
        raise BadInput(f"{name}: expected a label file in {problem.encoding}, as its byte-order mark says, found {problem.reason} at byte "
                       f"{problem.start}: write it as UTF-8") from problem
    if b"\0" in text:
        line = len(LINE_END.findall(text, 0, text.index(b"\0"))) + 1
        raise BadInput(f"{name}: expected a label file in UTF-8, or in UTF-16 with its byte-order mark, found a zero byte in line {line}: "
                       "write it as UTF-8, or name the file that holds the labels")
    return text


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(LINE_END.split(data), start=1):
        if line.strip():
            yield number, line


def _line_labels(name: str, data: bytes) -> Iterator[Label]:
    first = next((line for _, line in _lines(data)), b"")
    split = _splitter(data) if name.lower().endswith(".txt") else split_tab
    header = tuple(cell.lower() for cell in first.decode("utf-8", "replace").split("\t"))
    has_header = len(header) == 2 and header[0] in IMAGE_NAMES and header[1] in TEXT_NAMES
    for position, (number, line) in enumerate(_lines(data)):
        if has_header and not position:
            continue
        try:
            parts = split(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield _not_utf8(number, line)
            continue
        yield _malformed(number, line) if parts is None else Label(number, *parts)


def _splitter(data: bytes) -> Callable[[str], tuple[str, str] | None]:
    """The function that finds an image's name in most lines, or, where names do not end like images', that splits most lines."""
    lines = [line.decode("utf-8", "replace") for _, line in _lines(data)]

    def found(split: Callable[[str], tuple[str, str] | None]) -> tuple[int, int]:
        paths = [parts[0] for parts in map(split, lines) if parts is not None]
        return sum(map(is_image_name, paths)), len(paths)

    return max((split_tab, split_icdar), key=found)


def split_tab(line: str) -> tuple[str, str] | None:
    """`path<TAB>text`; None if there is no tab."""
    path, tab, text = line.partition("\t")
    return (path, text) if tab and path else None


def split_icdar(line: str) -> tuple[str, str] | None:
    """`word_1.jpg, "Text"` with escaped quotes, or without quotes; None if it is neither."""
    if quoted := ICDAR_LINE.fullmatch(line):
        return quoted[1], ESCAPED.sub(r"\1", quoted[2])
    bare = ICDAR_LINE_BARE.fullmatch(line)
    return (bare[1], bare[2]) if bare else None


def _csv_labels(name: str, data: bytes) -> Iterator[Label]:
    text, line = data.decode("utf-8", "surrogateescape"), 1
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        image, label = _column(name, header, IMAGE_NAMES), _column(name, header, TEXT_NAMES)
        line = reader.line_num + 1
        for cells in reader:
            if any(_holds_rows(cell, delimiter, len(header), image) for cell in cells):
                raise csv.Error("other rows within quotes")
            if cells:
                yield _csv_label(line, cells, len(header), image, label, header[image] == KEY)
            line = reader.line_num + 1
    except csv.Error as problem:
        raise BadInput(f"{name}: expected CSV whose quotes are closed and doubled inside quotes, found {problem} in the row that begins in "
                       f"line {line}: correct it") from problem


def _delimiter(text: str) -> str:
    """The one under which the header names both columns, or else the one that it holds most of."""
    headers = {}
    for delimiter in DELIMITERS:
        try:
            headers[delimiter] = [cell.strip().lower() for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])]
        except csv.Error:
            continue
    named = [mark for mark, cells in headers.items() if any(word in cells for word in IMAGE_NAMES) and any(word in cells for word in TEXT_NAMES)]
    return named[0] if named else max(headers, key=lambda mark: len(headers[mark]), default=",")


def _holds_rows(cell: str, delimiter: str, columns: int, image: int) -> bool:
    """Whether a cell has swallowed rows, because a quote before them was not closed."""
    if "\n" not in cell and "\r" not in cell:
        return False
    rows = [line.split(delimiter) for line in re.split(r"[\r\n]+", cell)[1:]]
    return any(len(row) >= columns and is_image_name(row[image].strip('" ')) for row in rows)


def _csv_label(line: int, cells: list[str], columns: int, image: int, label: int, keyed: bool) -> Label:
    raw = ",".join(cells).encode("utf-8", "surrogateescape")
    if not any(cells[columns:]):  # separators at the end of a line
        cells = cells[:columns]
    if len(cells) != columns:
        return Label(line, None, None, "malformed label line", f"{len(cells)} cells under {columns} columns: {raw[:80]!r}")
    if any(SURROGATES.search(cells[index]) for index in (image, label)):
        return _not_utf8(line, raw)
    return Label(line, cells[image], cells[label], keyed=keyed) if cells[image] else _malformed(line, raw)


def _column(name: str, found: list[str], wanted: tuple[str, ...]) -> int:
    for word in wanted:
        if word in found:
            return found.index(word)
    what = "image" if wanted is IMAGE_NAMES else "text"
    shown = ", ".join(found)[:200] or "an empty file"
    first = any(map(is_image_name, found))  # the names of an image's own columns do not end so
    remedy = "put a line with the names first: file_name,text" if first else "rename the column in the first line"
    raise BadInput(f"{name}: expected a column with the {what}, named one of {', '.join(wanted)}, found {shown}: {remedy}")


def _json_labels(name: str, data: bytes) -> Iterator[Label]:
    keys, has_text = None, False  # of the first object
    for number, line in _lines(data):
        try:
            found = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield _not_utf8(number, line)
            continue
        except (json.JSONDecodeError, RecursionError):
            found = None
        if not isinstance(found, dict):
            yield _malformed(number, line)
            continue
        if keys is None:
            keys = list(found)
            _column(name, keys, IMAGE_NAMES)
        has_text = has_text or any(word in found for word in TEXT_NAMES)
        yield _json_label(number, line, found)
    if keys is not None and not has_text:
        _column(name, keys, TEXT_NAMES)


def _json_label(number: int, line: bytes, found: dict) -> Label:
    column = next((name for name in IMAGE_NAMES if name in found), None)
    path = found.get(column)
    if not isinstance(path, str) or not path:
        return _malformed(number, line)
    text = next((found[name] for name in TEXT_NAMES if name in found), None)
    if any(isinstance(value, str) and SURROGATES.search(value) for value in (path, text)):  # JSON may escape half a character
        return _not_utf8(number, line)
    if text is not None and not isinstance(text, str):
        return Label(number, path, None, "label is not text", f"{text!r}"[:80])
    return Label(number, path, text, keyed=column == KEY)


def _not_utf8(number: int, line: bytes) -> Label:
    return Label(number, None, None, "label is not UTF-8", repr(line[:80]))


def _malformed(number: int, line: bytes) -> Label:
    return Label(number, None, None, "malformed label line", repr(line[:80]))


def text_of_file(data: bytes) -> str:
    """The text of a file that holds nothing else: without BOM and without the line end at its end.

    Raises UnicodeDecodeError if it is not UTF-8, nor UTF-16 or UTF-32 with a BOM.
    """
    data = as_utf8(data)
    if b"\0" in data:
        raise UnicodeDecodeError("utf-8", data, data.index(b"\0"), data.index(b"\0") + 1, "a zero byte, as UTF-16 without a BOM has them")
    text = data.decode("utf-8")
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def file_of_text(text: str) -> bytes:
    """The file that `text_of_file` reads as this text, whatever it begins and ends with."""
    data = text.encode("utf-8")
    return (BOM if data.startswith(BOM) else b"") + data + (b"\n" if text.endswith("\n") else b"")
