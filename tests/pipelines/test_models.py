"""`textray models`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.recognizers import RECOGNIZERS, SOURCES
from pipelines.cli import main
from pipelines.models import millions


def test_the_table_lists_every_recognizer_with_its_numbers(capsys):
    assert main(["models"]) == 0
    shown = capsys.readouterr().out.splitlines()
    lines = {line.split()[0]: line for line in shown[1:1 + len(RECOGNIZERS)]}
    assert set(lines) == set(RECOGNIZERS)
    assert lines["crnn"].split()[:7] == ["crnn", "8,451,621", "686", "M", "32", "x", "100"]
    assert "49,555,182" in lines["trba"] and "5.31 G" in lines["trba"] and "attention" in lines["trba"]
    assert all(lines[name].endswith(source) for name, source in SOURCES.items())
    assert len({line.index(name[:5]) for name, line in lines.items()}) == 1  # columns
    assert f"{len(RECOGNIZERS)} recognizers, with 36 characters" in shown[-1]


def test_one_recognizer_in_detail(capsys):
    assert main(["models", "trba_tiny", "--charset", "94"]) == 0
    shown = capsys.readouterr().out
    assert "reads 32 x 100 gray, attention: symbol by symbol, at most 25 characters; 96 classes with 94 characters" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith(("encoder", "sequence", "decoder", "all "))] == \
        ["encoder", "sequence", "decoder", "all"]
    assert "  max_length = 25\n" in shown


def test_choices_of_a_setting_are_named(capsys):
    assert main(["models", "four_stage"]) == 0
    assert "  encoder = vgg  (vgg, rcnn, resnet)\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, sentence", [
    (["trab"], "expected a recognizer, found 'trab': did you mean 'trba'?"),
    (["--charset", "aa"], "--charset: a charset holds each character once, found ['a'] more than once: remove the repeats"),
])
def test_bad_input_is_one_sentence(arguments, sentence, capsys):
    assert main(["models", *arguments]) == 2
    assert capsys.readouterr().err == f"textray: error: {sentence}\n"


def test_counts_are_shown_with_three_digits():
    assert [millions(count) for count in (6_280_000, 686_300_000, 5_314_200_000, 12_345_678_901)] == ["6.28 M", "686 M", "5.31 G", "12.3 G"]


@pytest.mark.parametrize("arguments", [["models"], ["models", "crnn_tiny"], ["--help"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(arguments, buffered):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | ({} if buffered else {"PYTHONUNBUFFERED": "1"})
    command = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               cwd=Path(__file__).parents[2], env=environment)
    command.stdout.close()  # as `| head -0` does
    assert command.stderr.read() == b""
    assert command.wait() == 141


def test_another_pipe_that_breaks_is_not_taken_for_it(monkeypatch):
    def broken(argv):
        raise BrokenPipeError(32, "a store's")
    monkeypatch.setattr("pipelines.models.main", broken)
    with pytest.raises(BrokenPipeError, match="a store's"):
        main(["models"])
