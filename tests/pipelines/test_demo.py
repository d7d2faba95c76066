"""The demo's own parts; what it runs are the commands, which have their tests."""

import json
from pathlib import Path

import pytest

from pipelines import demo
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


def test_drawn_words_become_the_files_of_a_user_and_come_back(tmp_path, capsys):
    render(["--out", str(tmp_path / "drawn"), "-n", "12", "--style", "plain", "--charset", "36"])
    write_pictures(tmp_path / "drawn", tmp_path / "labeled", range(0, 5).__contains__, labels=True)
    write_pictures(tmp_path / "drawn", tmp_path / "unlabeled", range(5, 12).__contains__, labels=False)
    assert ingest([str(tmp_path / "labeled"), "--out", str(tmp_path / "a")]) == ingest([str(tmp_path / "unlabeled"), "--out", str(tmp_path / "b")]) == 0
    drawn = next(Corpus.open(tmp_path / "drawn").rows_iter(["image", "text"])).to_pydict()
    labeled = next(Corpus.open(tmp_path / "a").rows_iter(["image", "text"])).to_pydict()
    unlabeled = next(Corpus.open(tmp_path / "b").rows_iter(["image", "text"])).to_pydict()
    assert labeled == {"image": drawn["image"][:5], "text": drawn["text"][:5]}
    assert unlabeled == {"image": drawn["image"][5:], "text": [None] * 7}


class Written(Steps):
    """Draws, and of all other commands keeps what was typed, with the files that the demo reads afterwards."""

    def __init__(self):
        super().__init__(99)
        self.typed: list[list[str]] = []

    def __call__(self, title, *words):
        command, *words = map(str, words)
        self.typed.append([command, *words])
        if command == "render":
            render(words)
        elif command == "tune":
            folder = Path(words[words.index("--trials") + 2].removeprefix("runs=")) / "sweep"
            folder.mkdir(parents=True)
            (folder / "trials.json").write_text('{"trials": [{"name": "trial-1"}]}', encoding="utf-8")
        elif command == "evaluate":
            out = Path(words[words.index("--out") + 1])
            out.mkdir(parents=True)
            row = {"words": 10, "accuracy": 0.7 if "ccr" in words[0] else 0.5, "one_minus_ned": 0.8, "cer": 0.1}
            (out / "evaluation.json").write_text(json.dumps({"average": row}), encoding="utf-8")


def test_the_winner_is_chosen_on_validation_words_and_gated_on_others_and_measured_once(tmp_path, monkeypatch, capsys):
    """What a user reads at the end was not chosen by: no command sees the test words but the guard, and one evaluation, the last of all."""
    monkeypatch.setattr(demo, "SOURCE_WORDS", 6)
    monkeypatch.setattr(demo, "TARGET_WORDS", {"target": 10, "validation": 4, "gate": 3, "held-out": 5})
    monkeypatch.setattr(demo, "Steps", lambda count: step)
    monkeypatch.setattr(demo, "read_five", lambda step, tests: None)
    step, folder = Written(), tmp_path / "demo"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unused")
    assert main(["--out", str(folder)]) == 0
    seen = [(typed[0], number) for number, typed in enumerate(step.typed) if any("held-out" in word for word in typed)]
    assert [command for command, _ in seen] == ["ingest"] * 4 + ["evaluate"] and seen[-1][1] == len(step.typed) - 1
    assert all(typed[typed.index("--guard") + 1:] == [f"held-out={folder / 'files' / 'held-out'}"] for typed in step.typed if typed[0] == "ingest")
    chosen = [typed for typed in step.typed if typed[0] == "evaluate"]
    assert [typed[2:4] for typed in chosen] == [["--data", f"validation={folder / 'corpora' / 'validation'}"]] * 3 + \
        [["--data", f"held-out={folder / 'files' / 'held-out'}"]]
    [register] = [typed for typed in step.typed if typed[0] == "register"]
    assert register[1] == str(folder / "runs" / "ccr") == chosen[-1][1] and register[-2:] == ["--data", f"gate={folder / 'corpora' / 'gate'}"]
    pictures = [{file.read_bytes() for file in (folder / "files" / name).glob("*.jpg")} for name in ("target", "validation", "gate", "held-out")]
    assert [len(part) for part in pictures] == [10, 4, 3, 5] and len(set.union(*pictures)) == 22
    assert "ccr                      10         70.00%    0.800   0.100  validation  <- chosen, registered" in capsys.readouterr().out


def test_of_the_real_images_no_one_is_in_two_parts(tmp_path, monkeypatch):
    render(["--out", str(tmp_path / "real"), "-n", "40", "--style", "plain", "--charset", "36"])
    data = tmp_path / "data"
    for place in ("train/IIIT5K", "train/IC15", "train/SVT", "test/SVT", "test/IIIT5K", "test/IC13"):
        (data / "words" / place).mkdir(parents=True)
    monkeypatch.setattr(demo, "REAL_SOURCE_WORDS", 5)
    step = Written()
    demo.real_material(tmp_path, step, data)
    pictures = [sorted(file.read_bytes() for file in (tmp_path / "files" / name).glob("*.jpg")) for name in ("target", "validation", "gate")]
    assert [len(part) for part in pictures] == [32, 4, 4] and len(set(map(bytes, sum(pictures, [])))) == 40
    assert not (tmp_path / "files" / "target" / "labels.tsv").exists()
    typed = [command for command in step.typed if command[0] == "ingest"]
    assert "near" in typed[0] and all("--guard" in command and sum("words/test" in word for word in command) == 3 for command in typed[1:])


def test_a_step_that_fails_stops_the_demo_and_names_itself(tmp_path, capsys):
    step = Steps(3)
    step("look", "doctor")
    with pytest.raises(BadInput, match=r"it stops, since its step 2 \(describe it\) failed; what is done so far is kept"):
        step("describe it", "describe", tmp_path / "nowhere")
    shown = capsys.readouterr().err
    assert "[1/3] 00:0" in shown and "look: textray doctor" in shown and "nowhere" in shown


def test_the_demo_does_not_write_over_a_folder_or_start_without_its_data(tmp_path):
    (tmp_path / "demo").mkdir()
    with pytest.raises(BadInput, match="say --overwrite to remove it, or name another with --out"):
        main(["--out", str(tmp_path / "demo")])
    with pytest.raises(BadInput, match=r"expected the real benchmarks under .* found no .*words/train/IIIT5K"):
        main(["--out", str(tmp_path / "new"), "--benchmarks", str(tmp_path)])
    assert not (tmp_path / "new").exists()
