"""Where the text of scene images stands: the formats with one JSON file for a whole set.

    lsvt      {"gt_0": [{"points": [[x, y], ..], "transcription": text, "illegibility": bool}, ..], ..}; image gt_0.jpg
    textocr   {"imgs": {id: {"file_name", ..}}, "anns": {id: {"image_id", "points": [x, y, ..], "utf8_string"}}, ..}
    cocotext  the same with "mask" for "points" (version 1: "polygon") and "legibility": "legible" or "illegible"

To be ignored: illegible regions, the text `###` of LSVT, the text `.` of TextOCR. Entries without a polygon are taken by
their "bbox" (x, y, width, height).
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from numbers import Real
from typing import NamedTuple

from pipelines.errors import BadInput
from pipelines.ingestion.sources.annotations import IGNORED, BadLine, Region, box, malformed, region

LSVT_HEAD = re.compile(rb'\s*\{\s*"[^"]*"\s*:\s*\[\s*[\{\]]')
SHAPE = {"lsvt": "an object with a list of regions for each image", "textocr": 'an object with "imgs" and "anns"',
         "cocotext": 'an object with "imgs" and "anns"'}


class Annotation(NamedTuple):
    """An entry of "anns": kept instead of its dictionary, which takes six times the memory."""

    image: str
    region: Region | BadLine


def json_format(head: bytes, rest: Iterator[bytes]) -> str | None:
    """Which format a JSON file is, from its first bytes and, if they leave it open, from more of them; None if it is none."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    if LSVT_HEAD.match(head):
        return "lsvt" if b'"points"' in head and b'"transcription"' in head else None
    if not head.lstrip().startswith(b"{") or not any(name in head for name in (b'"imgs"', b'"anns"', b'"imgToAnns"')):
        return None
    seen = b""
    for block in chain([head], rest):
        text = seen[-32:] + block
        if any(name in text for name in (b'"legibility"', b'"mask"')):
            return "cocotext"
        if b'"points"' in text:
            return "textocr"
        seen = block
    return None


def read_json(data: bytes, where: str, format: str) -> Iterator[tuple[str, list[Region]]]:
    """(image, its regions) for every image, in the file's order: LSVT's images without suffix, others' as their file names.

    Raises BadInput if the file is not JSON or not of the format; an entry that is not is a region with the problem
    "malformed annotation".
    """
    try:
        content = json.loads(data, object_hook=None if format == "lsvt" else _compact)
    except (ValueError, RecursionError) as problem:
        raise BadInput(f"{where}: expected JSON, found {problem}: copy the file again") from problem
    shaped = isinstance(content, dict) and (
        all(isinstance(items, list) for items in content.values()) if format == "lsvt"
        else isinstance(content.get("imgs"), dict) and isinstance(content.get("anns"), dict))
    if not shaped:
        raise BadInput(f"{where}: expected {SHAPE[format]} ({format}), found something else: name the file with the annotations")
    return _lsvt(content, where) if format == "lsvt" else _imgs_and_anns(content, where)


def _lsvt(content: dict, where: str) -> Iterator[tuple[str, list[Region]]]:
    for image, items in content.items():
        yield image, [_or_malformed(_lsvt_region, item, f"{where}: {image}: region {number}")
                      for number, item in enumerate(items, start=1)]


def _or_malformed(parse, item: object, where: str) -> Region:
    try:
        return parse(item)
    except BadLine as problem:
        return malformed("malformed annotation", f"{where}: {problem}")


def _lsvt_region(item: object) -> Region:
    if not isinstance(item, dict):
        raise BadLine(f"expected an object, found {repr(item)[:100]}")
    points = item.get("points")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise BadLine(f"expected points [x, y], found {repr(points)[:100]}")
    return region(_numbers([value for point in points for value in point]), _text(item.get("transcription")), (IGNORED,),
                  ignore=bool(item.get("illegibility")))


def _numbers(values: object) -> list[float]:
    if not isinstance(values, list) or len(values) % 2 or not all(
            isinstance(value, Real) and not isinstance(value, bool) for value in values):
        raise BadLine(f"expected coordinates x, y, ..., found {repr(values)[:100]}")
    return [_finite(value) for value in values]


def _finite(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return float("inf")


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadLine(f"expected a text, found {repr(value)[:100]}")
    return value


def _compact(item: dict) -> dict | Annotation:
    """What the parser keeps of a JSON object: all of it, but for the entries of "anns"."""
    if "image_id" not in item:
        return item
    image = str(item["image_id"])
    try:
        return Annotation(image, _entry(item))
    except BadLine as problem:
        return Annotation(image, problem)


def _entry(item: dict) -> Region:
    polygon = next((item[name] for name in ("points", "mask", "polygon") if item.get(name)), None)
    if polygon is None:
        corner = _numbers(item.get("bbox"))
        if len(corner) != 4:
            raise BadLine(f"expected points, a mask or a bbox, found {repr(item.get('bbox'))[:100]}")
        left, top, width, height = corner
        polygon = box(left, top, left + width, top + height)
    illegible = item.get("legibility") == "illegible"
    marks = () if "legibility" in item else (".",)
    return region(_numbers(polygon), _text(item.get("utf8_string")), marks, ignore=illegible)


def _imgs_and_anns(content: dict, where: str) -> Iterator[tuple[str, list[Region]]]:
    names = {}
    for key, image in content["imgs"].items():
        name = image.get("file_name", image.get("filename")) if isinstance(image, dict) else None
        names[str(key)] = name if isinstance(name, str) and name else f"{key}.jpg"
    regions: dict[str, list[Region]] = {key: [] for key in names}
    for key, entry in content["anns"].items():
        found = entry.region if isinstance(entry, Annotation) else BadLine("expected an object with image_id, found none")
        image = entry.image if isinstance(entry, Annotation) else "unknown"
        if isinstance(found, Region) and image not in names:
            found = BadLine(f"expected an image_id that is in imgs, found {image}")
        if isinstance(found, BadLine):
            found = malformed("malformed annotation", f"{where}: annotation {key}: {found}")
        regions.setdefault(image, []).append(found)
    for image, found in regions.items():
        yield names.get(image, image), found
