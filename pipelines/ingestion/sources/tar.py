"""WebDataset: tars whose consecutive members that share a name up to the first dot of the base name are one sample.

    000017.jpg             the image, by its ending (IMAGE_SUFFIXES); where none ends so, by its first bytes
    000017.txt             its text: the first of .txt, .gt.txt, .lab, and .json with text, transcription or label; none: unlabeled

A set is a folder that holds *.tar or *.tar.gz, one such file, or a pattern, train-{0000..0099}.tar. Keys are NAME/TAR/SAMPLE.
"""

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.corpus import storage
from pipelines.corpus.image_formats import image_format
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import Place, is_hidden, is_image_name, printable, set_of_files, stems
from pipelines.ingestion.sources.labels import text_of_file
from pipelines.ingestion.sources.row import ReadOptions, Row
from pipelines.ingestion.sources.tar_members import BrokenTar, Member, TarReader

SUFFIXES = (".tar", ".tar.gz", ".tgz")
TEXT_ENDINGS = ("txt", "gt.txt", "lab", "json")  # the first that is there counts
JSON_NAMES = ("text", "transcription", "label")
TABLE = pa.schema([("key", pa.string()), ("image", pa.binary()), ("text", pa.string()), ("problem", pa.string()), ("detail", pa.string())])
ROWS_PER_TABLE = 256
BYTES_PER_TABLE = 1 << 25  # of images, with many large ones
MEMBERS_SAMPLED = 64  # to estimate how many samples the tars hold
BYTES_PER_SAMPLE = 10_000  # where there is nothing to sample


@dataclass
class Sample:
    """Consecutive members of one name."""

    key: str
    images: list[Member] = field(default_factory=list)
    texts: dict[str, Member] = field(default_factory=dict)  # by ending
    others: list[Member] = field(default_factory=list)  # with the data of those that begin like an image

    def add(self, member: Member, ending: str) -> None:
        """Take in a member."""
        if is_image_name(member.name):
            self.images.append(member)
        elif ending in TEXT_ENDINGS:
            self.texts.setdefault(ending, member)
        else:
            self.others.append(member if _is_image(member) else member._replace(data=None))

    def row(self) -> Row:
        """The sample as a row."""
        key = printable(self.key)
        images = self.images or [member for member in self.others if member.data is not None]
        if not images:
            found = ", ".join(member.name for member in (*self.texts.values(), *self.others))
            return Row(key, None, None, "no image in sample", printable(found)[:200])
        image = images[0]
        if image.data is None:
            return Row(key, None, None, "image too large", f"{image.size} bytes")
        if len(images) > 1:
            return Row(key, image.data, None, "two images in one sample", printable(", ".join(one.name for one in images))[:200])
        return Row(key, image.data, *self._text())

    def _text(self) -> tuple[str | None, str | None, str]:
        """The text, what is wrong with it, and what was found."""
        ending = next((ending for ending in TEXT_ENDINGS if ending in self.texts), None)
        if ending is None:
            return None, None, ""
        data = self.texts[ending].data
        if data is None:
            return None, "label is not text", f"{self.texts[ending].size} bytes"
        try:
            return (text_of_file(data), None, "") if ending != "json" else _json_text(data)
        except UnicodeDecodeError:
            return None, "label is not UTF-8", repr(data[:80])


def _is_image(member: Member) -> bool:
    return member.data is not None and image_format(member.data) is not None


def _json_text(data: bytes) -> tuple[str | None, str | None, str]:
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return None, "malformed JSON", repr(data[:80])
    text = next((found[name] for name in JSON_NAMES if found.get(name) is not None), None)
    if text is not None and not isinstance(text, str):
        return None, "label is not text", repr(text)[:80]
    if text is not None and not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        return None, "label is not UTF-8", ascii(text)[:80]
    return text, None, ""


def tar_tables(path: str, rows_per_table: int = ROWS_PER_TABLE, allow_holes: bool = False) -> Iterator[pa.Table]:
    """The samples of a tar as tables with the columns of TABLE, in the order of the archive; `path` may be a URI.

    Memory holds one table, of at most `rows_per_table` rows and about 32 MB of images, and 80 bytes for each key, to find those that
    come twice. Raises BadInput for an archive that is damaged or ends too early; with `allow_holes` its last row says so instead.
    """
    rows, size = [], 0
    for row in _rows(path, allow_holes):
        rows.append(row[:5])
        size += len(row.image or b"")
        if len(rows) == rows_per_table or size >= BYTES_PER_TABLE:
            yield _table(rows)
            rows, size = [], 0
    if rows:
        yield _table(rows)


def _table(rows: list[tuple]) -> pa.Table:
    return pa.table([pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), TABLE, strict=True)], schema=TABLE)


