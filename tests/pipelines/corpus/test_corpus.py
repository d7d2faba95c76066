"""The storage format: what is written is read back, and what is damaged is said so."""

import hashlib
import json
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.checksum import with_checksum
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import QUARANTINE, Rejected, rejected_table, write_quarantine
from pipelines.corpus.reader import Corpus, RowGroup
from pipelines.corpus.shards import PARQUET_OPTIONS, SCHEMA, ShardWriter, shard_name
from pipelines.errors import BadInput


def make_shard(folder: Path, source: str = "words", index: int = 0, rows: int = 5, rows_per_group: int = 2):
    with ShardWriter(folder, source, index, rows_per_group) as writer:
        for row in range(rows):
            writer.write(key=f"{source}/{index}-{row}", image=bytes([row] * 40),
                         text=None if row % 2 else f"text {row}", width=10 + row, height=8, phash=2**64 - 1 - row)
    return writer.entry


def footer_bytes(shard: bytes) -> int:
    return int.from_bytes(shard[-8:-4], "little") + 8  # the length stands before the magic number


def edit_manifest(folder: Path, edit, sealed: bool) -> None:
    """Change corpus.json as an editor would; sealed: with a checksum that fits again."""
    tree = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    edit(tree)
    (folder / "corpus.json").write_text(json.dumps(with_checksum(tree) if sealed else tree), encoding="utf-8")


def make_corpus(folder: Path, shards: int = 1) -> Corpus:
    folder.mkdir(exist_ok=True)
    entries = [make_shard(folder, index=index) for index in range(shards)]
    rejected = [Rejected("words/9", "words", "quarantined", "truncated image", "12 bytes", "lost"),
                Rejected("words/10", "words", "filtered", "side too small", "4 x 3 pixels")]
    write_quarantine(folder, [rejected_table(rejected)])
    counts = SourceCounts(rows_in=5 * shards + 2, kept=5 * shards, quarantined=1, filtered=1, labeled=3 * shards,
                          reasons={"truncated image": 1, "side too small": 1})
    write_manifest(folder, reversed(entries), {"words": counts}, {"command": "test"})
    return Corpus.open(folder)


def test_what_is_written_is_read_back(tmp_path):
    corpus = make_corpus(tmp_path / "c")
    assert corpus.rows == 5
    assert corpus.row_groups == [RowGroup("part-words-00000.parquet", 0, 2), RowGroup("part-words-00000.parquet", 1, 2),
                                 RowGroup("part-words-00000.parquet", 2, 1)]
    table = corpus.read_row_group("part-words-00000.parquet", 1)
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist()[1] == {"key": "words/0-3", "image": bytes([3] * 40), "text": None, "source": "words",
                                    "width": 13, "height": 8, "phash": 2**64 - 4, "confidence": None, "labeler": None}


def test_pseudo_labels_have_their_own_columns(tmp_path):
    with ShardWriter(tmp_path, "s", 0) as writer:
        writer.write(key="s/1", image=b"x", text="read", width=1, height=1, phash=0, confidence=0.5, labeler="crnn@7")
    row = pq.read_table(tmp_path / writer.entry.name).to_pylist()[0]
    assert (row["text"], row["confidence"], row["labeler"]) == ("read", 0.5, "crnn@7")


def test_iteration_gives_every_row_once_and_only_the_columns_asked_for(tmp_path):
    corpus = make_corpus(tmp_path / "c", shards=3)
    tables = list(corpus.rows_iter(["key", "width"]))
    assert [table.num_rows for table in tables] == [2, 2, 1] * 3
    assert tables[0].column_names == ["key", "width"]
    keys = pa.concat_tables(tables)["key"].to_pylist()
    assert keys == [f"words/{shard}-{row}" for shard in range(3) for row in range(5)]


def test_rejected_rows_are_read_back_with_their_reason(tmp_path):
    corpus = make_corpus(tmp_path / "c")
    rows = [row for table in corpus.quarantine_iter() for row in table.to_pylist()]
    assert rows[0] == {"key": "words/9", "source": "words", "kind": "quarantined", "reason": "truncated image",
                       "detail": "12 bytes", "text": "lost", "image": None, "match": None}
    assert [row["kind"] for row in rows] == ["quarantined", "filtered"]


