"""Where the text of a scene image stands: the formats that have one annotation file for each image.

    icdar2013      gt_IMG.txt: `x1 y1 x2 y2 "text"` (training) or `x1, y1, x2, y2, "text"` (test)
    icdar2015      gt_IMG.txt: `x1,y1,x2,y2,x3,y3,x4,y4,text`, commas in the text allowed
    polygons       IMG.txt, as DB converts all sets: 2N coordinates and the text
    totaltext      poly_gt_IMG.txt: `x: [[..]], y: [[..]], ornt: [u'c'], transcriptions: [u'..']`, wrapped anywhere
    ctw1500        000IMG.txt: 28 coordinates, then ####text (test)
    ctw1500-boxes  IMG.txt: xmin,ymin,xmax,ymax and 14 points relative to (xmin, ymin); no text (2017)
    ctw1500-xml    IMG.xml: <box><label>text</label><segs>28 coordinates</segs></box> (training)

Text files are encoded, and their lines end, as those of labels.py. Blanks around a text are taken off; an empty text
means that nobody wrote it down: the region is unlabeled. Sources: the readmes of the data sets.
"""

import ast
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pipelines.ingestion.sources.labels import LINE_END, as_utf8

IGNORED = "###"
NUMBER = r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+|nan|inf)"
IS_NUMBER = re.compile(rf"\s*{NUMBER}\s*", re.ASCII | re.IGNORECASE)
BOX_LINE = re.compile(rf'\s*({NUMBER})[,\s]\s*({NUMBER})[,\s]\s*({NUMBER})[,\s]\s*({NUMBER})[,\s]\s*"(.*)"\s*',
                      re.ASCII | re.IGNORECASE)
ESCAPED = re.compile(r'\\(["\\])')
TOTALTEXT_RECORD = re.compile(r"x:\s*\[\[?([^\]]*)\]\]?\s*,\s*y:\s*\[\[?([^\]]*)\]\]?\s*,\s*ornt:\s*(\[.*?\])\s*,"
                              r"\s*transcriptions:\s*(\[.*\])\s*", re.DOTALL)
BARE_AMPERSAND = re.compile(r"&(?!(?:#\d+|#x[0-9a-fA-F]+|amp|lt|gt|quot|apos);)")
CTW_POINTS = 14


class Region(NamedTuple):
    """One annotated text, or a line of the annotations that is none."""

    points: np.ndarray | None  # (n, 2) float32, in pixels of the stored image; None only with a problem
    text: str | None = None  # None: not written down
    ignore: bool = False  # marked as not to be used: illegible, not text …
    problem: str | None = None  # a short fixed phrase
    detail: str = ""


class BadLine(ValueError):
    """A line, a record or an entry that is not of the format: says what was expected and found."""


