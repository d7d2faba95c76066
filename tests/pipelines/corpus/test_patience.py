"""A store that answers 503 for a while, or nothing at all, costs time and one line; what it refuses for good is said at once."""

import os
import shutil
import zlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
from pyarrow import fs

from between import Between
from pipelines.cli import run
from pipelines.corpus import patience, storage
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput, Unavailable
from pipelines.synthesis.corpus import Settings, render_corpus


@pytest.fixture(scope="module")
def servers(stores) -> Iterator[dict[str, Between]]:
    """One before each store, by the variable that holds the store's address."""
    started = {name: Between(os.environ[name]) for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST")}
    yield started
    for server in started.values():
        server.end()


@pytest.fixture
def between(servers, monkeypatch, request) -> Iterator[Between]:
    """Before the S3-compatible server for tests that name s3, else before Google's; tries follow each other at once."""
    name = "AWS_ENDPOINT_URL" if "s3" in request.node.name else "STORAGE_EMULATOR_HOST"
    server = servers[name]
    server.begin()
    monkeypatch.setenv(name, server.address)
    monkeypatch.setattr(patience, "WAITS", (0,) * 10)
    monkeypatch.setattr(storage, "GOOGLE_PATIENCE", timedelta(milliseconds=1))
    storage._filesystem.cache_clear()
    yield server
    storage._filesystem.cache_clear()


@pytest.fixture
def place(request) -> str:
    return f"gs://words/patience-{zlib.crc32(request.node.name.encode())}"


OPERATIONS = {
    "kind": (lambda place: storage.kind(f"{place}/a"), "file"),
    "list": (lambda place: [entry.path for entry in storage.list_files(place)], ["a", "b"]),
    "sizes": (lambda place: storage.file_sizes(place), {"a": 5, "b": 1}),
    "names": (lambda place: storage.list_names(place), ["a", "b"]),
    "read": (lambda place: storage.read_bytes(f"{place}/a"), b"first"),
    "stream": (lambda place: storage.open_stream(f"{place}/a").read(), b"first"),
    "write": (lambda place: storage.write_bytes(f"{place}/a", b"other"), None),
    "move": (lambda place: storage.move(f"{place}/a", f"{place}/c"), None),
    "remove": (lambda place: storage.remove(f"{place}/a"), None),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_waits_for_a_store_that_is_away(between, place, operation, capsys):
    storage.write_bytes(f"{place}/a", b"first")
    storage.write_bytes(f"{place}/b", b"2")
    work, expected = OPERATIONS[operation]
    between.away(2)
    assert work(place) == expected
    assert between.refused == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 1 and all("the store does not answer (" in line and "; waiting up to " in line for line in said)
    left = {"write": {"a": b"other", "b": b"2"}, "move": {"c": b"first", "b": b"2"}, "remove": {"b": b"2"}}.get(operation, {"a": b"first", "b": b"2"})
    assert {entry.path: storage.read_bytes(f"{place}/{entry.path}") for entry in storage.list_files(place)} == left


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_file_that_is_open_is_read_on_whatever_the_store_says_meanwhile(between, place, status, capsys):
    data = bytes(range(256)) * 40
    storage.write_bytes(f"{place}/a", data)
    with storage.open_file(f"{place}/a") as file:
        first = file.read(1000)
        between.away(2, status)
        assert first + file.read() == data
    assert between.refused == 2
    assert capsys.readouterr().err.count("the store does not answer") == 1


@pytest.mark.parametrize("after", [0, 1])
def test_a_store_that_goes_away_while_a_file_is_opened_is_waited_for(between, place, after, capsys):
    storage.write_bytes(f"{place}/a", b"first")
    between.away(2, after=after)  # Google's client asks twice: what the file is, then for its bytes
    assert storage.read_bytes(f"{place}/a") == b"first"
    assert between.refused == 2
    assert capsys.readouterr().err.count("the store does not answer") == 1


def test_a_corpus_is_read_through_an_outage(between, place, tmp_path):
    render_corpus(tmp_path / "c", 30, Settings(style="plain", charset="36"))
    for file in (tmp_path / "c").iterdir():
        storage.write_bytes(f"{place}/{file.name}", file.read_bytes())
    between.away(2)
    corpus = Corpus.open(place)
    tables = []
    for shard, index, _ in corpus.row_groups:
        between.away(2)
        tables.append(corpus.read_row_group(shard, index))
    assert [table.to_pylist() for table in tables] == [table.to_pylist() for table in Corpus.open(tmp_path / "c").rows_iter()]
    assert between.refused == 2 * (1 + len(tables))


def test_s3_is_waited_for_after_its_client_has_given_up(between, capsys):
    import boto3
    client = boto3.client("s3", endpoint_url=between.store, region_name="us-east-1")
    client.create_bucket(Bucket="patience")
    client.put_object(Bucket="patience", Key="a", Body=b"first")
    before = between.asked
    between.away(40)  # the client alone gives up after about thirty
    assert storage.read_bytes("s3://patience/a") == b"first"
    assert between.refused == 40 and between.asked >= before + 42
    assert capsys.readouterr().err.count("the store does not answer") == 1


@pytest.mark.parametrize("write", ["a file", "a stream", "a copy"])
def test_s3_that_goes_away_within_an_upload_gets_the_whole_file(between, monkeypatch, write, tmp_path, capsys):
    import boto3
    boto3.client("s3", endpoint_url=between.store, region_name="us-east-1").create_bucket(Bucket="upload")
    system, inside = storage.locate("s3://upload/a")
    copy, calls = shutil.copyfileobj, []

    def leaves(*arguments):
        calls.append(1)
        if len(calls) == 1:  # the upload has begun
            between.away(40)
        copy(*arguments)

    monkeypatch.setattr(patience.shutil, "copyfileobj", leaves)
    data = bytes(range(256)) * 40
    if write == "a file":
        storage.write_bytes("s3://upload/a", data)
    elif write == "a stream":  # as Ray writes its list of checkpoints
        with system.open_output_stream(inside) as stream:
            stream.write(data[:1000])
            stream.write(data[1000:])
    else:
        (tmp_path / "a").write_bytes(data)
        fs.copy_files(str(tmp_path / "a"), inside, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)
    assert storage.read_bytes("s3://upload/a") == data
    assert len(calls) >= 2 and between.refused == 40
    assert "the store does not answer" in capsys.readouterr().err


def test_a_store_that_stays_away_is_no_bad_input(between, place, monkeypatch, capsys):
    monkeypatch.setattr(patience, "WAITS", (0, 0))
    between.away(10**6)
    with pytest.raises(Unavailable, match=f"{place}/a: the store has not answered for .* repeat the command when it is back"):
        storage.read_bytes(f"{place}/a")
    capsys.readouterr()
    assert run("describe", [place]) == 75
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"textray: error: {place}/corpus.json: the store has not answered")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("place", ["s3://patience-never/c", "gs://words/never"])
def test_what_a_store_refuses_for_good_is_said_at_once(between, place, status, capsys):
    between.away(10**6, status)
    with pytest.raises(BadInput, match="expected to reach it, found: "):
        storage.read_bytes(f"{place}/a")
    assert between.asked == 1 and capsys.readouterr().err == ""


def test_a_file_or_a_bucket_that_is_not_there_is_said_at_once(between, place, capsys):
    for missing in (f"{place}/nothing", "gs://no-such-bucket/a"):
        before = between.asked
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(missing)
        assert between.asked <= before + 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("message, away", [
    ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server", True),
    ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 60, SSL peer certificate was not OK", False),
    ("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.", True),
    ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", False),
    ("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: The specified bucket does not exist", False),
    ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", False),
    ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted ... PerformWork() - CURL error [6]=Could not resolve host: metadata.google.internal)", False),
    ("google::cloud::Status(UNAUTHENTICATED: Permanent error ...)", False),
])
def test_what_passes_is_told_from_what_stays(message, away):
    assert patience.passes(OSError(message)) is away


def test_a_removal_whose_answer_was_lost_is_done(monkeypatch):
    monkeypatch.setattr(patience, "WAITS", (0,))
    answers = iter([ConnectionResetError("connection reset"), FileNotFoundError("gone")])

    def remove() -> None:
        raise next(answers)

    assert patience.insist("s3://b/a", remove, gone_is_done=True) is None
    answers = iter([FileNotFoundError("never there")])
    with pytest.raises(FileNotFoundError):
        patience.insist("s3://b/a", remove, gone_is_done=True)


def test_a_patient_file_reads_like_any_other(between, place):
    storage.write_bytes(f"{place}/a", b"0123456789")
    with storage.open_file(f"{place}/a") as file:
        assert (file.size(), file.read(3), file.tell()) == (10, b"012", 3)
        assert (file.seek(-2, 2), file.read(), file.read()) == (8, b"89", b"")
        assert file.read_at(4, 5) == b"5678"
