"""Images in Parquet files of others: a file, a folder of files, or a pattern, train-{00..19}.parquet, with any column names.

    image column    binary, or Hugging Face's struct<bytes: binary, path: string>: options.image_column, or the first of IMAGE_NAMES
                    that is such a column, or the only such column
    text column     strings: options.text_column, or the first of TEXT_NAMES that is such a column. Numbers are class ids and no texts

A set is unlabeled if it has no string column (but names, addresses and the like, NO_LABELS), or if options.text_column is "".
Keys are NAME/FILE/000000001, the number of the row in its file, counted from 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as types

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.ingestion.sources.files import Place, set_of_files, stems
from pipelines.ingestion.sources.labels import TEXT_NAMES as LABEL_NAMES
from pipelines.ingestion.sources.row import ReadOptions, Row

SUFFIXES = (".parquet", ".pq")
IMAGE_NAMES = ("image", "img", "image_bytes", "img_bytes", "bytes", "jpg", "jpeg", "png", "webp", "picture", "crop", "pixel_values",
               "content", "data")
TEXT_NAMES = (*LABEL_NAMES, "transcript", "caption", "ocr", "labels", "string", "value")
NO_LABELS = ("key", "__key__", "__url__", "id", "image_id", "uid", "uuid", "name", "file_name", "filename", "file", "path", "image_path",
             "url", "source", "dataset", "split", "md5", "sha256", "hash", "format", "mode", "language", "lang", "script", "license")
BATCH = 128  # rows in memory at a time


class Columns(NamedTuple):
    """Where the image and its text stand."""

    image: str
    nested: bool  # the image is a struct with `bytes`
    text: str | None


class Run(NamedTuple):
    """Consecutive row groups of one file."""

    path: str
    stem: str  # the file's part of the keys
    first_row: int  # number in the file of the first row, counted from 0
    groups: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class ParquetPiece:
    """Some row groups."""

    source: str
    columns: Columns
    runs: tuple[Run, ...]

    @property
    def rows(self) -> int:
        """Known from the footers."""
        return sum(run.rows for run in self.runs)

    def read(self) -> Iterator[Row]:
        """The rows in the order of the files. Memory holds BATCH rows."""
        for run in self.runs:
            number = run.first_row
            for batch in _batches(run, self.columns):
                for row in _batch_rows(batch, self.columns):
                    number += 1
                    yield row._replace(key=f"{self.source}/{run.stem}/{number:09d}")


@dataclass(frozen=True)
class ParquetSource:
    """A set of Parquet files."""

    name: str
    path: str
    runs: tuple[Run, ...]  # one for each row group
    columns: Columns
    fingerprint: str
    kind: str = "parquet"
    exact: bool = True

    def count(self) -> int:
        """What the footers say."""
        return sum(run.rows for run in self.runs)

    def pieces(self, size: int) -> Iterator[ParquetPiece]:
        """Whole row groups, as many as it takes to reach `size` rows."""
        taken, rows = [], 0
        for run in self.runs:
            if taken and rows + run.rows > size:
                yield self._piece(taken)
                taken, rows = [], 0
            taken.append(run)
            rows += run.rows
        if taken:
            yield self._piece(taken)

    def _piece(self, groups: list[Run]) -> ParquetPiece:
        runs = []
        for run in groups:
            if runs and runs[-1].path == run.path:
                runs[-1] = runs[-1]._replace(groups=runs[-1].groups + run.groups, rows=runs[-1].rows + run.rows)
            else:
                runs.append(run)
        return ParquetPiece(self.name, self.columns, tuple(runs))


def parquet_format(place: Place) -> str | None:
    """"parquet" for a Parquet file, a pattern of them, and a folder in which some lie."""
    names = place.names() if place.is_folder else [place.path]
    return "parquet" if any(name.lower().endswith(SUFFIXES) for name in names) else None


def open_parquet(name: str, place: Place, options: ReadOptions = ReadOptions()) -> ParquetSource:
    """Open a set of Parquet files: reads their footers. Raises BadInput if one is damaged or its columns cannot be told apart."""
    files = set_of_files(place, SUFFIXES)
    runs, columns = [], None
    for stem, path in zip(stems(list(files), SUFFIXES), files, strict=True):
        metadata = _footer(path)
        schema = metadata.schema.to_arrow_schema()
        columns = columns or choose_columns(path, schema, options)
        if choose_columns(path, schema, options) != columns:
            raise BadInput(f"{path}: expected the columns of the files before it ({columns.image}, {columns.text or 'no text'}), found "
                           f"{_listed(schema)}: ingest it as a source of its own")
        first = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if rows:
                runs.append(Run(path, stem, first, (group,), rows))
            first += rows
    if not runs:
        raise BadInput(f"{place.path}: expected rows with images, found none: name another file")
    fingerprint = repr((columns, [(path, *stamp) for path, stamp in files.items()]))
    return ParquetSource(name, place.path, tuple(runs), columns, fingerprint)


def choose_columns(path: str, schema: pa.Schema, options: ReadOptions = ReadOptions()) -> Columns:
    """The image and the text column, by the rules above. Raises BadInput that lists the columns."""
    image = _image_column(path, schema, options.image_column)
    return Columns(image, types.is_struct(schema.field(image).type), _text_column(path, schema, image, options.text_column))


def _image_column(path: str, schema: pa.Schema, asked: str | None) -> str:
    images = [field.name for field in schema if _holds_images(field.type)]
    if asked is not None:
        if asked in images:
            return asked
        raise BadInput(f"{path}: expected encoded images (binary, or a struct with `bytes`) in column {asked}, found {_listed(schema)}: "
                       "correct --image-column")
    chosen = _first_named(images, IMAGE_NAMES) or (images[0] if len(images) == 1 else None)
    if chosen is None:
        raise BadInput(f"{path}: expected a column with encoded images (binary, or a struct with `bytes`) named one of "
                       f"{', '.join(IMAGE_NAMES[:6])} …, or only one, found {_listed(schema)}: name it with --image-column COLUMN")
    return chosen


def _text_column(path: str, schema: pa.Schema, image: str, asked: str | None) -> str | None:
    texts = [field.name for field in schema if _holds_text(field.type) and field.name != image]
    if asked == "":
        return None
    if asked is not None:
        if asked in texts:
            return asked
        raise BadInput(f"{path}: expected texts in column {asked}, found {_listed(schema)}: correct --text-column, "
                       "or say --text-column '' for images without labels")
    if chosen := _first_named(texts, TEXT_NAMES):
        return chosen
    unsure = [name for name in schema.names if name != image and name.lower() in TEXT_NAMES]
    unsure += [name for name in texts if name.lower() not in NO_LABELS and not types.is_binary(schema.field(name).type)]
    if unsure:
        raise BadInput(f"{path}: expected a column of texts named one of {', '.join(TEXT_NAMES[:6])} …, found {_listed(schema)}: name it "
                       "with --text-column COLUMN, or say --text-column '' for images without labels (numbers are class ids, no texts)")
    return None


def _first_named(columns: list[str], wanted: tuple[str, ...]) -> str | None:
    return next((column for name in wanted for column in columns if column.lower() == name), None)


def _holds_images(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        return "bytes" in names and _is_bytes(kind.field(names.index("bytes")).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _holds_text(kind: pa.DataType) -> bool:
    """Strings; also bytes, as some writers leave out that these are UTF-8."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or _is_bytes(kind)


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)[:400]


