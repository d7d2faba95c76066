"""Foreign formats: one file each, all yielding the same rows."""

import os

from pipelines.errors import BadInput
from pipelines.sources.folder import LABEL_FILES, is_image_name, open_folder, walk_files
from pipelines.sources.lmdb import is_lmdb, open_lmdb
from pipelines.sources.row import Piece, Row, Source

__all__ = ["Piece", "Row", "Source", "open_sources"]


def open_sources(arguments: list[str], allow_holes: bool = False) -> list[Source]:
    """Open each PATH or NAME=PATH: an LMDB, a folder of images, or a tree of these, each leaf a source of its own.

    A source is named NAME, or else like its folder; a leaf of a tree like its path inside the tree, after NAME/ if
    there is one. Raises BadInput for what cannot be opened and for names that clash. `allow_holes`: see `open_lmdb`.
    """
    sources = [source for argument in arguments for source in _open(argument, allow_holes)]
    _check_names(sources)
    return sources


def _open(argument: str, allow_holes: bool) -> list[Source]:
    name, path = _split_name(argument)
    if not os.path.exists(path):
        raise BadInput(f"{path}: expected an LMDB, a folder of images or a tree of these, found no such path: "
                       "check the spelling")
    if os.path.basename(path) == "data.mdb":
        path = os.path.dirname(path) or "."
    if not os.path.isdir(path):
        raise BadInput(f"{path}: expected an LMDB, a folder of images or a tree of these, found a file: "
                       "name its folder")
    if os.path.isfile(os.path.join(path, "corpus.json")):
        raise BadInput(f"{path}: expected a foreign format, found a corpus: it needs no ingest, use it as it is")
    try:
        return _open_tree(name, path, allow_holes)
    except OSError as problem:
        raise BadInput(f"{problem.filename}: expected a readable folder, found {problem.strerror}: "
                       "correct its permissions") from problem


def _open_tree(name: str, path: str, allow_holes: bool) -> list[Source]:
    path = os.path.abspath(path)  # tasks may run in another folder
    leaves = _leaves(path, "")
    if leaves == [""]:
        return [_open_leaf(name or os.path.basename(path) or "root", path, allow_holes)]
    return [_open_leaf("/".join(filter(None, (name, leaf))), os.path.join(path, leaf), allow_holes) for leaf in leaves]


def _split_name(argument: str) -> tuple[str, str]:
    name, equals, path = argument.partition("=")
    if not equals or os.path.exists(argument):
        return "", argument
    if not name or not path or not name.isprintable():
        raise BadInput(f"{argument!r}: expected PATH or NAME=PATH, found an empty or unprintable part: "
                       "name the source and its path")
    return name, path


def _open_leaf(name: str, path: str, allow_holes: bool) -> Source:
    return open_lmdb(name, path, allow_holes) if is_lmdb(path) else open_folder(name, path)


def _is_leaf(folder: str) -> bool:
    return is_lmdb(folder) or any(os.path.isfile(os.path.join(folder, file)) for file in LABEL_FILES)


def _leaves(root: str, inside: str) -> list[str]:
    """The paths inside `root`, sorted, of the sources below `inside`.

    A folder that holds neither LMDBs nor label files, at any depth, is one source of unlabeled images ("" if it is the
    root), or none if it holds no image.
    """
    folder = os.path.join(root, inside)
    if _is_leaf(folder):
        return [inside]
    paths = [path for path, _ in walk_files(folder)]
    markers = ("data.mdb", *LABEL_FILES)
    if not any(os.path.basename(path) in markers for path in paths):
        return [inside] if not inside or any(map(is_image_name, paths)) else []
    loose = [path for path in paths if "/" not in path and is_image_name(path)]
    if loose:
        raise BadInput(f"{folder}: expected images or folders of sources, found both ({loose[0]} lies beside them): "
                       "name the sources one by one, or move the images into a folder of their own")
    below = sorted({path.partition("/")[0] for path in paths if "/" in path})
    return [leaf for name in below for leaf in _leaves(root, os.path.join(inside, name))]


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
