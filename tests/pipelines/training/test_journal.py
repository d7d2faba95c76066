"""The journal of a run: whole lines only, whatever a kill or a full disk left behind the last."""

import pytest

from pipelines.errors import BadInput
from pipelines.training.journal import Follower, Journal, read_journal

LINES = b'{"step": 1, "time": 5.5, "loss": 2.0}\n{"step": 2, "time": 6.5, "loss": NaN}\n'


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "ti', b"\0" * 4096, b'{"step": 3, "time": 7.5}', bytes(range(128, 250))])
def test_a_torn_last_line_is_cut_and_the_next_begins_a_line(tmp_path, torn):
    file = tmp_path / "progress.jsonl"
    file.write_bytes(LINES + torn)
    assert [line["step"] for line in read_journal(str(file))] == [1, 2]
    follower, journal = Follower(str(file)), Journal(str(file))
    journal.append({"step": 3, "time": 8.5})
    assert file.read_bytes() == LINES + b'{"step": 3, "time": 8.5}\n'
    assert follower.new_lines() == [b'{"step": 3, "time": 8.5}'] and follower.new_lines() == []


@pytest.mark.parametrize("damaged, sentence", [
    (b"garbage\n", "progress.jsonl, line 2: expected JSON, found text that is not JSON"), (b"[1]\n", "line 2: expected keys and values, found a list"),
    (b'{"loss": 1.0}\n', "line 2: expected a step and a time, found loss"), (b"\n", "line 2: expected JSON, found an empty file"),
    (b'{"step": "3", "time": 1}\n', "line 2: .* as step"), (b"\0\0\n", "line 2: expected JSON, found bytes that are no text")])
def test_a_line_that_was_not_logged_is_refused_by_its_number(tmp_path, damaged, sentence):
    (tmp_path / "progress.jsonl").write_bytes(LINES.replace(b"\n", b"\n" + damaged, 1))
    with pytest.raises(BadInput, match=sentence):
        read_journal(str(tmp_path / "progress.jsonl"))


def test_of_a_run_that_logged_nothing_there_is_nothing(tmp_path):
    assert read_journal(str(tmp_path / "progress.jsonl")) == []
    assert Follower(str(tmp_path / "progress.jsonl")).new_lines() == []


def test_in_a_store_lines_arrive_at_a_flush_and_a_torn_object_is_mended(stores, bucket):
    from pipelines.corpus import storage
    file = f"{bucket}/run/progress.jsonl"
    storage.write_bytes(file, LINES + b'{"st')
    journal, follower = Journal(file), Follower(file)
    journal.append({"step": 3, "time": 8.5})
    assert len(read_journal(file)) == 2
    journal.flush()
    assert [line["step"] for line in read_journal(file)] == [1, 2, 3] and follower.new_lines() == [b'{"step": 3, "time": 8.5}']