def _rows(path: str, allow_holes: bool) -> Iterator[Row]:
    sample, seen = None, set()
    with _reader(path) as reader:
        try:
            for member, base, ending in _sample_members(reader):
                if sample is None or sample.key != base:
                    if sample is not None:
                        yield _once(sample.row(), seen)
                    sample = Sample(base)
                sample.add(member, ending)
        except BrokenTar as problem:
            if not allow_holes:
                raise BadInput(f"{path}: expected a whole tar, found {problem}: copy it again, or add --allow-holes to bring in "
                               "what comes before") from problem
            image = sample.images[0].data if sample is not None and sample.images else None
            yield Row(printable(sample.key) if sample else "", image, None, "truncated tar", str(problem))
            return
    if sample is not None:
        yield _once(sample.row(), seen)


def _once(row: Row, seen: set[int]) -> Row:
    """The row, with a key of its own if its sample's name stood in the archive before."""
    found = hash(row.key)  # 64 bits: that two of a million keys agree by chance happens in one of 40 million tars
    if found not in seen:
        seen.add(found)
        return row
    return row._replace(problem=row.problem or "sample named twice", detail=row.detail or "an earlier sample has this name")


@contextmanager
def _reader(path: str) -> Iterator[TarReader]:
    try:
        with storage.reaching(path), storage.open_stream(path) as stream:
            yield TarReader(stream)
    except OSError as problem:
        raise BadInput(f"{path}: expected a readable tar, found {problem.strerror or problem}: correct its permissions or bring it "
                       "back") from problem


def _sample_members(reader: TarReader) -> Iterator[tuple[Member, str, str]]:
    """(member, sample's name, ending in small letters) of the members that belong to samples: not of a README, which has no dot."""
    for member in reader.members(lambda name: not is_hidden(posixpath.normpath(name))):
        name = posixpath.normpath(member.name)
        if is_hidden(name):
            continue
        folder, base = posixpath.split(name)
        stem, dot, ending = base.partition(".")
        if dot or _is_image(member):
            yield member, posixpath.join(folder, stem), ending.lower()


@dataclass(frozen=True)
class TarPiece:
    """One tar."""

    source: str
    stem: str  # the tar's part of the keys
    path: str
    allow_holes: bool
    rows: int | None = None  # a tar has no table of contents

    def read(self) -> Iterator[Row]:
        """Its samples, in the order of the archive."""
        for table in tar_tables(self.path, allow_holes=self.allow_holes):
            for key, *rest in zip(*(column.to_pylist() for column in table.columns), strict=True):
                yield Row("/".join(filter(None, (self.source, self.stem, key))), *rest)


@dataclass(frozen=True)
class TarSource:
    """A set of tars."""

    name: str
    path: str
    tars: tuple[TarPiece, ...]
    estimate: int
    fingerprint: str
    kind: str = "tar"
    exact: bool = False

    def count(self) -> int:
        """An estimate, from the number of bytes and the first samples."""
        return self.estimate

    def pieces(self, size: int) -> Iterator[TarPiece]:
        """One tar each, whatever the size."""
        return iter(self.tars)


def tar_format(place: Place) -> str | None:
    """"tar" for a tar, a pattern of tars, and a folder in which some lie."""
    names = place.names() if place.is_folder else [place.path]
    return "tar" if any(name.lower().endswith(SUFFIXES) for name in names) else None


def open_tars(name: str, place: Place, options: ReadOptions) -> TarSource:
    """Open a set of tars. Reads the beginning of the first. Raises BadInput if one is missing or the first is no tar."""
    files = set_of_files(place, SUFFIXES)
    pieces = tuple(TarPiece(name, stem, path, options.allow_holes) for stem, path in zip(stems(list(files), SUFFIXES), files, strict=True))
    fingerprint = repr([(path, *stamp) for path, stamp in files.items()])
    return TarSource(name, place.path, pieces, _estimate([stamp.size for stamp in files.values()], pieces[0]), fingerprint)


def _estimate(sizes: list[int], first: TarPiece) -> int:
    samples, members, whole = set(), 0, True
    with _reader(first.path) as reader:
        try:
            for _, base, _ in _sample_members(reader):
                samples.add(base)
                members += 1
                if members == MEMBERS_SAMPLED:
                    whole = False
                    break
        except BrokenTar as problem:
            if not first.allow_holes:
                raise BadInput(f"{first.path}: expected a whole tar, found {problem}: copy it again, or add --allow-holes to bring in "
                               "what comes before") from problem
        read = sizes[0] if whole else reader.offset
    return round(sum(sizes) / (read / len(samples) if samples else BYTES_PER_SAMPLE))
