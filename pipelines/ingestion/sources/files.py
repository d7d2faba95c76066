"""What lies at a path: its files, whether they lie on this machine or in an object store."""

import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from pipelines.corpus import storage
from pipelines.corpus.image_formats import ENDINGS as IMAGE_SUFFIXES
from pipelines.corpus.image_formats import HEAD_BYTES, image_format
from pipelines.errors import BadInput

TEXT_SUFFIXES = (".txt", ".json", ".xml")  # of which some sets have one beside each image
FETCHED_AHEAD = 16  # files of an object store that are under way at a time
BRACES = re.compile(r"\{(?:([0-9]{1,18})\.\.([0-9]{1,18})|([^{},]*(?:,[^{},]*)+))\}")  # {0000..0099} or {train,valid}
MOST_FILES = 100_000  # that a pattern may mean


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int  # bytes
    changed: int  # nanoseconds since 1970; 0 where the store does not say


@dataclass(frozen=True)
class Place:
    """A path and what lies there: a file (or a pattern of files), or a folder with everything below it."""

    path: str  # from the root, or a URI
    files: dict[str, Stamp] | None = None  # by path relative to the folder; None: no folder

    @property
    def is_folder(self) -> bool:
        """Whether the path is a folder."""
        return self.files is not None

    def names(self) -> list[str]:
        """The files that lie directly in the folder, sorted."""
        return sorted(path for path in self.files or () if "/" not in path)

    def folders(self) -> dict[str, "Place"]:
        """The folders directly in this one that hold files, by name, sorted."""
        below: dict[str, dict[str, Stamp]] = {}
        for path, stamp in (self.files or {}).items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = stamp
        return {name: Place(storage.join(self.path, name), below[name]) for name in sorted(below)}


def look(path: str) -> Place | None:
    """What lies at a path, a URI or a pattern with braces; None if nothing does. Raises OSError and BadInput."""
    path = storage.absolute(path)
    found = storage.kind(path)
    if found == "folder":
        return Place(path, list_folder(path))
    if found == "file" or BRACES.search(path):
        return Place(path)
    return None


def list_folder(folder: str) -> dict[str, Stamp]:
    """Every file below a folder but hidden ones. Folders on this machine may hold links, which are followed once."""
    if not storage.is_remote(folder):
        return dict(_walk(folder))
    return {entry.path: Stamp(entry.size, entry.changed) for entry in storage.list_files(folder) if not is_hidden(entry.path)}


def _walk(folder: str) -> Iterator[tuple[str, Stamp]]:
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
                if item.is_symlink() and not os.path.exists(item.path):
                    yield path, Stamp(0, 0)  # leads nowhere, which whoever reads it will say
                elif item.is_dir():
                    pending.append(path)
                elif item.is_file():
                    yield path, Stamp(item.stat().st_size, item.stat().st_mtime_ns)


def stamp(path: str) -> Stamp:
    """Size and time of change of one file. Raises FileNotFoundError."""
    system, inside = storage.locate(path)
    with storage.reaching(path):
        found = system.get_file_info(inside)
    if not found.is_file:
        raise FileNotFoundError(2, "No such file", path)
    return Stamp(found.size or 0, found.mtime_ns or 0)


def set_of_files(place: Place, suffixes: tuple[str, ...]) -> dict[str, Stamp]:
    """The files that make up a source, by path or URI: those of the folder that end so, one file, or a pattern's.

    Raises BadInput if a file of a pattern is missing, or if a folder holds no such file.
    """
    if place.is_folder:
        named = {storage.join(place.path, name): place.files[name] for name in place.names() if name.lower().endswith(suffixes)}
        if not named:
            raise BadInput(f"{place.path}: expected files that end with {' or '.join(suffixes)} in this folder, found none: "
                           "name the folder that holds them")
        return named
    found = {}
    for path in [place.path] if storage.kind(place.path) else expand_braces(place.path):
        try:
            found[path] = stamp(path)
        except FileNotFoundError:
            raise BadInput(f"{path}: expected this file, as {place.path} says, found no such file: correct the pattern, "
                           "or bring the file here") from None
    return found


def expand_braces(pattern: str) -> list[str]:
    """The paths that a pattern means: {0000..0099} counts with leading zeros, {a,b} lists. As shells and WebDataset do.

    Raises BadInput for a pattern of more than MOST_FILES, before it is written out.
    """
    parts, end = [], 0
    for found in BRACES.finditer(pattern):
        parts += [[pattern[end:found.start()]], _Numbers(*found.groups()[:2]) if found[3] is None else found[3].split(",")]
        end = found.end()
    if math.prod(map(len, parts)) > MOST_FILES:
        raise BadInput(f"{pattern}: expected a pattern of at most {MOST_FILES:,} files, found one of more: "
                       "correct its numbers, or name the folder that holds the files")
    return ["".join(words) for words in product(*parts, [pattern[end:]])]


class _Numbers:
    """What {first..last} means, upwards or downwards; nothing is written out before it is asked for."""

    def __init__(self, first: str, last: str):
        step = 1 if int(first) <= int(last) else -1
        self._range, self._digits = range(int(first), int(last) + step, step), len(first)

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[str]:
        return (str(number).zfill(self._digits) for number in self._range)


def stems(paths: list[str], suffixes: tuple[str, ...]) -> list[str]:
    """Short names for files: their paths from the folder that they share on, without suffix.

    Raises BadInput if two files get one name: keys are made of it.
    """
    parents = [path.split("/")[:-1] for path in paths]
    shared = len(os.path.commonprefix(parents))
    names: dict[str, str] = {}
    for path in paths:
        name = without_suffix("/".join(path.split("/")[shared:]), suffixes)
        if name in names:
            raise BadInput(f"{path}: expected files whose names differ before the suffix, found {names[name]} too: rename one, "
                           "or leave it out")
        names[name] = path
    return [printable(name) for name in names]


def without_suffix(name: str, suffixes: tuple[str, ...]) -> str:
    """The name without the longest of these endings that it has."""
    for suffix in sorted(suffixes, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[:-len(suffix)]
    return name


def is_image_name(path: str) -> bool:
    """Whether the file name ends like an image."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def images_among(folder: str, paths: Iterable[str]) -> list[str]:
    """Of files below a folder those that are images, in their order: by their endings, or else by their first bytes.

    A file of another ending is looked into, and one without any; not one that ends in TEXT_SUFFIXES.
    """
    paths = list(paths)
    unknown = [path for path in paths if not is_image_name(path) and not path.lower().endswith(TEXT_SUFFIXES)]
    with ThreadPoolExecutor(FETCHED_AHEAD if storage.is_remote(folder) else 1) as pool:
        images = dict(zip(unknown, pool.map(lambda path: _begins_like_an_image(storage.join(folder, path)), unknown), strict=True))
    return [path for path in paths if images.get(path, is_image_name(path))]


def _begins_like_an_image(path: str) -> bool:
    try:
        with storage.open_file(path) if storage.is_remote(path) else open(path, "rb") as file:
            return image_format(file.read(HEAD_BYTES)) is not None
    except OSError:  # nothing says that it is one
        return False


def is_hidden(path: str) -> bool:
    """Whether a part of the path begins with a dot (a leading `./` is none)."""
    return any(part.startswith(".") and part != "." for part in path.split("/"))


def printable(path: str) -> str:
    """The path, with bytes that are not UTF-8 written as escapes."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