def test_the_manifest_holds_counts_hashes_and_row_groups(tmp_path):
    corpus = make_corpus(tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / "corpus.json").read_text(encoding="utf-8"))
    shard = (tmp_path / "c" / "part-words-00000.parquet").read_bytes()
    assert manifest["shards"] == [{"name": "part-words-00000.parquet", "source": "words", "rows": 5,
                                   "bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest(),
                                   "row_groups": [2, 2, 1], "footer_sha256": hashlib.sha256(shard[-footer_bytes(shard):]).hexdigest()}]
    assert manifest["sources"]["words"] == {"in": 7, "kept": 5, "duplicates": 0, "quarantined": 1, "filtered": 1, "labeled": 3,
                                            "reasons": {"truncated image": 1, "side too small": 1}}
    assert corpus.sha256 == hashlib.sha256((tmp_path / "c" / "corpus.json").read_bytes()).hexdigest()


def test_two_writes_of_the_same_rows_are_byte_identical(tmp_path):
    make_corpus(tmp_path / "a", shards=2)
    make_corpus(tmp_path / "b", shards=2)
    files = {folder: {file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()} for folder in "ab"}
    assert files["a"] == files["b"]
    assert sorted(files["a"]) == ["corpus.json", "part-words-00000.parquet", "part-words-00001.parquet", QUARANTINE]


def test_images_are_stored_plain(tmp_path):
    entry = make_shard(tmp_path)
    column = pq.ParquetFile(tmp_path / entry.name).metadata.row_group(0).column(SCHEMA.names.index("image"))
    assert (column.compression, column.statistics, "PLAIN" in column.encodings) == ("UNCOMPRESSED", None, True)
    assert not any("DICTIONARY" in encoding for encoding in column.encodings)


def test_a_corpus_travels_to_other_processes(tmp_path):
    corpus = make_corpus(tmp_path / "c")
    corpus.read_row_group("part-words-00000.parquet", 0)
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.read_row_group("part-words-00000.parquet", 2, ["key"]).to_pylist() == [{"key": "words/0-4"}]
    assert copy.sha256 == corpus.sha256


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "s", 0) as writer:
        writer.write(key="s/1", image=b"x", text=None, width=1, height=1, phash=0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    assert writer.entry is None


@pytest.mark.parametrize("source, name", [("SVT", "part-SVT-00003.parquet"),
                                          ("a b", "part-a_b-c8687a08-00003.parquet")])
def test_shard_names_are_safe_file_names(source, name):
    assert shard_name(source, 3) == name


def test_sources_that_differ_only_in_unsafe_characters_get_different_shards():
    assert len({shard_name(source, 0) for source in ("a/b", "a b", "a_b", "ä", "ö", "x" * 200, "x" * 201)}) == 7


def test_counts_that_do_not_add_up_are_refused(tmp_path):
    entry = make_shard(tmp_path)
    with pytest.raises(ValueError, match="in = kept"):
        write_manifest(tmp_path, [entry], {"words": SourceCounts(rows_in=6, kept=5)}, {})
    with pytest.raises(ValueError, match="5 rows kept"):
        write_manifest(tmp_path, [entry], {"words": SourceCounts(rows_in=4, kept=4)}, {})


@pytest.mark.parametrize("damage, message", [
    (lambda folder: (folder / "corpus.json").unlink(), "found no corpus.json: make one with `textray ingest"),
    (lambda folder: (folder / "corpus.json").write_text("{}", encoding="utf-8"),
     "corpus.json: expected a value for rows, found none: this is not the manifest of a corpus"),
    (lambda folder: (folder / "corpus.json").write_text("[1", encoding="utf-8"), "corpus.json: expected JSON, found text that is not JSON or ends too early"),
    (lambda folder: (folder / "part-words-00000.parquet").unlink(),
     "part-words-00000.parquet with .* found no such file"),
    (lambda folder: (folder / "part-words-00000.parquet").write_bytes(b"PAR1"), "found 4 bytes"),
])
def test_what_is_not_a_whole_corpus_is_refused(tmp_path, damage, message):
    make_corpus(tmp_path / "c")
    damage(tmp_path / "c")
    with pytest.raises(BadInput, match=message):
        Corpus.open(tmp_path / "c")


def test_a_missing_folder_and_a_later_schema_are_refused(tmp_path):
    with pytest.raises(BadInput, match="found no such folder"):
        Corpus.open(tmp_path / "nowhere")
    make_corpus(tmp_path / "c")
    manifest = (tmp_path / "c" / "corpus.json")
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"schema_version": 3', '"schema_version": 4'), encoding="utf-8")
    with pytest.raises(BadInput, match="expected a corpus of schema version 2 to 3, found 4"):
        Corpus.open(tmp_path / "c")


def readings(corpus: Corpus) -> list:
    return [table.to_pylist() for table in corpus.rows_iter()]


def test_no_flipped_bit_changes_a_reading(tmp_path):
    """One bit of every byte, in pages, headers and footer: what is read is what was written, or one sentence that names the shard."""
    corpus = make_corpus(tmp_path / "c")
    file, before = tmp_path / "c" / "part-words-00000.parquet", readings(corpus)
    whole, noticed = file.read_bytes(), 0
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1:])
        try:
            assert readings(Corpus.open(tmp_path / "c")) == before, place
        except BadInput as problem:
            noticed += 1
            assert re.fullmatch(r"\S+/c: expected the shard part-words-00000.parquet as it was written, found .*: copy it again from where it is "
                                r"whole, or ingest the sources again; `textray verify \S+/c` says what else is damaged", str(problem)), place
    assert noticed > len(whole) * 2 / 3  # the rest is in what no reader needs, such as statistics of page headers


