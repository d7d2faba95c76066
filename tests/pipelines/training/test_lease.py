"""The lease on a folder in an object store: one owner at a time, and none that was killed stays."""

import json
import signal
import threading
import time

import pytest

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.training.lease import LOST, leased


def test_a_second_writer_is_refused_until_the_lease_is_given_back(stores, bucket):
    file = f"{bucket}/held/lease.json"
    with leased(file, "the run 'try'"):
        with pytest.raises(BadInput, match=r"the run 'try' is being trained by another process \(.*, process \d+, .*\), whose lease holds until "
                                           r"\d\d:\d\d:\d\d UTC unless it is renewed; wait for it"):
            with leased(file, "the run 'try'"):
                raise AssertionError
    assert storage.kind(file) is None


def test_the_lease_of_a_killed_owner_ends_by_itself(stores, bucket):
    file = f"{bucket}/killed/lease.json"
    storage.write_bytes(file, json.dumps({"owner": "somebody", "until": int(1000 * time.time()) - 1}).encode())
    with leased(file, "the run"):
        assert json.loads(storage.read_bytes(file))["owner"] != "somebody"


def test_a_lease_is_renewed_while_its_owner_lives(stores, bucket, monkeypatch):
    monkeypatch.setenv("TEXTRAY_LEASE_SECONDS", "0.4")
    file, seen = f"{bucket}/renewed/lease.json", []
    with leased(file, "the run"):
        while len({each["until"] for each in seen}) < 3:
            seen.append(json.loads(storage.read_bytes(file)))
    ends = [each["until"] for each in seen]
    assert ends == sorted(ends) and len({each["owner"] for each in seen}) == 1


@pytest.mark.parametrize("in_background", [False, True])
def test_whose_lease_was_taken_is_interrupted_and_leaves_it(stores, bucket, monkeypatch, in_background):
    """Also a process that ignores Ctrl-C, as `nohup COMMAND &` does."""
    monkeypatch.setenv("TEXTRAY_LEASE_SECONDS", "0.4")
    file = f"{bucket}/taken-{in_background}/lease.json"
    other = json.dumps({"owner": "another", "until": int(1000 * time.time()) + 600_000}).encode()
    handler, before = signal.getsignal(LOST), signal.signal(signal.SIGINT, signal.SIG_IGN if in_background else signal.default_int_handler)
    try:
        with pytest.raises(BadInput, match="the run was taken over by another process"), leased(file, "the run") as lost:
            while not lost.is_set():  # the owner may be about to renew it
                storage.write_bytes(file, other)
                time.sleep(0.01)
            threading.Event().wait(60)  # only a real signal ends a wait before its time
            raise AssertionError
    finally:
        signal.signal(signal.SIGINT, before)
    assert storage.read_bytes(file) == other and signal.getsignal(LOST) == handler


@pytest.mark.parametrize("content", [b"", b"[]", b'{"owner": 7, "until": "x"}'])
def test_a_file_that_is_no_lease_is_named(stores, bucket, content):
    file = f"{bucket}/spoiled/lease.json"
    storage.write_bytes(file, content)
    with pytest.raises(BadInput, match="lease.json: .*remove it if nobody trains there"), leased(file, "the run"):
        raise AssertionError
