"""Word images as loose files in a folder, with one label file or none.

    labels.tsv   path<TAB>text, one image a line; text is everything after the first tab
    gt.txt       ICDAR's `word_1.jpg, "Text"` (\\" and \\\\ inside the quotes), or path<TAB>text

The files are UTF-8, with or without BOM. Paths are relative to the folder, or to its subfolder `images`. Images that
no line names are unlabeled.
"""

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.errors import BadInput
from pipelines.sources.row import Row, Span, spans

LABEL_FILES = ("labels.tsv", "gt.txt")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm", ".pbm")
ICDAR_LINE = re.compile(r'([^\t]+?),\s*"(.*)"\s*', re.DOTALL)
ICDAR_LINE_BARE = re.compile(r"([^\t,]+),\s*(.*?)\s*", re.DOTALL)
ESCAPED = re.compile(r'\\(["\\])')


class Entry(NamedTuple):
    """One image of a folder, or one line that names none."""

    path: str  # relative to the folder, with slashes
    text: str | None = None
    problem: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class FolderSource:
    """A folder of image files. Holds the list of its files, about 200 bytes each."""

    name: str
    path: str
    entries: tuple[Entry, ...]
    fingerprint: str
    first: int = 0  # the number of entries[0]
    kind: str = "folder"
    exact: bool = True

    def count(self) -> int:
        """Images and lines that name none."""
        return self.first + len(self.entries)

    def pieces(self, size: int) -> Iterator[Span]:
        """Pieces of `size` files."""
        return spans(self, size)

    def part(self, start: int, stop: int) -> "FolderSource":
        """A source with only the files start to stop."""
        return FolderSource(self.name, self.path, self.entries[start - self.first:stop - self.first], self.fingerprint,
                            start)

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Rows start to stop: first the lines of the label file in its order, then the unlabeled images by path."""
        for entry in self.entries[start - self.first:stop - self.first]:
            yield self._row(entry)

    def _row(self, entry: Entry) -> Row:
        key = f"{self.name}/{printable(entry.path)}"
        if entry.problem is not None:
            return Row(key, None, entry.text, entry.problem, entry.detail)
        try:
            with open(os.path.join(self.path, entry.path), "rb") as file:
                return Row(key, file.read(), entry.text)
        except OSError as problem:
            return Row(key, None, entry.text, "unreadable file", problem.strerror or str(problem))


def open_folder(name: str, folder: str) -> FolderSource:
    """List the images of `folder` and read its label file. Raises BadInput for two label files or no images."""
    label_files = [file for file in LABEL_FILES if os.path.isfile(os.path.join(folder, file))]
    if len(label_files) > 1:
        raise BadInput(f"{folder}: expected one label file, found {' and '.join(label_files)}: remove or rename one")
    files = dict(walk_files(folder))
    entries = _labeled_entries(folder, label_files[0], files) if label_files else []
    named = {entry.path for entry in entries}
    entries += [_unlabeled(path) for path in sorted(files) if is_image_name(path) and path not in named]
    if not entries:
        raise BadInput(f"{folder}: expected an LMDB (data.mdb), a label file ({', '.join(LABEL_FILES)}) or images, "
                       "found none: name the folder that holds the images")
    return FolderSource(name, folder, tuple(entries), _fingerprint(entries, files))


def is_image_name(path: str) -> bool:
    """Whether the file name ends like an image."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def printable(path: str) -> str:
    """The path, with bytes that are not UTF-8 written as escapes."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def walk_files(folder: str) -> Iterator[tuple[str, str]]:
    """(relative path, size and time of change) of every file below the folder but hidden ones; follows links once."""
    seen = set()
    pending = [""]
    while pending:
        inside = pending.pop()
        status = os.stat(os.path.join(folder, inside))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(folder, inside)) as found:
            for item in found:
                path = posixpath.join(inside, item.name)
                if item.name.startswith("."):
                    continue
                if item.is_dir():
                    pending.append(path)
                elif item.is_file():
                    yield path, f"{item.stat().st_size} {item.stat().st_mtime_ns}"


def _unlabeled(path: str) -> Entry:
    if path == printable(path):
        return Entry(path)
    return Entry(path, problem="file name is not UTF-8", detail=repr(os.fsencode(path)))


def _labeled_entries(folder: str, label_file: str, files: dict[str, str]) -> list[Entry]:
    with open(os.path.join(folder, label_file), "rb") as file:
        lines = file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    split = split_line(label_file, next((line for line in lines if line.strip()), b""))
    entries, seen = [], set()
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix(b"\r")
        if not line.strip():
            continue
        entry = _entry(line, f"{label_file}:{number}", split, files)
        if entry.problem is None and entry.path in seen:
            entry = entry._replace(problem="image labeled twice",
                                   detail=f"line {number} of {label_file} names it again")
        seen.add(entry.path)
        entries.append(entry)
    return entries


def _entry(line: bytes, where: str, split, files: dict[str, str]) -> Entry:
    try:
        parts = split(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Entry(where, problem="label is not UTF-8", detail=repr(line[:80]))
    if parts is None:
        return Entry(where, problem="malformed label line", detail=printable(repr(line[:80])))
    named, text = parts
    path = posixpath.normpath(named)
    if path.startswith(("/", "../")):
        return Entry(path, text, "path outside the folder", f"{where} names {named}")
    if path not in files and posixpath.join("images", path) in files:
        path = posixpath.join("images", path)
    if path not in files:
        return Entry(path, text, "missing file", f"named in {where}")
    return Entry(path, text)


def split_line(label_file: str, first_line: bytes):
    """The function that splits this file's lines into (path, text): some write gt.txt with tabs."""
    if label_file == "gt.txt" and b"," in first_line.partition(b"\t")[0]:
        return split_icdar
    return split_tab


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


def _fingerprint(entries: list[Entry], files: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry, files.get(entry.path))).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