def test_a_shard_that_was_cut_replaced_or_removed_while_it_is_open_is_named(tmp_path):
    corpus = make_corpus(tmp_path / "c", shards=2)
    file = tmp_path / "c" / "part-words-00000.parquet"
    for spoil in (lambda: file.write_bytes(file.read_bytes()[:900]), lambda: file.write_bytes(b""), file.unlink):
        spoil()
        with pytest.raises(BadInput, match="expected the shard part-words-00000.parquet as it was written, found"):
            corpus.read_row_group("part-words-00000.parquet", 1)
    assert corpus.read_row_group("part-words-00001.parquet", 1, ["key"]).num_rows == 2


EDITS = [
    lambda tree: tree.update(rows=6),
    lambda tree: tree["shards"][0].update(rows=4),
    lambda tree: tree["shards"][0].update(row_groups=[2, 2]),
    lambda tree: tree["shards"][0].update(row_groups=[3, 3, -1]),
    lambda tree: tree["shards"][0].update(source="others"),
    lambda tree: tree["shards"].append(tree["shards"][0]),
    lambda tree: tree["sources"]["words"].update(kept=4),
    lambda tree: tree["sources"]["words"].update(labeled=6),
    lambda tree: tree["sources"]["words"].update(reasons={"truncated image": 2, "side too small": 1}),
    lambda tree: tree["sources"].pop("words"),
]


@pytest.mark.parametrize("edit", [*EDITS, lambda tree: tree["made_by"].update(command="ingest"),
                                  lambda tree: tree["sources"]["words"].update(labeled=2), lambda tree: tree.update(checksum="0" * 64)])
def test_an_edited_manifest_is_not_believed(tmp_path, edit):
    make_corpus(tmp_path / "c")
    edit_manifest(tmp_path / "c", edit, sealed=False)
    with pytest.raises(BadInput, match="corpus.json: expected what was written when the corpus was made, found another checksum than its own: it was"):
        Corpus.open(tmp_path / "c")


@pytest.mark.parametrize("edit", EDITS)
def test_counts_that_contradict_each_other_are_not_believed_whatever_the_checksum(tmp_path, edit):
    make_corpus(tmp_path / "c")
    edit_manifest(tmp_path / "c", edit, sealed=True)
    with pytest.raises(BadInput, match="corpus.json: expected what was written when the corpus was made, found .*: it was edited or damaged"):
        Corpus.open(tmp_path / "c")


def test_a_manifest_that_was_only_laid_out_anew_is_the_same(tmp_path):
    corpus = make_corpus(tmp_path / "c")
    edit_manifest(tmp_path / "c", lambda tree: None, sealed=False)
    assert Corpus.open(tmp_path / "c").manifest == corpus.manifest


def test_row_groups_that_differ_from_the_manifest_are_noticed_when_read(tmp_path):
    make_corpus(tmp_path / "c")
    edit_manifest(tmp_path / "c", lambda tree: tree["shards"][0].update(row_groups=[2, 1, 2]), sealed=True)
    corpus = Corpus.open(tmp_path / "c")
    with pytest.raises(BadInput, match="found row group 1 with 2 rows of key"):
        corpus.read_row_group("part-words-00000.parquet", 1, ["key"])


def test_a_corpus_from_before_there_were_checksums_opens(tmp_path, monkeypatch):
    monkeypatch.setitem(PARQUET_OPTIONS, "write_page_checksum", False)
    make_corpus(tmp_path / "c")

    def as_before(tree: dict) -> None:
        del tree["checksum"], tree["shards"][0]["footer_sha256"]

    edit_manifest(tmp_path / "c", as_before, sealed=False)
    assert [row["key"] for table in Corpus.open(tmp_path / "c").rows_iter() for row in table.to_pylist()] == [f"words/0-{row}" for row in range(5)]
    edit_manifest(tmp_path / "c", EDITS[0], sealed=False)
    with pytest.raises(BadInput, match="found 6 rows and 5 in its shards"):
        Corpus.open(tmp_path / "c")
