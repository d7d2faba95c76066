"""Files on this machine and in object stores: servers that speak S3's and Google's protocols on loopback."""

import hashlib
import os
from pathlib import Path

import boto3
import cv2
import numpy as np
import pytest

from killing import Killed, killing
from pipelines.cli import run
from pipelines.corpus import storage
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.feed.selection import Selection
from pipelines.feed.stream import Share, open_stream
from pipelines.feed.windows import local_blocks
from pipelines.ingestion import pipeline
from pipelines.ingestion.chunks import Options
from pipelines.ingestion.pipeline import ingest
from pipelines.ingestion.staging import StoreStaging

SMALL = Options(rows_per_shard=10, rows_per_group=4)


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 6, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (60, 20), interpolation=cv2.INTER_CUBIC))[1].tobytes()


@pytest.fixture(scope="module")
def server(stores):
    """A client of the S3-compatible server."""
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")


@pytest.fixture
def bucket(server, request) -> str:
    """An empty bucket."""
    name = f"words-{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
    server.create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["s3", "gs"])
def place(request) -> str:
    """An empty folder in a store of each kind."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/a"
    request.getfixturevalue("stores")
    return f"gs://words/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


@pytest.fixture
def words(tmp_path) -> Path:
    """25 labeled pictures in a folder."""
    folder = tmp_path / "words"
    folder.mkdir()
    for number in range(25):
        (folder / f"{number:02}.jpg").write_bytes(jpeg(number))
    (folder / "labels.tsv").write_text("".join(f"{number:02}.jpg\tw{number}\n" for number in range(25)), encoding="utf-8")
    return folder


def objects(server, bucket: str) -> dict[str, bytes]:
    found = server.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {entry["Key"]: server.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() for entry in found if not entry["Key"].endswith("/")}


def test_files_are_written_read_listed_moved_and_removed(place):
    storage.write_bytes(f"{place}/x/1.txt", b"one")
    storage.write_bytes(f"{place}/2.txt", b"two")
    assert storage.read_bytes(f"{place}/x/1.txt") == b"one"
    assert [(entry.path, entry.size) for entry in storage.list_files(place)] == [("2.txt", 3), ("x/1.txt", 3)]
    assert storage.file_sizes(place) == {"2.txt": 3} and storage.list_names(place) == ["2.txt", "x"]
    assert [storage.kind(f"{place}/{name}") for name in ("2.txt", "x", "y")] == ["file", "folder", None]
    storage.move(f"{place}/2.txt", f"{place}/3.txt")
    assert storage.file_sizes(place) == {"3.txt": 3}
    storage.remove(f"{place}/x")
    storage.remove(f"{place}/nothing")
    assert [entry.path for entry in storage.list_files(place)] == ["3.txt"]
    for missing in (lambda: storage.read_bytes(f"{place}/2.txt"), lambda: storage.list_files(f"{place}/y"), lambda: storage.file_sizes(f"{place}/y")):
        with pytest.raises(FileNotFoundError):
            missing()


def test_a_corpus_in_an_object_store_is_the_same_as_on_a_disk(place, words, ray_session, tmp_path):
    here = ingest([str(words)], tmp_path / "c", SMALL)
    assert run("ingest", [str(words), "--out", f"{place}/c", "--rows-per-shard", "10", "--rows-per-group", "4"]) == 0
    there = {entry.path: storage.read_bytes(f"{place}/{entry.path}") for entry in storage.list_files(place)}
    assert there == {f"c/{path.name}": path.read_bytes() for path in (tmp_path / "c").iterdir()}
    corpus = Corpus.open(f"{place}/c")
    assert corpus.sha256 == here.sha256
    assert [table.to_pylist() for table in corpus.rows_iter()] == [table.to_pylist() for table in here.rows_iter()]
    assert sum(table.num_rows for table in corpus.quarantine_iter()) == 0


def test_sources_in_an_object_store_are_read_where_they_lie(place, words, ray_session, tmp_path):
    for file in words.iterdir():
        storage.write_bytes(f"{place}/words/{file.name}", file.read_bytes())
    assert run("ingest", [f"{place}/words", "--out", str(tmp_path / "there"), "--rows-per-shard", "10", "--rows-per-group", "4"]) == 0
    here = ingest([str(words)], tmp_path / "here", SMALL)
    rows = [[table.to_pylist() for table in corpus.rows_iter()] for corpus in (Corpus.open(tmp_path / "there"), here)]
    assert rows[0] == rows[1]


def test_training_batches_come_from_an_object_store(server, bucket, words, ray_session, tmp_path):
    ingest([str(words)], tmp_path / "c", SMALL)
    for file in (tmp_path / "c").iterdir():
        server.put_object(Bucket=bucket, Key=f"c/{file.name}", Body=file.read_bytes())
    streams = [open_stream([path], Selection(None), batch_size=5, seed=0) for path in (str(tmp_path / "c"), f"s3://{bucket}/c")]
    tables = [[table["key"].to_pylist() for table in local_blocks(stream, Share(0, 1, 0, 5))] for stream in streams]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("moment", ["before the shards move", "after one has moved", "before the manifest", "before tidying up"])
def test_a_corpus_whose_making_was_killed_is_finished_by_the_same_command(server, bucket, words, monkeypatch, moment):
    target = f"s3://{bucket}/c"
    with monkeypatch.context() as patch:
        if moment == "before the manifest":
            patch.setattr("pipelines.ingestion.staging.write_manifest", killing(None, 0))
        elif moment == "before tidying up":
            patch.setattr(StoreStaging, "remove", killing(StoreStaging.remove, 1))  # the first call makes room
        else:
            patch.setattr("pipelines.corpus.storage.move", killing(storage.move, 0 if moment == "before the shards move" else 1))
        with pytest.raises(Killed):
            ingest([str(words)], target, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_chunk", lambda *arguments: pytest.fail("work was done twice"))
        corpus = ingest([str(words)], target, SMALL)
    assert corpus.rows == 25
    assert sorted(objects(server, bucket)) == ["c/corpus.json", "c/part-words-00000.parquet", "c/part-words-00001.parquet",
                                               "c/part-words-00002.parquet", "c/quarantine.parquet"]
    with pytest.raises(BadInput, match="found a corpus: choose another --out, or add --overwrite"):
        ingest([str(words)], target, SMALL)
    assert ingest([str(words)], target, Options(rows_per_shard=20), overwrite=True).rows == 25
    assert sorted(objects(server, bucket)) == ["c/corpus.json", "c/part-words-00000.parquet", "c/part-words-00001.parquet", "c/quarantine.parquet"]


def test_what_cannot_be_reached_is_one_sentence(server, capsys):
    assert run("describe", ["s3://no-such-bucket/c"]) == 2
    assert run("describe", ["ftp://host/c"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("textray: error: s3://no-such-bucket/c: expected a corpus (a folder with corpus.json), found no such folder: make")
    assert errors[1] == ("textray: error: ftp://host/c/corpus.json: expected a path or a URI that begins with s3://, gs://, hf://, file://, found ftp://: "
                         "correct it")


@pytest.mark.parametrize("uri", ["s3://KEY:HUSH@bucket/words", "s3://KEY:HUSH/HUSH@bucket/words", "gs://HUSH@bucket/words", "https://me:HUSH@host/words",
                                 "s3://bucket/words?secret_key=HUSH", "hf://me:HUSH@datasets/a/b"])
def test_a_uri_with_credentials_is_refused_and_not_repeated(words, tmp_path, uri, capfd):
    for arguments in (["ingest", uri, "--out", str(tmp_path / "c")], ["ingest", f"N={uri}", "--out", str(tmp_path / "c")],
                      ["ingest", f"tar:{uri}", "--out", str(tmp_path / "c")], ["ingest", str(words), "--out", uri],
                      ["ingest", str(words), "--guard", uri, "--out", str(tmp_path / "c")], ["describe", uri]):
        assert run(arguments[0], arguments[1:]) == 2
        said = capfd.readouterr()
        assert "HUSH" not in said.out + said.err and said.err.count("\n") == 1
        assert "expected a URI without credentials, found some: leave them out" in said.err
    assert not (tmp_path / "c").exists()
    with pytest.raises(BadInput, match="without credentials"):
        storage.locate(uri)


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b#c", "a+b", "[a](b)", "ä=&b"])
def test_a_name_is_the_same_everywhere(place, tmp_path, name):
    for folder in (str(tmp_path), place):
        path = storage.join(folder, name, f"{name}.bin")
        storage.write_bytes(path, b"1")
        assert storage.list_names(folder) == [name] and storage.list_files(folder)[0].path == f"{name}/{name}.bin"
        assert storage.read_bytes(path) == b"1" and storage.kind(path) == "file"
        storage.remove(storage.join(folder, name))
        assert storage.kind(path) is None


def test_a_file_uri_is_decoded_and_a_path_is_not(tmp_path):
    (tmp_path / "a b%20?").mkdir()
    uri = (tmp_path / "a b%20?").as_uri()
    assert uri.endswith("/a%20b%2520%3F") and storage.kind(uri) == "folder" and storage.absolute(uri) == str(tmp_path / "a b%20?")
    assert storage.kind(str(tmp_path / "a%20b%2520%3F")) is None


def test_a_path_that_is_not_utf_8_is_named():
    with pytest.raises(BadInput, match=r"'a\\udcff': expected a path in UTF-8, found other bytes: rename it"):
        storage.kind("a\udcff")


@pytest.mark.parametrize("uri, found", [
    ("s3://bad bucket/x", "syntax error"), ("s3://b?c/x", "query"), ("s3://[x/y", "syntax error"), ("s3://b\u00fc/x", "syntax error"), ("s3:///x", "an empty part"),
    ("s3://b//x", "an empty part"), ("gs:///x", "an empty part"), ("gs://b/x//y", "an empty part")])
def test_a_uri_that_no_store_can_have_is_refused(stores, uri, found):
    with pytest.raises(BadInput, match=f"expected .*, found .*{found}.*: "):
        storage.kind(uri)
