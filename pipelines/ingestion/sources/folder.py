"""Word images as loose files, with one label file, with a text file beside each image, or without labels.

    labels.tsv, gt.txt, labels.csv …     in the folder: see labels.py
    X.gt.txt beside X.png                one line of text, as HTR tools have it (also beside X.bin.png and X.nrm.png)

Paths in a label file are relative to its folder, or to the subfolder `images`. Images that neither name are unlabeled. A label
file may also be opened itself: then it alone decides which images come in. Folders may lie in an object store.
"""

import hashlib
import os
import posixpath
import unicodedata
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import FETCHED_AHEAD, IMAGE_SUFFIXES, Place, Stamp, images_among, list_folder, printable, without_suffix
from pipelines.ingestion.sources.labels import LABEL_FILES, LIST_SUFFIXES, Label, read_labels, text_of_file
from pipelines.ingestion.sources.row import Row, Span, spans

PAIR = ".gt.txt"
MISSING, OUTSIDE = MISNAMED = ("missing file", "path outside the folder")  # what may be wrong with the name of an image
VARIANTS = (".bin", ".nrm")  # binarized and normalised copies of a line's image share its text


class Entry(NamedTuple):
    """One image of a folder, or one line that names none."""

    path: str  # relative to the folder, with slashes
    text: str | None = None
    problem: str | None = None
    detail: str = ""
    text_file: str | None = None  # whose content is the text


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
        return FolderSource(self.name, self.path, self.entries[start - self.first:stop - self.first], self.fingerprint, start)

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Rows start to stop: first the lines of the label file in its order, then the other images by path."""
        entries = self.entries[start - self.first:stop - self.first]
        return self._fetched(entries) if storage.is_remote(self.path) else map(self._row, entries)

    def _fetched(self, entries: tuple[Entry, ...]) -> Iterator[Row]:
        """The rows in order, a few of them under way at a time: an object store answers late, but many at once."""
        waiting, under_way = iter(entries), deque()
        with ThreadPoolExecutor(FETCHED_AHEAD) as pool:
            under_way.extend(pool.submit(self._row, entry) for entry in islice(waiting, FETCHED_AHEAD))
            while under_way:
                yield under_way.popleft().result()
                under_way.extend(pool.submit(self._row, entry) for entry in islice(waiting, 1))

    def _row(self, entry: Entry) -> Row:
        key = f"{self.name}/{printable(entry.path)}"
        if entry.problem is not None:
            return Row(key, None, entry.text, entry.problem, entry.detail)
        try:
            image = storage.read_bytes(storage.join(self.path, entry.path))
            if entry.text_file is None:
                return Row(key, image, entry.text)
            data = storage.read_bytes(storage.join(self.path, entry.text_file))
        except OSError as problem:
            return Row(key, None, entry.text, "unreadable file", problem.strerror or str(problem))
        return paired_row(key, image, data)


def paired_row(key: str, image: bytes, data: bytes) -> Row:
    """An image with the content of its `.gt.txt`."""
    try:
        text = text_of_file(data)
    except UnicodeDecodeError:
        return Row(key, image, None, "label is not UTF-8", repr(data[:80]))
    text = text.removesuffix("\r")  # a line may end so
    if "\n" in text or "\r" in text:
        return Row(key, image, None, "several lines of text", repr(text[:80]))
    return Row(key, image, text)


def folder_format(place: Place) -> str | None:
    """"folder" for a folder with a label file, and for a label file; loose images do not tell where a source begins."""
    if place.is_folder:
        return "folder" if any(name in place.files for name in LABEL_FILES) else None
    return "folder" if place.path.lower().endswith(LIST_SUFFIXES) else None


def open_folder(name: str, place: Place, labels: str | None = None) -> FolderSource:
    """List the images of a folder and read its label file, or another one, whose paths are relative to the folder all the same.

    Raises BadInput for two label files or no images.
    """
    if not place.is_folder:
        return _open_list(name, place)
    label_files = [storage.join(place.path, file) for file in LABEL_FILES if file in place.files]
    if labels is not None:
        own = [file for file in label_files if storage.absolute(file) != storage.absolute(labels)]
        if own:
            raise BadInput(f"--labels {labels}: expected a folder without labels of its own, found {own[0]}: leave one of the two out")
        label_files = [labels]
    if len(label_files) > 1:
        raise BadInput(f"{place.path}: expected one label file, found {' and '.join(map(posixpath.basename, label_files))}: remove or rename one, "
                       f"or name the one that holds, {label_files[0]}")
    entries = _labeled_entries(label_files[0], place.path, place.files) if label_files else []
    named = {entry.path for entry in entries}
    entries += _other_entries(place, named)
    if not entries:
        raise BadInput(f"{place.path}: expected an LMDB (data.mdb), tars, Parquet files, a label file ({', '.join(LABEL_FILES)}) or "
                       "images, found none: name the folder that holds the images")
    return FolderSource(name, place.path, tuple(entries), _fingerprint(entries, place.files))


def _open_list(name: str, place: Place) -> FolderSource:
    """The images that one label file names, and no others."""
    folder = posixpath.dirname(place.path)
    files = list_folder(folder)
    entries = _labeled_entries(place.path, folder, files)
    if not entries:
        raise BadInput(f"{place.path}: expected lines that name images, found an empty file: correct it")
    return FolderSource(name, folder, tuple(entries), _fingerprint(entries, files))


def _other_entries(place: Place, named: set[str]) -> list[Entry]:
    """The images that no label file names, and the `.gt.txt` that have no image."""
    pairs = {path.removesuffix(PAIR): path for path in place.files if path.endswith(PAIR)}
    entries, paired = [], set()
    for path in images_among(place.path, sorted(place.files)):
        stem = next((stem for stem in _pair_stems(path) if stem in pairs), None)
        paired.add(stem)
        if path in named:
            continue
        if path != printable(path):
            entries.append(Entry(path, problem="file name is not UTF-8", detail=ascii(path)))
        else:
            entries.append(Entry(path, text_file=pairs.get(stem)))
    lonely = sorted(pairs[stem] for stem in pairs.keys() - paired)
    return entries + [Entry(path, problem=MISSING, detail=f"no image beside {printable(path)}") for path in lonely]


def _pair_stems(path: str) -> tuple[str, str, str]:
    stem = without_suffix(path, IMAGE_SUFFIXES)
    return stem, without_suffix(stem, VARIANTS), posixpath.splitext(path)[0]


def _labeled_entries(path: str, folder: str, files: dict[str, Stamp]) -> list[Entry]:
    """What a label file says of the files of a folder."""
    label_file = posixpath.basename(path)
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: expected a label file, found no such file: correct its name") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: expected a label file, found a folder: name the file that holds the labels") from None
    except OSError as problem:
        raise BadInput(f"{path}: expected a readable label file, found {problem.strerror or problem}: correct its permissions") from problem
    entries, seen, forms, roots = [], set(), _normal_forms(files), _roots(folder)
    for label in read_labels(path, data):
        where = f"{label_file}:{label.line}"
        if label.path is None:
            entries.append(Entry(where, label.text, label.problem, label.detail))
            continue
        entry = _entry(label, where, roots, files, forms)
        if entry.problem is None and entry.path in seen:
            entry = entry._replace(problem="image labeled twice", detail=f"line {label.line} of {label_file} names it again")
        elif entry.problem is None and label.problem is not None:
            entry = entry._replace(problem=label.problem, detail=label.detail)
        seen.add(entry.path)
        entries.append(entry)
    return entries


def _normal_forms(files: dict[str, Stamp]) -> dict[str, list[str]]:
    """Names with letters that Unicode can write in two ways, by their composed form: a list may be written in one, a disk in the other."""
    forms: dict[str, list[str]] = {}
    for path in files:
        if not path.isascii():
            forms.setdefault(unicodedata.normalize("NFC", path), []).append(path)
    return forms


def _roots(folder: str) -> tuple[str, ...]:
    """How names begin that say the whole path of something in a folder."""
    return (f"{folder}/",) if storage.is_remote(folder) else tuple(dict.fromkeys(f"{root.rstrip('/')}/" for root in (folder, os.path.realpath(folder))))


def _entry(label: Label, where: str, roots: tuple[str, ...], files: dict[str, Stamp], forms: dict[str, list[str]]) -> Entry:
    named = label.path if storage.is_remote(label.path) else posixpath.normpath(label.path)
    root = next((root for root in roots if named.startswith(root)), "")
    path, text = posixpath.normpath(named.removeprefix(root)), label.text
    if path.startswith(("/", "../")):
        return Entry(path, text, OUTSIDE, f"{where} names {label.path}")
    places = [path, posixpath.join("images", path)] + ([path.partition("/")[2]] if label.keyed else [])
    found = [place for place in places if place in files] or next(filter(None, (forms.get(unicodedata.normalize("NFC", place)) for place in places)), [])
    if not found:
        return Entry(path, text, MISSING, f"named in {where}: names are relative to the folder of the images, where no {printable(path)} was found")
    if found[0] not in places and len(found) > 1:
        return Entry(path, text, "several images of this name", f"named in {where}: {', '.join(map(ascii, found[:3]))}")
    return Entry(found[0], text)


def _fingerprint(entries: list[Entry], files: dict[str, Stamp]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        stamps = tuple(files.get(entry.path, ())), tuple(files.get(entry.text_file, ()))
        digest.update(repr((tuple(entry), stamps)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
