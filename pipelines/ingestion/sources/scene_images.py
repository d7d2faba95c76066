"""Finding the images that annotations speak of.

Sets are unpacked in many ways, so the images are looked for, in this order: at and below the folder of the annotations;
in its parent, and at and below its siblings named like images (`images`, `ch4_test_images`, `text_image`); in its other
siblings (`train2014`); in the folder of its own name below its parent's siblings named like images (`Images/Train` for
`gt/Train`). The first place that has the name wins. Two files of one name at the same place are ambiguous, and neither is
taken: a wrong pair would be worse than none. Files that differ in their suffix alone are one image.
A name that leads out of the folder (from the root, or by `..`), and a link that leads out of the place where it lies, are refused: annotations
come from elsewhere, and bring in no file that their user did not point at.
"""

import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyarrow import fs

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import IMAGE_SUFFIXES, Stamp, is_image_name, list_folder

LIKE_IMAGES = re.compile(r"image|img|jpe?g|photo|picture", re.IGNORECASE)
OUTSIDE = "path outside the folder"
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
          "validation": "val"}


class Found(NamedTuple):
    """An image, or why there is none."""

    path: str | None  # or URI
    size: int = 0
    changed: int = 0
    problem: str = ""  # a short fixed phrase
    detail: str = ""


class Level(NamedTuple):
    """What lies directly in a folder, without hidden files, sorted."""

    files: dict[str, Stamp]  # by name
    folders: list[str]


def level(folder: str) -> Level:
    """List a folder, not what is below it. Nothing at all if there is no such folder."""
    system, inside = storage.locate(folder)
    with storage.reaching(folder):
        found = system.get_file_info(fs.FileSelector(inside, recursive=False, allow_not_found=True))
    try:
        seen = [item for item in found if not item.base_name.startswith(".")]
    except UnicodeDecodeError as problem:
        raise BadInput(f"{folder}: expected file names in UTF-8, found {problem.object!r}: rename it") from problem
    files = {item.base_name: Stamp(item.size or 0, item.mtime_ns or 0) for item in seen if item.type == fs.FileType.File}
    return Level(dict(sorted(files.items())), sorted(item.base_name for item in seen if item.type == fs.FileType.Directory))


def parent(path: str) -> str | None:
    """The folder that holds a path or URI; None at the top."""
    above = posixpath.dirname(path)
    return above if above not in ("", path) and not above.endswith((":/", ":")) else None