def _footer(path: str) -> pq.FileMetaData:
    with _opened(path) as file:
        return file.metadata


def _opened(path: str) -> pq.ParquetFile:
    """Without read-ahead of whole column chunks, so that a file of one row group does not fill the memory."""
    try:
        with storage.reaching(path):
            return pq.ParquetFile(storage.open_file(path), pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as problem:
        raise BadInput(f"{path}: expected a Parquet file, found {_first_line(problem)}: copy it again") from problem


def _first_line(problem: Exception) -> str:
    return str(problem).splitlines()[0].rstrip(".")[:200]


def _batches(run: Run, columns: Columns) -> Iterator[pa.RecordBatch]:
    wanted = [columns.image] if columns.text is None else [columns.image, columns.text]
    with _opened(run.path) as file:
        batches = file.iter_batches(batch_size=BATCH, row_groups=list(run.groups), columns=wanted, use_threads=False)
        while True:
            try:
                with storage.reaching(run.path):
                    batch = next(batches, None)
            except (pa.ArrowException, OSError) as problem:
                raise BadInput(f"{run.path}: expected a readable Parquet file, found {_first_line(problem)}: copy it again") from problem
            if batch is None:
                return
            yield batch


def _batch_rows(batch: pa.RecordBatch, columns: Columns) -> Iterator[Row]:
    """The rows of a batch, without keys."""
    images = batch.column(columns.image).to_pylist()
    texts = [None] * batch.num_rows if columns.text is None else _as_bytes(batch.column(columns.text)).to_pylist()
    for image, text in zip(images, texts, strict=True):
        data = image.get("bytes") if columns.nested and image is not None else image
        try:
            found = None if text is None else text.decode("utf-8")
        except UnicodeDecodeError:
            yield Row("", data, None, "label is not UTF-8", repr(text[:80]))
            continue
        if data is None:
            beside = f"path {image['path']}" if columns.nested and image is not None and image.get("path") else "null"
            yield Row("", None, found, "missing image", beside)
        else:
            yield Row("", data, found)


def _as_bytes(column: pa.Array) -> pa.Array:
    """Strings undecoded: one that is not UTF-8 must not end the whole batch."""
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_binary())
