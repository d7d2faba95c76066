"""`--quiet`: results on stdout, errors on stderr, and nothing of what is told on the way."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

import textray
from models.charset import Charset
from models.recognizers import build
from pipelines.cli import COMMANDS, run
from pipelines.progress import Progress, aside, is_silent, quietly, warn
from pipelines.reading.weights import save_recognizer
from pipelines.synthesis.corpus import Settings, render_corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Words, a model of chance, one that was pretrained only, and a recipe."""
    folder = tmp_path_factory.mktemp("quiet")
    torch.manual_seed(0)
    save_recognizer(folder / "model", build("crnn_tiny", Charset.named("36")))
    save_recognizer(folder / "pretrained", build("crnn_tiny", Charset.named("36")), {"trained": ["encoder"]})
    with quietly():
        render_corpus(folder / "words", 30, Settings(style="plain", charset="36"))
        assert run("export", [str(folder / "words"), "--format", "folder", "--out", str(folder / "pictures")]) == 0
    recipe = {"name": "short", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "training": {"steps": 2},
              "data": {"labeled": {"corpus": "words", "batch_size": 8}, "validation": {"corpus": "words"}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (folder / "lines.txt").write_text("word\nlonger-than-is-allowed\n", encoding="utf-8")
    return folder


def done(command: str, folder: Path, place: Path) -> subprocess.CompletedProcess:
    """A command in a process of its own, whose stderr is all that whatever library writes, in a new folder that sees what lies in `place`."""
    folder.mkdir()
    for made in place.iterdir():
        (folder / made.name).symlink_to(made)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    return subprocess.run([sys.executable, "-m", "pipelines.cli", *command.split()], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("command, told, answer", [
    ("ingest pictures --out new", "ingest: 30 images", "new: 30 images"),
    ("render --out new -n 4 --words lines.txt --max-length 9", "render: 1 of 2 lines", "new"),
    ("export words --format folder --out new", "export: 30 images", "new"),
    ("evaluate pretrained --data words", "was pretrained only", "made reports/evaluation-pretrained"),
    ("predict model words --out new.csv", "predict: 30 of 30 images", "new.csv"),
    ("finetune recipe.yaml", "step 2/2", "run short: 2 steps done"),
    ("register model --name words --data words", "the new model on the gate", "made models:/words/1")])
def test_what_is_told_on_the_way_is_left_out_and_what_comes_out_is_not(command, told, answer, place, tmp_path):
    loud, quiet = done(command, tmp_path / "loud", place), done(f"{command} --quiet", tmp_path / "quiet", place)
    assert (loud.returncode, quiet.returncode) == (0, 0), (loud.stderr, quiet.stderr)
    assert told in loud.stderr and quiet.stderr == ""
    assert answer in loud.stdout and answer in quiet.stdout


def test_an_error_is_said_and_what_fails_a_script_too(place, tmp_path):
    refused = done("describe nowhere --quiet", tmp_path / "one", place)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and refused.stderr.startswith("textray: error: nowhere")
    missed = done("evaluate model --data words --gate plain=0.99 --quiet", tmp_path / "two", place)
    assert missed.returncode == 1 and missed.stderr.startswith("textray: plain") and len(missed.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_it(name, capsys):
    with pytest.raises(SystemExit):
        run(name, ["--help"])
    assert "--quiet" in capsys.readouterr().out


def test_it_ends_with_the_command(place, capsys):
    assert run("describe", [str(place / "nowhere"), "--quiet"]) == 2 and run("recipes", ["--quiet"]) == 0
    warn("it is heard")
    logging.getLogger("mlflow").warning("this, too")
    assert not is_silent() and "it is heard" in capsys.readouterr().err


def test_a_command_within_a_quiet_one_is_quiet_and_only_the_whole_ends_it(capsys):
    with quietly():
        with quietly(False):
            assert is_silent()
        assert run("recipes", []) == 0 and is_silent()
        warn("unheard")
        warnings.warn("unheard", stacklevel=1)
        logging.getLogger("ray").warning("unheard")
        logging.getLogger("alembic").info("unheard")
        Progress("unheard", 3, "images").close()
    assert capsys.readouterr().err == "" and not is_silent()


def test_a_failure_within_it_ends_it():
    with pytest.raises(KeyError), quietly():
        raise KeyError
    assert not is_silent()


def test_steps_of_a_whole_job_keep_their_results_to_themselves(capsys):
    from pipelines.demo import Steps
    with quietly():
        Steps(1)("which recipes there are", "recipes")
    assert capsys.readouterr() == ("", "")
    Steps(1)("which recipes there are", "recipes")
    shown = capsys.readouterr()
    assert "ccr_trba" in shown.out and "[1/1]" in shown.err


def test_what_a_library_prints_is_no_result(capsys):
    with aside():
        print("a table of its own")
    assert capsys.readouterr() == ("", "a table of its own\n")
    with quietly(), aside():
        print("a table of its own")
    assert capsys.readouterr() == ("", "")


def test_a_program_asks_for_it_by_a_keyword(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for quiet in (False, True):
        textray.ingest(place / "pictures", out=f"new-{quiet}", quiet=quiet)
        textray.predict(place / "pretrained", place / "words", out=f"new-{quiet}.csv", quiet=quiet)
        assert (capsys.readouterr().err == "") is quiet
