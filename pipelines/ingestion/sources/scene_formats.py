"""Telling which annotation format a file or a folder is, and which files are the annotations."""

import posixpath
import re
from typing import NamedTuple

from pipelines.corpus import storage
from pipelines.ingestion.sources.annotations import LINES, text_format
from pipelines.ingestion.sources.annotations_json import json_format
from pipelines.ingestion.sources.annotations_mat import mat_format
from pipelines.ingestion.sources.scene_images import level

WHOLE_SETS = ("lsvt", "textocr", "cocotext", "synthtext")  # one file for all images
FORMATS = (*LINES, "totaltext", "ctw1500-xml", "totaltext-mat", *WHOLE_SETS)
OTHER_SOURCES = re.compile(r"\.(mdb|tsv|csv|jsonl|tar|tgz|tar\.\w+|parquet|arrow)$|^gt\.txt$|\.gt\.txt$|^corpus\.json$", re.IGNORECASE)
ANNOTATION_NAME = re.compile(r"(poly_)?gt_", re.IGNORECASE)
SAMPLE = 16  # files that are looked into to tell the format
HEAD = 1 << 20  # bytes


class Annotations(NamedTuple):
    """Where the annotations of a set lie."""

    format: str  # one of FORMATS
    folder: str  # path or URI
    files: list[str]  # names in the folder, sorted


def matches(path: str) -> str | None:
    """Which of FORMATS a path or URI is, by names and content; None if it is none of them.

    An annotation file; a folder with annotation files; or a folder with one subfolder of these and no source of another
    kind. None for a folder of several annotated subfolders (these are the sources), and for whatever other sources
    read: label files, `.gt.txt` beside images, LMDBs, tars, tables.
    """
    found = locate(path)
    return None if found is None else found.format


def locate(path: str) -> Annotations | None:
    """The annotations at a path or URI; None if it is no set of scenes."""
    path = storage.absolute(path)
    kind = storage.kind(path)
    if kind == "file":
        folder, name = posixpath.split(path)
        format = None if OTHER_SOURCES.search(name) else _format_of(folder, [name])
        return None if format is None else Annotations(format, folder, [name])
    if kind is None or not _is_free(path, depth=0):
        return None
    direct = _annotations_in(path)
    if direct is not None:
        return direct
    below = {folder: _annotations_in(folder) for folder in (storage.join(path, name) for name in level(path).folders)}
    annotated = [found for found in below.values() if found is not None]
    if len(annotated) == 1 and all(_is_free(folder, depth=2) for folder in below):
        return annotated[0]
    return None


def _is_free(folder: str, depth: int) -> bool:
    """Whether no other kind of source shows in a folder, down to `depth` levels below it."""
    inside = level(folder)
    return (not any(map(OTHER_SOURCES.search, inside.files))
            and (depth == 0 or all(_is_free(storage.join(folder, name), depth - 1) for name in inside.folders)))


def _annotations_in(folder: str) -> Annotations | None:
    files = list(level(folder).files)
    if any(map(OTHER_SOURCES.search, files)):
        return None
    found = (_json_in(folder, files), *(_files_in(folder, files, suffix) for suffix in (".txt", ".xml", ".mat")))
    return next(filter(None, found), None)


def _json_in(folder: str, files: list[str]) -> Annotations | None:
    """All files of one whole-set format, such as those of training and validation. Many JSON files are another format."""
    names = [name for name in files if name.lower().endswith(".json")]
    if not 0 < len(names) <= SAMPLE:
        return None
    formats = {name: _format_of(folder, [name]) for name in names}
    names = [name for name in names if formats[name] is not None]
    return Annotations(formats[names[0]], folder, names) if len({formats[name] for name in names}) == 1 else None


def _files_in(folder: str, files: list[str], suffix: str) -> Annotations | None:
    names = [name for name in files if name.lower().endswith(suffix)]
    named = [name for name in names if ANNOTATION_NAME.match(name)]
    if 2 * len(named) >= len(names):  # whatever else lies there is a note or a list
        names = named
    format = _format_of(folder, names) if names else None
    return None if format is None else Annotations(format, folder, names)


def _format_of(folder: str, names: list[str]) -> str | None:
    """The format of annotation files of one suffix, by a sample of them."""
    paths = [storage.join(folder, name) for name in names[::max(1, len(names) // SAMPLE)][:SAMPLE]]
    suffix = posixpath.splitext(names[0])[1].lower()
    if suffix == ".json":
        with storage.open_stream(paths[0]) as file:
            return json_format(file.read(HEAD), iter(lambda: file.read(HEAD), b""))
    if suffix == ".mat":
        return next(filter(None, map(mat_format, paths)), None)
    if suffix == ".xml":
        return "ctw1500-xml" if any(b"<segs>" in storage.read_bytes(path) for path in paths) else None
    return text_format([storage.read_bytes(path) for path in paths]) if suffix == ".txt" else None
