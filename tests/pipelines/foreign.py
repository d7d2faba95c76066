"""What the tests of foreign formats share: files to read, and what a source makes of them."""

from pathlib import Path

import lmdb

from pipelines.ingestion.sources.opening import open_sources
from pipelines.ingestion.sources.row import ReadOptions, Row, Source


def make_lmdb(folder: Path, images: dict[int, bytes], labels: dict[int, bytes] | None = None,
              samples: bytes | None = b"auto",
              lock_file: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for number, image in images.items():
            transaction.put(b"image-%09d" % number, image)
        for number, label in (labels or {}).items():
            transaction.put(b"label-%09d" % number, label)
        if samples is not None:
            transaction.put(b"num-samples", b"%d" % len(images) if samples == b"auto" else samples)
    if not lock_file:
        (folder / "lock.mdb").unlink()
    return folder


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def rows_of(source: Source) -> list[Row]:
    rows = [row for piece in source.pieces(1000) for row in piece.read()]
    assert not source.exact or len(rows) == source.count()
    return rows


def only(path: Path | str, **options) -> Source:
    source, = open_sources([str(path)], ReadOptions(**options))
    return source
