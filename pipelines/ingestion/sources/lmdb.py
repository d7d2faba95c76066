"""Word images in an LMDB, as the field's toolkits write them (Baek et al. 2019; recognizer conventions, "LMDB").

    num-samples          decimal count
    image-%09d           encoded image, counted from 1 without gaps
    label-%09d           UTF-8 text; missing in unlabeled sets
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import lmdb

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import Place
from pipelines.ingestion.sources.row import ReadOptions, Row, Span, spans

DATA = "data.mdb"
IMAGE_KEY = re.compile(rb"image-(\d{9})")


def lmdb_format(place: Place) -> str | None:
    """"lmdb" for a folder that holds an LMDB, and for its data file. Its lock file is not needed."""
    names = place.files if place.is_folder else [os.path.basename(place.path)]
    return "lmdb" if DATA in names else None


@dataclass(frozen=True)
class LmdbSource:
    """An LMDB of word images. One at a time can be read in a process: LMDB maps a file only once."""

    name: str
    path: str
    samples: int
    fingerprint: str
    first: int = 1  # the number in the first image's key
    kind: str = "lmdb"
    exact: bool = True

    def count(self) -> int:
        """What num-samples says, or the keys if it is missing."""
        return self.samples

    def pieces(self, size: int) -> Iterator[Span]:
        """Pieces of `size` images."""
        return spans(self, size)

    def part(self, start: int, stop: int) -> "LmdbSource":
        """The source itself, which holds nothing but a path."""
        return self

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Rows start to stop, counted from 0 (keys usually from 1), in one pass of two cursors."""
        start, stop = start + self.first, stop + self.first
        with _transaction(self.path) as transaction:
            images = _values(transaction, b"image-%09d", start, stop)
            labels = _values(transaction, b"label-%09d", start, stop)
            for number, image, label in zip(range(start, stop), images, labels, strict=True):
                yield self._row(number, image, label)

    def _row(self, number: int, image: bytes | None, label: bytes | None) -> Row:
        key = f"{self.name}/{number:09d}"
        if image is None:
            return Row(key, None, problem="missing image", detail=f"no key image-{number:09d}")
        try:
            return Row(key, image, None if label is None else label.decode("utf-8"))
        except UnicodeDecodeError:
            return Row(key, None, problem="label is not UTF-8", detail=repr(label[:80]))


def open_lmdb(name: str, place: Place, options: ReadOptions = ReadOptions()) -> LmdbSource:
    """Open the LMDB in a folder. Raises BadInput if it is damaged, or if its images are not 1 to num-samples.

    With `allow_holes` a missing image is a row with a problem instead, images beyond num-samples are left out, an LMDB that counts
    from 0 is read from 0, and without num-samples the highest key counts. Otherwise all keys are walked over once.
    """
    folder = place.path if place.is_folder else os.path.dirname(place.path)
    if storage.is_remote(folder):
        raise BadInput(f"{folder}: expected an LMDB on this machine, found one in an object store: LMDBs are mapped into memory, "
                       "copy it to a local disk first")
    if not os.path.isfile(os.path.join(folder, DATA)):
        raise BadInput(f"{folder}: expected an LMDB, found no {DATA}: name the folder that holds it")
    with _transaction(folder) as transaction:
        if options.allow_holes:
            first, samples = _range_with_holes(folder, transaction)
        else:
            first, samples = 1, _num_samples(folder, transaction)
            _check_keys(folder, transaction, samples)
    status = os.stat(os.path.join(folder, DATA))
    return LmdbSource(name, folder, samples, f"{status.st_size} bytes, changed {status.st_mtime_ns}", first)


@contextmanager
def _transaction(folder: str) -> Iterator[lmdb.Transaction]:
    """A read-only look at an LMDB that needs no lock file and writes nothing: also on read-only media."""
    try:
        with lmdb.open(folder, readonly=True, lock=False, create=False, subdir=True, max_dbs=0) as environment:
            _check_length(folder, environment)
            with environment.begin() as transaction:
                yield transaction
    except lmdb.Error as problem:
        raise BadInput(f"{folder}: expected a readable LMDB, found {problem}: copy it again") from problem


