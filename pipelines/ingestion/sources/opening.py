"""What a path is: its format, found by looking or forced as in FORMAT:PATH, and the sources below it."""

import os
import posixpath
import re
from collections.abc import Callable
from typing import NamedTuple

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import BRACES, Place, images_among, is_image_name, look, printable
from pipelines.ingestion.sources.folder import folder_format, open_folder
from pipelines.ingestion.sources.lmdb import lmdb_format, open_lmdb
from pipelines.ingestion.sources.parquet import SUFFIXES as PARQUET_SUFFIXES
from pipelines.ingestion.sources.parquet import open_parquet, parquet_format
from pipelines.ingestion.sources.row import ReadOptions, Source
from pipelines.ingestion.sources.scene_formats import FORMATS as SCENE_FORMATS
from pipelines.ingestion.sources.scene_formats import matches as scene_format
from pipelines.ingestion.sources.tar import SUFFIXES as TAR_SUFFIXES
from pipelines.ingestion.sources.tar import open_tars, tar_format

ANNOTATION_SUFFIXES = (".txt", ".xml", ".json", ".mat")


class Format(NamedTuple):
    """A way to read a place."""

    names: tuple[str, ...]  # by which it is forced, as in tar:PATH
    matches: Callable[[Place], str | None]  # the name under which a place is opened without being told; looks at nothing below
    open: Callable[[str, Place, str, ReadOptions], Source]  # the source's name, place, the format's name, options


def _scene_format(place: Place) -> str | None:
    """Looks into files, so only where some may be annotations: in the folder or one below; not where names are not UTF-8."""
    near = [path for path in place.files or () if path.count("/") <= 1 and path.lower().endswith(ANNOTATION_SUFFIXES)]
    if place.is_folder and not (near and all(path == printable(path) for path in place.files)):
        return None
    return scene_format(place.path)


def _open_scenes(name: str, place: Place, format: str, options: ReadOptions) -> Source:
    from pipelines.ingestion.sources.scenes import open_scenes  # imports OpenCV, which the readers of other formats do without
    return open_scenes(name, place.path, format, vertical=options.vertical)


FORMATS = (
    Format(("lmdb",), lmdb_format, lambda name, place, _, options: open_lmdb(name, place, options)),
    Format(("tar",), tar_format, lambda name, place, _, options: open_tars(name, place, options)),
    Format(("parquet",), parquet_format, lambda name, place, _, options: open_parquet(name, place, options)),
    Format(SCENE_FORMATS, _scene_format, _open_scenes),
    Format(("folder",), folder_format, lambda name, place, _, options: open_folder(name, place, options.labels)),
)
OPENED_BY = {name: format for format in FORMATS for name in format.names}
LOOSE = "folder"  # what a folder of images is that no format claims
EXPECTED = "an LMDB, tars, Parquet files, annotated scenes, a folder of images, a label file, or a tree of these"


class Leaf(NamedTuple):
    """A place that is one source."""

    inside: str  # its path inside the tree; "" for the root
    place: Place
    format: str
    loose: bool = False  # images that no format claims


def open_sources(arguments: list[str], options: ReadOptions = ReadOptions()) -> list[Source]:
    """Open each `[NAME=][FORMAT:]PATH`: an LMDB, tars, Parquet files, annotated scenes, images, a label file, or a tree of these.

    PATH may be a URI. A source is named NAME, or else like its folder or file; a leaf of a tree like its path inside the tree, after
    NAME/ if there is one. FORMAT (a name in FORMATS) reads the path as one source of that format, whatever it looks like.
    Raises BadInput for what cannot be opened and for names that clash.
    """
    sources = [source for argument in arguments for source in _open(argument, options)]
    if options.labels is not None and [source.kind for source in sources] != ["folder"]:
        kinds = ", ".join(f"{source.path} ({source.kind})" for source in sources)
        raise BadInput(f"--labels {options.labels}: expected one folder of images, to which the labels belong, found {kinds}: bring it in alone")
    _check_names(sources)
    return sources


def _open(argument: str, options: ReadOptions) -> list[Source]:
    name, format, path = split_argument(argument)
    try:
        place = look(path)
        if place is None:
            raise BadInput(f"{path}: expected {EXPECTED}, found no such path: check the spelling")
        leaves = [Leaf("", place, format)] if format else _leaves(place)
        opened = {leaf.inside: _open_leaf(name, place, leaf, options) for leaf in leaves if not leaf.loose}
        shown = {folder for source in opened.values() if source.kind in SCENE_FORMATS for folder in source.image_folders()}
        return [opened.get(leaf.inside) or _open_leaf(name, place, leaf, options) for leaf in leaves if not _all_in(leaf, shown)]
    except OSError as problem:
        reason = os.strerror(problem.errno) if problem.errno else problem  # pyarrow's own words repeat the path
        raise BadInput(f"{problem.filename or path}: expected a readable file or folder, found {reason}: correct its name or its permissions") from problem


def _all_in(leaf: Leaf, shown: set[str]) -> bool:
    """Whether a leaf is nothing but the images of annotated scenes, which come in as these."""
    return bool(shown) and leaf.loose and all(posixpath.dirname(storage.join(leaf.place.path, path)) in shown
                                              for path in leaf.place.files if is_image_name(path))


def is_other_file(path: str) -> bool:
    """Whether a file lies there that no format claims."""
    place = look(path)
    return place is not None and not place.is_folder and storage.kind(path) == "file" and _format_of(place) is None