def region(coordinates: list, text: str | None, marks: tuple[str, ...] = (IGNORED,), ignore: bool = False) -> Region:
    """A region from flat coordinates x1, y1, x2, y2, ...; ignored if its text is one of `marks`, or if told so."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        points = np.array([float(number) for number in coordinates]).astype(np.float32).reshape(-1, 2)
    text = (text or "").strip() or None
    return Region(points, text, ignore or text in marks)


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    """The corners of an axis-aligned box, flat, clockwise from the top left, whichever two corners are given."""
    left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
    return [left, top, right, top, right, bottom, left, bottom]


def _quoted(value: object) -> str:
    return repr(value)[:100]


def icdar2013(line: str) -> Region:
    """Four numbers apart by commas or blanks, and the text in quotes (\\" and \\\\ inside)."""
    found = BOX_LINE.fullmatch(line)
    if found is None:
        raise BadLine(f'expected four numbers and a text in "quotes", found {_quoted(line)}')
    return region(box(*map(float, found.groups()[:4])), ESCAPED.sub(r"\1", found[5]))


def icdar2015(line: str) -> Region:
    """Eight numbers and the text, which is everything after the eighth comma; nothing there: unlabeled."""
    fields = line.split(",", 8)
    if len(fields) < 8 or leading_numbers(fields[:8]) < 8:
        raise BadLine(f"expected eight numbers and a text, found {_quoted(line)}")
    return region(fields[:8], "".join(fields[8:]))


def polygons(line: str) -> Region:
    """An even number of numbers, at least six, and the text.

    A text that itself begins with numbers and a comma cannot be told from coordinates: such a line is malformed.
    """
    fields = line.split(",")
    numbers = leading_numbers(fields)
    if numbers == len(fields):
        numbers -= 1  # the text is a number
    if numbers < 6 or numbers % 2:
        raise BadLine(f"expected an even number of coordinates, at least six, and a text, found {_quoted(line)}")
    return region(fields[:numbers], ",".join(fields[numbers:]))


def ctw1500(line: str) -> Region:
    """28 numbers and ####text."""
    coordinates, mark, text = line.partition(",####")
    fields = coordinates.split(",")
    if not mark or len(fields) != 2 * CTW_POINTS or leading_numbers(fields) < len(fields):
        raise BadLine(f"expected {2 * CTW_POINTS} numbers and ####text, found {_quoted(line)}")
    return region(fields, text)


def ctw1500_boxes(line: str) -> Region:
    """32 numbers: the box and, relative to its top left corner, 14 points. No text."""
    fields = line.split(",")
    if len(fields) != 4 + 2 * CTW_POINTS or leading_numbers(fields) < len(fields):
        raise BadLine(f"expected {4 + 2 * CTW_POINTS} numbers, found {_quoted(line)}")
    numbers = np.array([float(field) for field in fields])
    return region(list(numbers[4:] + np.tile(numbers[:2], CTW_POINTS)), None)


def leading_numbers(fields: list[str]) -> int:
    """How many fields are numbers before the first one that is not."""
    return next((index for index, field in enumerate(fields) if not IS_NUMBER.fullmatch(field)), len(fields))


def totaltext(record: str) -> Region:
    """A record of Total-Text. To be ignored: the text or the orientation `#`, or an empty list of texts."""
    found = TOTALTEXT_RECORD.fullmatch(record)
    if found is None:
        raise BadLine(f"expected x, y, ornt and transcriptions, found {_quoted(record)}")
    xs, ys = (axis.replace(",", " ").split() for axis in found.groups()[:2])
    if len(xs) != len(ys) or leading_numbers(xs + ys) < len(xs + ys):
        raise BadLine(f"expected as many numbers for x as for y, found {_quoted(record)}")
    try:
        orientation, texts = ast.literal_eval(found[3]), ast.literal_eval(found[4])
    except (ValueError, SyntaxError) as problem:
        raise BadLine(f"expected texts in quotes, found {_quoted(found[4])}") from problem
    if len(texts) > 1 or not all(isinstance(text, str) for text in texts):
        raise BadLine(f"expected one text, found {_quoted(found[4])}")
    text = texts[0] if texts else "#"
    return region([value for point in zip(xs, ys) for value in point], text, ("#", IGNORED), ignore=orientation == ["#"])


def ctw1500_xml(data: bytes, where: str) -> tuple[str | None, list[Region]]:
    """The image's file name, if the file says it, and the regions of a CTW1500 training file."""
    try:
        root = _parse_xml(data)
    except (ET.ParseError, UnicodeDecodeError, LookupError) as problem:
        return None, [malformed("malformed annotation file", f"{where}: {problem}")]
    image = root if root.tag == "image" else root.find(".//image")
    boxes = list(root.iter("box"))
    return (None if image is None else image.get("file")), [_xml_box(item, number, where) for number, item in enumerate(boxes, 1)]


def _parse_xml(data: bytes) -> ET.Element:
    try:
        return ET.fromstring(data)
    except ET.ParseError:  # labels written without escaping
        return ET.fromstring(BARE_AMPERSAND.sub("&amp;", data.decode("utf-8-sig")))


def _xml_box(item: ET.Element, number: int, where: str) -> Region:
    fields = (item.findtext("segs") or "").split(",")
    if len(fields) != 2 * CTW_POINTS or leading_numbers(fields) < len(fields):
        return malformed("malformed annotation", f"{where}: box {number}: expected {2 * CTW_POINTS} numbers in segs, "
                                                 f"found {_quoted(item.findtext('segs'))}")
    return region(fields, item.findtext("label"))


def malformed(problem: str, detail: str) -> Region:
    """A region that could not be read."""
    return Region(None, problem=problem, detail=detail)


LINES: dict[str, Callable[[str], Region]] = {"icdar2013": icdar2013, "icdar2015": icdar2015, "polygons": polygons,
                                             "ctw1500": ctw1500, "ctw1500-boxes": ctw1500_boxes}


def read_text_file(data: bytes, where: str, format: str) -> list[Region]:
    """The regions of a text file in one of the formats of LINES, or "totaltext"; `where` names the file in problems.

    A line that is not of the format, or not UTF-8, is a region with the problem "malformed annotation line".
    """
    parse = totaltext if format == "totaltext" else LINES[format]
    return [_parsed(parse, number, line, where) for number, line in _records(data, format)]


def _parsed(parse: Callable[[str], Region], number: int, line: bytes, where: str) -> Region:
    try:
        return parse(line.decode("utf-8"))
    except UnicodeDecodeError:
        return malformed("malformed annotation line", f"{where}:{number}: expected UTF-8, found {_quoted(line)}")
    except BadLine as problem:
        return malformed("malformed annotation line", f"{where}:{number}: {problem}")


def _records(data: bytes, format: str) -> Iterator[tuple[int, bytes]]:
    """(number of its first line, bytes) of every record; a record is a line, but for Total-Text."""
    first, record = 0, b""
    for number, line in _lines(data):
        if format != "totaltext":
            yield number, line
        elif line.lstrip().startswith(b"x:") or not record:
            if record:
                yield first, record
            first, record = number, line.strip()
        else:
            record += b" " + line.strip()
    if record:
        yield first, record


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        data = as_utf8(data)
    except UnicodeDecodeError:  # not what its mark says: the lines are of no format
        pass
    for number, line in enumerate(LINE_END.split(data), start=1):
        if line.strip():
            yield number, line


def text_format(files: list[bytes]) -> str | None:
    """Which format text files are in, judged by their lines; None if it is none, or half of the lines are of no format.

    `polygons` and `icdar2015` differ by the lines with other than eight coordinates: a text of an icdar2015 file may
    begin like a number and so look like one more coordinate, but not in every tenth line.
    """
    kinds = Counter(_line_kind(line.decode("utf-8", "replace")) for data in files for _, line in _lines(data))
    if kinds["totaltext"]:
        return "totaltext"
    total = sum(kinds.values())
    quads = kinds["quad"] + kinds["polygon"]
    found = Counter({kind: kinds[kind] for kind in ("icdar2013", "ctw1500", "ctw1500-boxes")})
    found["polygons" if kinds["polygon"] >= max(1, 0.1 * quads) else "icdar2015"] = quads
    best, lines = found.most_common(1)[0]
    return best if lines and 2 * lines >= total else None


def _line_kind(line: str) -> str:
    if line.lstrip().startswith("x:"):
        return "totaltext" if re.match(r"\s*x:\s*\[\[", line) else "other"
    if BOX_LINE.fullmatch(line):
        return "icdar2013"
    fields = line.split(",")
    numbers = leading_numbers(fields)
    if numbers == 2 * CTW_POINTS and fields[numbers:] and fields[numbers].startswith("####"):
        return "ctw1500"
    if numbers == len(fields) == 4 + 2 * CTW_POINTS:
        return "ctw1500-boxes"
    if numbers in (8, 9) or numbers == len(fields) == 10:
        return "quad"
    coordinates = numbers - (numbers == len(fields))
    return "polygon" if coordinates >= 6 and coordinates % 2 == 0 else "other"