def _check_length(folder: str, environment: lmdb.Environment) -> None:
    """Reading a page beyond the end of a cut-off file would kill the process (SIGBUS)."""
    found = os.path.getsize(os.path.join(folder, DATA))
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if found < expected:
        raise BadInput(f"{folder}/{DATA}: expected at least {expected} bytes, found {found}: "
                       "the file is cut off, copy it again")


def _num_samples(folder: str, transaction: lmdb.Transaction) -> int:
    value = transaction.get(b"num-samples")
    if value is None:
        raise BadInput(f"{folder}: expected an LMDB of images with the key num-samples, found {_example_keys(transaction)}: "
                       "write the number of images under num-samples, or add --allow-holes to bring in the images up to the highest key")
    if not value.isdigit() or int(value) == 0:
        raise BadInput(f"{folder}: expected the number of images under num-samples, found {value[:40]!r}: "
                       "correct it, or make the LMDB again")
    return int(value)


def _range_with_holes(folder: str, transaction: lmdb.Transaction) -> tuple[int, int]:
    """(number of the first image, number of images)."""
    highest = _highest(transaction)
    if highest is None:
        raise BadInput(f"{folder}: expected images under keys like image-000000001, found {_example_keys(transaction)}: "
                       "name another LMDB, or make it again")
    from_zero = transaction.cursor().set_key(b"image-000000000")
    if transaction.get(b"num-samples") is None:
        return (0, highest + 1) if from_zero else (1, highest)
    samples = _num_samples(folder, transaction)
    return (0 if from_zero and highest < samples else 1), samples


def _highest(transaction: lmdb.Transaction) -> int | None:
    """The highest number of an image."""
    cursor = transaction.cursor()
    walk = cursor.iterprev(values=False) if cursor.set_range(b"image-:") or cursor.last() else iter(())  # ":" follows "9"
    for key in walk:
        if found := IMAGE_KEY.fullmatch(key):
            return int(found[1])
        if key < b"image-":
            break
    return None


def _example_keys(transaction: lmdb.Transaction) -> str:
    walk = transaction.cursor().iternext(values=False)
    keys = [key.decode("utf-8", "backslashreplace") for key in islice(walk, 3)]
    return f"keys like {', '.join(keys)}" if keys else "no keys"


def _check_keys(folder: str, transaction: lmdb.Transaction, samples: int) -> None:
    missing, first = 0, 0
    # Without values the walk stays in the tree's own pages and touches no image.
    for number, present in enumerate(_present(transaction, b"image-%09d", 1, samples + 1), start=1):
        if not present:
            missing, first = missing + 1, first or number
    cursor = transaction.cursor()
    if missing:
        from_zero = " (it counts from image-000000000)" if cursor.set_key(b"image-000000000") else ""
        raise BadInput(f"{folder}: expected images 1 to {samples}, as num-samples says, found {missing} missing, "
                       f"the first is image-{first:09d}{from_zero}: make the LMDB again, "
                       "or add --allow-holes to bring in the others")
    if cursor.set_key(b"image-%09d" % (samples + 1)):
        raise BadInput(f"{folder}: expected images 1 to {samples}, as num-samples says, "
                       f"found image-{samples + 1:09d} too: "
                       "correct num-samples, or add --allow-holes to leave out what is beyond it")


def _present(transaction: lmdb.Transaction, pattern: bytes, start: int, stop: int) -> Iterator[bool]:
    keys = transaction.cursor()
    walk = keys.iternext(keys=True, values=False) if keys.set_range(pattern % start) else iter(())
    found = next(walk, None)
    for number in range(start, stop):
        key = pattern % number
        while found is not None and found < key:  # foreign keys in between
            found = next(walk, None)
        yield found == key


def _values(transaction: lmdb.Transaction, pattern: bytes, start: int, stop: int) -> Iterator[bytes | None]:
    """The values of consecutive keys, None for a missing one. A cursor knows no gaps, so each key is compared."""
    cursor = transaction.cursor()
    walk = cursor.iternext() if cursor.set_range(pattern % start) else iter(())
    found, value = next(walk, (None, None))
    for number in range(start, stop):
        key = pattern % number
        while found is not None and found < key:
            found, value = next(walk, (None, None))
        yield value if found == key else None
