"""The rows of a corpus, copied into a foreign format beside the target, which gets its name when it is whole."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import lmdb
import pyarrow.compute as pc
from pydantic import BaseModel

from pipelines.corpus import storage
from pipelines.corpus.account import counted
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.exporting.formats import BREAKS_LINES, FolderWriter, Item, LmdbWriter, TarWriter, Writer
from pipelines.progress import Progress, say
from pipelines.state import parse_json

NOTE = "export.json"  # in what was exported: what it is, and the sign that --overwrite may replace it


class Note(BaseModel):
    """What export.json must say to be such a sign."""

    format: Literal["lmdb", "webdataset", "folder"]
    corpus_sha256: str
    rows: int
    files: list[str]


def export(corpus: str | os.PathLike, target: str | os.PathLike, format: str, sources: list[str] | None = None, *,
           rows_per_file: int = 10_000, overwrite: bool = False) -> dict:
    """Write a corpus, or some of its sources, to `target` in a format: "lmdb", "webdataset" or "folder".

    Memory holds one row group. It is written beside the target and takes its name when it is whole. Returns what export.json says.
    Raises BadInput for a source that the corpus lacks, a target that may not be written, and a full disk.
    """
    if storage.is_remote(os.fspath(target)):
        raise BadInput(f"--out {target}: expected a folder of this machine, found a URI: export to a disk and copy from there")
    opened, target = Corpus.open(os.fspath(corpus)), Path(storage.absolute(os.fspath(target)))
    chosen = _chosen(opened, sources)
    _check_apart(opened, target)
    with _staging(target, overwrite) as folder:
        writer = _writer(format, opened, chosen, folder, target.name, rows_per_file)
        made = {"format": format, "sources": chosen, "corpus_sha256": opened.sha256, **_copy(opened, chosen, writer)}
        (folder / NOTE).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return made


def _chosen(corpus: Corpus, sources: list[str] | None) -> list[str]:
    known = list(corpus.manifest.sources)
    missing = [name for name in sources or () if name not in known]
    if missing:
        raise BadInput(f"--sources: expected sources of {corpus.path} ({', '.join(known)}), found {missing[0]!r}: correct it")
    return [name for name in known if sources is None or name in sources]


def _check_apart(corpus: Corpus, target: Path) -> None:
    folder = Path(corpus.path).resolve()
    if not storage.is_remote(corpus.path) and (target.resolve().is_relative_to(folder) or folder.is_relative_to(target.resolve())):
        raise BadInput(f"--out {target}: expected a folder apart from the corpus, found one that overlaps with {corpus.path}: "
                       "choose another --out")


def _writer(format: str, corpus: Corpus, sources: list[str], folder: Path, name: str, rows_per_file: int) -> Writer:
    if format == "lmdb":
        return LmdbWriter(str(folder))
    if format == "webdataset":
        return TarWriter(str(folder), name, rows_per_file)
    return FolderWriter(str(folder), as_lines=not _has_line_breaks(corpus, sources))


def _has_line_breaks(corpus: Corpus, sources: list[str]) -> bool:
    return any(pc.any(pc.match_substring_regex(table["text"], BREAKS_LINES)).as_py() for table in _tables(corpus, sources, ["text"]))


def _tables(corpus: Corpus, sources: list[str], columns: list[str]):
    for shard in corpus.manifest.shards:
        if shard.source in sources:
            for index in range(len(shard.row_groups)):
                yield corpus.read_row_group(shard.name, index, columns)


def _copy(corpus: Corpus, sources: list[str], writer: Writer) -> dict:
    total = sum(shard.rows for shard in corpus.manifest.shards if shard.source in sources)
    if not total:
        raise BadInput(f"{corpus.path}: expected images in {', '.join(sources)}, found none: choose other --sources")
    say(f"export: {counted(total, 'image')} from {counted(len(sources), 'source')}")
    progress = Progress("export", total, "images")
    rows = labeled = size = 0
    try:
        for table in _tables(corpus, sources, ["key", "image", "text"]):
            columns = (table[name].to_pylist() for name in ("key", "image", "text"))
            items = [Item(number, *row) for number, row in enumerate(zip(*columns, strict=True), start=rows + 1)]
            writer.write(items)
            rows += len(items)
            labeled += sum(item.text is not None for item in items)
            size += sum(len(item.image) for item in items)
            progress.add(len(items))
    finally:
        progress.close()
    return {"rows": rows, "labeled": labeled, "bytes": size, "files": writer.close()}


@contextmanager
def _staging(target: Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder that takes the name `target` when the block ends well; what was there goes then.

    It lies in TARGET.partial, which only one process may have (the kernel's lock ends with it), and which goes in any case.
    """
    partial = target.with_name(target.name + ".partial")
    new, old = partial / "new", partial / "old"
    _check_ours(partial)
    with storage.held(str(partial), str(target)):
        if old.exists() and not target.exists():  # killed between the two renames below
            os.rename(old, target)
        try:
            _check_target(target, overwrite)
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
            new.mkdir()
            with _room_for(target):
                yield new
            if target.exists():
                os.rename(target, old)
            os.rename(new, target)
        finally:
            shutil.rmtree(partial)


def _check_ours(partial: Path) -> None:
    """What an ingest or somebody else left under such a name is not ours to remove."""
    others = sorted({item.name for item in partial.iterdir()} - {"lock", "new", "old"}) if partial.is_dir() else []
    if others:
        raise BadInput(f"{partial}: expected what an export left, found {others[0]}: choose another --out, or remove that folder")


def _check_target(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / NOTE).is_file():
        raise BadInput(f"{target}: expected a free name or an earlier export ({NOTE}), found something else: choose another --out")
    note = parse_json((target / NOTE).read_bytes(), Note, str(target / NOTE), "this is not the note of an export; choose another --out")
    if not overwrite:
        raise BadInput(f"{target}: expected a free name, found an earlier export: choose another --out, or add --overwrite to replace it")
    others = sorted({item.name for item in target.iterdir()} - {NOTE, "lock.mdb", *note.files})
    if others:
        raise BadInput(f"{target}: expected an export and nothing else, found {others[0]} in its folder: move it, or choose another --out")


@contextmanager
def _room_for(target: Path) -> Iterator[None]:
    """Turns a full disk into BadInput."""
    try:
        yield
    except (OSError, lmdb.DiskError) as problem:
        if isinstance(problem, OSError) and problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(f"{target}: expected room to write it, found the disk full: free some space and run the same command again") \
            from problem