def split_argument(argument: str) -> tuple[str, str, str]:
    """(NAME, FORMAT, PATH) of `[NAME=][FORMAT:]PATH`, "" for what is missing; what lies there under the whole name is a path."""
    if os.path.exists(argument):
        return "", "", argument
    format, path = _split_format(argument)
    head, equals, rest = path.partition("=")
    if format or not equals or "://" in head:
        return "", format, path
    if not head or not rest or not head.isprintable():
        raise BadInput(f"{argument!r}: expected PATH or NAME=PATH, found an empty or unprintable part: name the source and its path")
    return (head, "", rest) if os.path.exists(rest) else (head, *_split_format(rest))


def _split_format(path: str) -> tuple[str, str]:
    format, colon, rest = path.partition(":")
    return (format, rest) if colon and rest and format in OPENED_BY else ("", path)


def _open_leaf(name: str, root: Place, leaf: Leaf, options: ReadOptions) -> Source:
    if "corpus.json" in (leaf.place.files or ()):
        raise BadInput(f"{leaf.place.path}: expected a foreign format, found a corpus: it needs no ingest, use it as it is")
    if leaf.inside:
        full = "/".join(filter(None, (name, leaf.inside)))
    else:
        full = name or _default_name(root)
    return OPENED_BY[leaf.format].open(full, leaf.place, leaf.format, options)


def _default_name(place: Place) -> str:
    """A folder's name; a file's without its ending; a pattern's as far as it is the same for all files."""
    path = posixpath.dirname(place.path) if not place.is_folder and posixpath.basename(place.path) == "data.mdb" else place.path
    name = posixpath.basename(path)
    if not place.is_folder and BRACES.search(path):
        fixed = BRACES.split(path)[0]
        name = posixpath.basename(fixed).rstrip("-_.") or posixpath.basename(posixpath.dirname(fixed))
    elif path == place.path and not place.is_folder:
        name = re.sub(r"(\.tar\.gz|\.[^.]+)$", "", name)
    return name or "root"


def _leaves(place: Place) -> list[Leaf]:
    """The sources at a place: itself, or what lies below it."""
    if not place.is_folder:
        return [Leaf("", place, _format_of(place) or _no_format(place))]
    return _found_below(place, "") or [Leaf("", place, LOOSE, loose=True)]


def _no_format(place: Place) -> str:
    raise BadInput(f"{place.path}: expected {EXPECTED}, found a file: name its folder, or say what it is, as in "
                   f"tar:{place.path} ({', '.join(OPENED_BY)})")


def _format_of(place: Place) -> str | None:
    """The one format that claims a place; of those that claim a file, whose ending says less, the first.

    A corpus is claimed too, to be refused.
    """
    if "corpus.json" in (place.files or ()):
        return LOOSE
    claims = [found for format in FORMATS if (found := format.matches(place))]
    if len(claims) > 1 and place.is_folder:
        raise BadInput(f"{place.path}: expected one format, found {' and '.join(claims)}: say which to read, as in "
                       f"{claims[0]}:{place.path}")
    return claims[0] if claims else None


def _found_below(place: Place, inside: str) -> list[Leaf]:
    """The sources that a format claims in a folder, sorted, and beside them the folders of images that none claims.

    A folder in which none is claimed, at any depth, gives nothing: whoever asked takes it as one source of unlabeled images.
    """
    format = _format_of(place)
    if format is not None:
        if OPENED_BY[format].names[0] in ("tar", "parquet"):
            _check_alone(place, TAR_SUFFIXES if format == "tar" else PARQUET_SUFFIXES)
        return [Leaf(inside, place, format)]
    folders = place.folders()
    below = {name: _found_below(folder, posixpath.join(inside, name)) for name, folder in folders.items()}
    if not any(below.values()):
        return []
    _check_loose(place, images_among(place.path, place.names()))
    return [leaf for name, folder in folders.items() for leaf in below[name] or _loose_leaf(folder, posixpath.join(inside, name))]


def _loose_leaf(folder: Place, inside: str) -> list[Leaf]:
    has_images = any(map(is_image_name, folder.files)) or images_among(folder.path, folder.files)
    return [Leaf(inside, folder, LOOSE, loose=True)] if has_images else []


def _check_loose(place: Place, loose: list[str]) -> None:
    if loose:
        raise BadInput(f"{place.path}: expected images or folders of sources, found both ({loose[0]} lies beside them): "
                       "name the sources one by one, or move the images into a folder of their own")


def _check_alone(place: Place, suffixes: tuple[str, ...]) -> None:
    """What lies beside or below the files of a set would be left out."""
    _check_loose(place, sorted(path for path in place.files
                               if is_image_name(path) or ("/" in path and path.lower().endswith((*suffixes, "data.mdb")))))


def _check_names(sources: list[Source]) -> None:
    """Keys begin with the source's name, so no name may be another's, nor the folder part of another's."""
    paths = {}
    for source in sources:
        if source.name in paths:
            raise BadInput(f"expected sources with different names, found two named {source.name} "
                           f"({paths[source.name]} and {source.path}): "
                           f"give one another name, as in OTHER={source.path}")
        paths[source.name] = source.path
    for name in paths:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in paths:
                raise BadInput(f"expected sources whose keys cannot clash, found {parent} and {name}: "
                               f"give one another name, as in OTHER={paths[parent]}")
