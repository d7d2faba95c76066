"""docs/quickstart.md from its first command to its last, on fewer images, words and steps."""

import csv
import re
import shlex
from pathlib import Path

from confident import sure_model
from pipelines import adapt
from pipelines.cli import run
from pipelines.journey import plan
from pipelines.synthesis.corpus import Settings, render_corpus

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^\$ (textray .+)$", PAGE, re.MULTILINE)]


def test_the_first_hour_ends_in_a_table(tmp_path, monkeypatch, capsys):
    """A recognizer that learns for three steps is sure of nothing: the first run begins with one that is sure of whatever it reads."""
    assert [command[0] for command in COMMANDS] == ["render", "adapt", "describe", "runs", "compare", "predict"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    pattern = COMMANDS[1][COMMANDS[1].index("--pattern") + 1]
    charset = COMMANDS[0][COMMANDS[0].index("--charset") + 1]
    drawn = [row for table in render_corpus("drawn", 70, Settings(style="street", charset=charset, pattern=pattern)).rows_iter() for row in table.to_pylist()]
    (tmp_path / "crops").mkdir()
    for number, row in enumerate(drawn):
        (tmp_path / "crops" / f"{number:04}.jpg").write_bytes(row["image"])
    (tmp_path / "few.csv").write_text("file_name,text\n" + "".join(f"{number:04}.jpg,{row['text']}\n" for number, row in enumerate(drawn[:40])), encoding="utf-8")
    sure_model(tmp_path / "sure", "".join(sorted(set(charset))))
    monkeypatch.setattr(plan, "LEAST_STEPS", 3)
    monkeypatch.setattr(plan, "MOST_STEPS", 3)
    monkeypatch.setattr(plan, "DRAWN", {"scene": 240, "plain": 160})
    monkeypatch.setattr(adapt, "_rate", lambda *_: 10.0)
    monkeypatch.setattr(adapt, "OWN_NGRAM", ("--beam", "10", "--min-confidence", "0.02", "--own-ngram", "0.3"))
    for command in COMMANDS:
        more = ["--model", "sure"] if command[0] == "adapt" else []
        assert run(command[0], [*command[1:], *more]) == 0, (command, capsys.readouterr())
    with open(tmp_path / "adapted" / "words.csv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["key"] for row in rows] == [f"images/{number:04}.jpg" for number in range(70)] and any(row["text"] for row in rows)
    assert (tmp_path / "look.png").exists() and (tmp_path / "images.html").exists() and len((tmp_path / "again.csv").read_text(encoding="utf-8").splitlines()) == 71