def splits(path: str) -> set[str]:
    """Of train, test and val, those that a path speaks of."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path)
    return {SPLITS[word.lower()] for word in words if word.lower() in SPLITS}


def other_split(folder: str, base: str) -> Callable[[str], bool]:
    """Whether a path below `base` speaks of another split than `folder`, which lies there too; their common part does not count."""
    mine = splits(folder.removeprefix(base))

    def is_other(path: str) -> bool:
        found = splits(path.removeprefix(base))
        return bool(mine and found and not mine & found)

    return is_other


class Images(dict):
    """Lower-case file name, composed (NFC), with or without its suffix -> the files of that name at one place, which is some folders."""

    def __init__(self, folders: list[str]):
        super().__init__()
        self._folders = [os.path.join(os.path.realpath(folder), "") for folder in folders if not storage.is_remote(folder)]
        self._real: dict[str, str] = {}  # folder: what it is without links

    def add(self, path: str, stamp: Stamp) -> None:
        """Take note of a file if it is an image."""
        name = _comparable(path)
        if is_image_name(name):
            found = (path, *stamp)
            self.setdefault(name, []).append(found)
            stem = posixpath.splitext(name)[0]
            self.setdefault(stem, []).append(found)
            if stem.isdigit() and stem != stem.lstrip("0"):  # 1.jpg and 0001.jpg are the same to a number
                self.setdefault(stem.lstrip("0"), []).append(found)

    def holds(self, path: str) -> bool:
        """Whether a file lies at the place indeed, and is no link to elsewhere."""
        if storage.is_remote(path):
            return True
        folder, name = posixpath.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self._real[folder], name)
        return real.startswith(tuple(self._folders))


def _comparable(path: str) -> str:
    return unicodedata.normalize("NFC", posixpath.basename(path).lower())


def _leads_out(name: str) -> bool:
    path = posixpath.normpath(name.replace("\\", "/"))
    return path.startswith(("/", "../")) or path == ".." or path[1:3] == ":/"


def find_images(folder: str, wanted: list[str], candidates: Callable[[str], list[str]], by_split: bool) -> list[Found]:
    """The image for each wanted name, looked for from the annotations' `folder` on.

    `candidates` gives the file names, with or without suffix, that a wanted name may stand for, the likeliest first.
    With `by_split` places that speak of another split than the annotations are passed over: the names of training and test
    images overlap in some sets.
    """
    results = [Found(None, problem=OUTSIDE, detail=f"the annotations name {name}"[:200]) if _leads_out(name) else None for name in wanted]
    for images in _places(folder, by_split):
        for index, name in enumerate(wanted):
            if results[index] is None:
                results[index] = _lookup(images, name, candidates(name))
        if None not in results:
            break
    return [found or Found(None, problem="missing file", detail=f"no image {candidates(name)[0]} at or beside {folder}")
            for found, name in zip(results, wanted, strict=True)]


def _lookup(images: Images, wanted: str, names: list[str]) -> Found | None:
    for name in names:
        found = images.get(_comparable(name), [])
        found = [item for item in found if item[0].endswith("/" + wanted)] or found
        if len(found) > 1:
            found = _preferred(found)
        if len(found) == 1 and not images.holds(found[0][0]):
            return Found(None, problem=OUTSIDE, detail=f"{found[0][0]} is a link to {os.path.realpath(found[0][0])}")
        if len(found) == 1:
            return Found(*found[0])
        if found:
            return Found(None, problem="several images of this name", detail=", ".join(item[0] for item in found[:3]))
    return None


def _preferred(found: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Of files that differ in their suffix alone the one whose suffix comes first; otherwise all."""
    if len({posixpath.splitext(path)[0] for path, _, _ in found}) > 1:
        return found
    return [min(found, key=lambda item: IMAGE_SUFFIXES.index(posixpath.splitext(item[0])[1].lower()))]


def _places(folder: str, by_split: bool) -> Iterator[Images]:
    yield _listed([folder])
    above = parent(folder)
    if above is None:
        return
    siblings = _readable(above)
    others = [place for name in siblings.folders if (place := storage.join(above, name)) != folder]
    like_images = [place for place in others if LIKE_IMAGES.search(posixpath.basename(place))]
    left_out = other_split(folder, above) if by_split else _nothing
    near = _listed(like_images, left_out, above)
    for name, stamp in siblings.files.items():
        near.add(storage.join(above, name), stamp)
    yield near
    yield _directly_in([place for place in others if place not in like_images and not left_out(place)])
    top = parent(above)
    if top is not None:
        yield _listed(_cousins(folder, above, top))


def _cousins(folder: str, above: str, top: str) -> list[str]:
    """The folders named as the annotations', or after the same split, in those beside their parent that are named like images."""
    mine = posixpath.basename(folder)
    uncles = [uncle for name in _readable(top).folders if LIKE_IMAGES.search(name) and (uncle := storage.join(top, name)) != above]
    return [storage.join(uncle, name) for uncle in uncles for name in _readable(uncle).folders
            if name.lower() == mine.lower() or (splits(mine) and splits(name) == splits(mine))]


def _nothing(path: str) -> bool:
    return False


def _readable(folder: str) -> Level:
    """A folder that is not of the set, and may belong to somebody else."""
    try:
        return level(folder)
    except OSError:
        return Level({}, [])


def _directly_in(folders: list[str]) -> Images:
    images = Images(folders)
    for folder in folders:
        for name, stamp in _readable(folder).files.items():
            images.add(storage.join(folder, name), stamp)
    return images


def _listed(folders: list[str], left_out: Callable[[str], bool] = _nothing, *others: str) -> Images:
    """The images at and below folders, without those in folders that are left out; some of `others`, which are added later, may come too."""
    images = Images([*folders, *others])
    known: dict[str, bool] = {}
    for folder in folders:
        for name, stamp in sorted(list_folder(folder).items()):
            path = storage.join(folder, name)
            inside = posixpath.dirname(path)
            if inside not in known:
                known[inside] = left_out(inside)
            if not known[inside]:
                images.add(path, stamp)
    return images
