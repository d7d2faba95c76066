"""The formats that `textray export` writes, one class each: rows go in one after another, in the order of the corpus.

    lmdb          num-samples, image-%09d, label-%09d, counted from 1
    webdataset    NAME-000000.tar …: KEY.jpg (or .png …, by the image's bytes), and KEY.txt if it has a text
    folder        images/000000/000000001.jpg …, and labels.tsv, or labels.jsonl where texts hold tabs or line breaks
"""

import io
import json
import os
import re
import tarfile
from typing import NamedTuple, Protocol

import lmdb

from pipelines.corpus.image_formats import ENDINGS, format_of
from pipelines.ingestion.sources.labels import file_of_text

COMMIT_ROWS = 1000
FIRST_MAP = 1 << 26  # bytes; doubled as often as needed
FILES_PER_FOLDER = 10_000
BREAKS_LINES = r"[\t\n\r]"  # what a text in labels.tsv must not hold


class Item(NamedTuple):
    """One row of a corpus, as it is given away."""

    number: int  # counted from 1
    key: str
    image: bytes
    text: str | None


class Writer(Protocol):
    """Writes rows into an empty folder; its last step is `close`."""

    def write(self, items: list[Item]) -> None:
        """Append rows."""
        ...

    def close(self) -> list[str]:
        """Finish; the names of the files or folders that were made, relative to the folder."""
        ...


def ending(image: bytes, key: str) -> str:
    """The file ending of an image by its first bytes; the key's, if these are unknown."""
    format = format_of(image)
    return format.endings[0] if format else next((ending for ending in ENDINGS if key.lower().endswith(ending)), ".img")


class LmdbWriter:
    """One LMDB. A transaction is COMMIT_ROWS rows, so that memory does not grow with the corpus."""

    def __init__(self, folder: str):
        self._size = FIRST_MAP
        # The folder gets its name when it is whole, so that syncing once is enough; nobody else reads it, so no lock.
        self._environment = lmdb.open(folder, map_size=self._size, lock=False, sync=False, metasync=False)
        self._pending: list[tuple[bytes, bytes]] = []
        self._rows = 0

    def write(self, items: list[Item]) -> None:
        """Append rows."""
        for item in items:
            self._pending.append((b"image-%09d" % item.number, item.image))
            if item.text is not None:
                self._pending.append((b"label-%09d" % item.number, item.text.encode("utf-8")))
            self._rows += 1
            if self._rows % COMMIT_ROWS == 0:
                self._commit()

    def _commit(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._pending:
                        transaction.put(key, value)
                break
            except lmdb.MapFullError:
                self._size *= 2
                self._environment.set_mapsize(self._size)
        self._pending = []

    def close(self) -> list[str]:
        """Write the number of rows and bring everything to the disk."""
        self._pending.append((b"num-samples", b"%d" % self._rows))
        self._commit()
        self._environment.sync(True)
        self._environment.close()
        return ["data.mdb"]


class TarWriter:
    """WebDataset shards of `rows_per_file` samples, without times and owners: the same corpus gives the same bytes."""

    def __init__(self, folder: str, name: str, rows_per_file: int):
        self._folder, self._name, self._rows_per_file = folder, name, rows_per_file
        self._files: list[str] = []
        self._tar: tarfile.TarFile | None = None
        self._rows = 0

    def write(self, items: list[Item]) -> None:
        """Append rows."""
        for item in items:
            if self._rows % self._rows_per_file == 0:
                self._next()
            self._rows += 1
            key = sample_key(item.key)
            self._add(key + ending(item.image, item.key), item.image)
            if item.text is not None:
                self._add(f"{key}.txt", file_of_text(item.text))
            self._tar.members = []  # the module keeps every header otherwise

    def _next(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self._files.append(f"{self._name}-{len(self._files):06d}.tar")
        self._tar = tarfile.open(os.path.join(self._folder, self._files[-1]), "w", format=tarfile.GNU_FORMAT, encoding="utf-8")

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # time, owner and group are 0 and ""
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> list[str]:
        """Finish the last shard."""
        if self._tar is not None:
            self._tar.close()
        return self._files


def sample_key(key: str) -> str:
    """A corpus key as the name of a sample, which ends at the first dot of its last part, and whose parts are not hidden.

    Different keys give different names: a dot in the last part, a leading dot and % itself are written as in URIs.
    """
    *folders, base = key.replace("%", "%25").split("/")
    return "/".join([re.sub(r"^\.", "%2E", folder) for folder in folders] + [base.replace(".", "%2E")])


class FolderWriter:
    """Loose files, and one label file for those with a text."""

    def __init__(self, folder: str, as_lines: bool):
        self._folder = folder
        self._name = "labels.tsv" if as_lines else "labels.jsonl"
        self._labels: io.TextIOWrapper | None = None
        self._made: set[str] = set()

    def write(self, items: list[Item]) -> None:
        """Append rows."""
        for item in items:
            inside = f"images/{(item.number - 1) // FILES_PER_FOLDER:06d}"
            if inside not in self._made:
                os.makedirs(os.path.join(self._folder, inside))
                self._made.add(inside)
            path = f"{inside}/{item.number:09d}{ending(item.image, item.key)}"
            with open(os.path.join(self._folder, path), "wb") as file:
                file.write(item.image)
            if item.text is not None:
                self._label(path, item)

    def _label(self, path: str, item: Item) -> None:
        if self._labels is None:
            self._labels = open(os.path.join(self._folder, self._name), "w", encoding="utf-8", newline="\n")
        if self._name.endswith(".tsv"):
            self._labels.write(f"{path}\t{item.text}\n")
        else:
            self._labels.write(json.dumps({"file_name": path, "text": item.text, "key": item.key}, ensure_ascii=False) + "\n")

    def close(self) -> list[str]:
        """Finish the label file; there is none if no row has a text."""
        if self._labels is None:
            return ["images"]
        self._labels.close()
        return ["images", self._name]
