"""The demo's own parts; what it runs are the commands, which have their tests."""

import pytest

from pipelines.corpus.reader import Corpus
from pipelines.demo import Steps, main, write_pictures, write_vocabulary
from pipelines.errors import BadInput
from pipelines.ingest import main as ingest
from pipelines.render import main as render


def test_the_vocabulary_holds_each_word_in_three_spellings(tmp_path):
    lines = write_vocabulary(tmp_path / "words.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == 6000 == len(set(lines))
    assert lines[:3] == ["the", "The", "THE"]
    assert all(3 <= len(line) <= 8 for line in lines)


def test_drawn_words_become_the_files_of_a_user_and_come_back(tmp_path, ray_session, capsys):
    render(["--out", str(tmp_path / "drawn"), "-n", "12", "--style", "plain", "--charset", "36"])
    write_pictures(tmp_path / "drawn", tmp_path / "labeled", 0, 5, labels=True)
    write_pictures(tmp_path / "drawn", tmp_path / "unlabeled", 5, 12, labels=False)
    assert ingest([str(tmp_path / "labeled"), "--out", str(tmp_path / "a")]) == ingest([str(tmp_path / "unlabeled"), "--out", str(tmp_path / "b")]) == 0
    drawn = next(Corpus.open(tmp_path / "drawn").rows_iter(["image", "text"])).to_pydict()
    labeled = next(Corpus.open(tmp_path / "a").rows_iter(["image", "text"])).to_pydict()
    unlabeled = next(Corpus.open(tmp_path / "b").rows_iter(["image", "text"])).to_pydict()
    assert labeled == {"image": drawn["image"][:5], "text": drawn["text"][:5]}
    assert unlabeled == {"image": drawn["image"][5:], "text": [None] * 7}


def test_a_step_that_fails_stops_the_demo_and_names_itself(tmp_path, capsys):
    step = Steps(3)
    step("look", "doctor")
    with pytest.raises(BadInput, match=r"the demo stops, since its step 2 \(describe it\) failed; what is done so far is kept"):
        step("describe it", "describe", tmp_path / "nowhere")
    shown = capsys.readouterr().err
    assert "[1/3] 00:0" in shown and "look: textray doctor" in shown and "nowhere" in shown


def test_the_demo_does_not_write_over_a_folder_or_start_without_its_data(tmp_path):
    (tmp_path / "demo").mkdir()
    with pytest.raises(BadInput, match="say --overwrite to remove it, or name another with --folder"):
        main(["--folder", str(tmp_path / "demo")])
    with pytest.raises(BadInput, match=r"expected the real benchmarks under .* found no .*words/train/IIIT5K"):
        main(["--folder", str(tmp_path / "new"), "--data", str(tmp_path)])
    assert not (tmp_path / "new").exists()
