"""Which version is the champion: by a paired test, one promotion at a time, and back again; and what a version says of itself."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from test_register import expected, in_the_store, model, words_folder  # noqa: F401  (two of them are fixtures)

from models.charset import Charset
from models.recognizers import build
from pipelines.cli import run
from pipelines.evaluation.comparison import Paired
from pipelines.evaluation.metrics import Score
from pipelines.ingestion.wordsets import open_sets
from pipelines.reading.weights import load_recognizer, save_recognizer
from pipelines.register import main
from pipelines.registry import versions
from pipelines.registry.card import lineage
from pipelines.registry.champion import register, verdict
from pipelines.training.runs import RunFolder, RunState, Start


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A model that reads nothing that `model` reads."""
    torch.manual_seed(1)
    return save_recognizer(tmp_path_factory.mktemp("other"), build("crnn_tiny", Charset.named("36"), max_length=5))


def gate_of(folder: Path, model: Path, right: int, wrong: int) -> Path:
    """Words of which `model` reads so many rightly, and no other model any."""
    answers = [text for text, _ in expected(model)]
    return words_folder(folder, [answers[index % len(answers)] for index in range(right)] + ["nothing like it"] * wrong)


def test_the_champion_changes_only_for_a_model_that_is_told_apart(model, other, store, tmp_path, capsys):
    command = ["--name", "crown", "--promote", "--data", f"gate={gate_of(tmp_path / 'gate', model, 8, 2)}"]
    few = ["--name", "crown", "--promote", "--data", f"gate={gate_of(tmp_path / 'few', model, 4, 2)}"]

    assert main([str(other), *command]) == 0
    assert "version 1 of crown is its first champion with 0 of 10 words (0.00 %) on the gate" in capsys.readouterr().out
    assert main([str(model), *few]) == 0
    assert ("version 2 of crown is not promoted, version 1 stays champion: 4 of 6 words (66.67 %) against 0 of 6 words (0.00 %) of version 1, 4 more (+66.67 points), "
            "not told apart (p = 0.125): more words may tell") in capsys.readouterr().out
    assert versions.alias_of(store, "crown", versions.CHALLENGER) == "2"
    assert main([str(model), *command, "--min-gain", "90"]) == 0
    assert "8 more (+80.00 points), less than the 90 that --min-gain wants" in capsys.readouterr().out
    assert main([str(model), *command]) == 0
    assert ("version 4 of crown is the new champion: 8 of 10 words (80.00 %) against 0 of 10 words (0.00 %) of version 1, 8 more (+80.00 points), "
            "told apart (p = 0.008)") in capsys.readouterr().out
    assert main([str(model), *command]) == 0
    assert "version 5 of crown is not promoted, version 4 stays champion: " in (said := capsys.readouterr().out) and "a tie" in said
    assert main([str(other), *command]) == 0
    assert "8 fewer (-80.00 points)" in capsys.readouterr().out
    assert (versions.champion_of(store, "crown"), versions.alias_of(store, "crown", versions.CHALLENGER)) == ("4", "6")
    assert load_recognizer("models:/crown@champion").max_length == 25


def test_the_champion_of_before_comes_back(model, other, store, tmp_path, capsys):
    command = ["--name", "back", "--promote", "--data", f"gate={gate_of(tmp_path / 'gate', model, 8, 0)}"]
    assert run("rollback", ["back"]) == 2
    assert "expected a registered model with a champion, found none called back" in capsys.readouterr().err
    for folder in (other, model):
        assert main([str(folder), *command]) == 0
    capsys.readouterr()
    assert run("rollback", ["back"]) == 0
    assert capsys.readouterr().out == "version 1 of back is the champion again; it was version 2\n"
    assert versions.champion_of(store, "back") == "1" and load_recognizer("models:/back@champion").max_length == 5
    assert run("rollback", ["back"]) == 2
    assert "back: expected a champion before version 1, found none: name the version, as --to 1" in capsys.readouterr().err
    assert run("rollback", ["back", "--to", "7"]) == 2
    assert "--to: expected a version of back (1, 2), found 7" in capsys.readouterr().err
    assert run("rollback", ["back", "--to", "2"]) == 0 and versions.champion_of(store, "back") == "2"
    assert "version 2 of back is the champion now; it was version 1" in capsys.readouterr().out
    assert run("rollback", ["back"]) == 0 and versions.champion_of(store, "back") == "1"  # what was before version 2 is still known


def test_a_model_that_became_champion_meanwhile_is_compared_with_too(model, other, store, tmp_path, monkeypatch):
    """Two promotions at once: the one that is decided later must not undo the other's because it has looked at the champion before."""
    gate = open_sets([f"gate={gate_of(tmp_path / 'gate', model, 8, 0)}"])
    torch.manual_seed(2)
    third = save_recognizer(tmp_path / "third", build("crnn_tiny", Charset.named("36"), max_length=6))
    assert register(str(third), "race", promote=True, gates=gate).version == "1"
    real, calls = versions.promoting, []

    @contextmanager
    def late(store, name):
        if not calls:
            calls.append("once")
            assert register(str(model), "race", promote=True, gates=gate).champion  # version 3 overtakes version 2
        with real(store, name):
            yield

    monkeypatch.setattr(versions, "promoting", late)
    answers = [text for text, _ in expected(other)]
    better_than_the_third = open_sets([f"gate={words_folder(tmp_path / 'mixed', [*answers * 2, *[text for text, _ in expected(model)] * 4])}"])
    found = register(str(other), "race", promote=True, gates=better_than_the_third)
    assert not found.champion and "against 16 of 24 words (66.67 %) of version 3" in found.sentence
    assert versions.champion_of(store, "race") == "3"


def test_a_long_card_is_cut_to_what_a_database_takes(model, store):
    version = versions.add_version(store, "1", "long", model, run=None, tags={})
    versions.describe(store, "long", version, "word " * 2000)
    assert len(MlflowClient(tracking_uri=store).get_model_version("long", version).description) <= 5000


def test_one_process_at_a_time_moves_a_champion(store):
    client = MlflowClient(tracking_uri=store)
    versions.ensure_name(client, "turns")
    client.set_registered_model_tag("turns", versions.PROMOTING, f"somebody {time.time() + 1.5}")  # as a killed one leaves it
    held = []

    def take(number: int) -> None:
        with versions.promoting(store, "turns"):
            held.append(number)
            time.sleep(0.2)
            assert held[-1] == number

    started = time.time()
    with ThreadPoolExecutor() as threads:
        list(threads.map(take, range(3)))
    assert sorted(held) == [0, 1, 2] and time.time() - started > 1.5
    assert versions.PROMOTING not in client.get_registered_model("turns").tags


def test_a_version_says_where_it_came_from(model, store, tmp_path):
    """Its card, which MLflow shows: the runs behind it with their corpora, what it reads, how it is asked."""
    runs = tmp_path / "runs"
    recognizer = load_recognizer(model)
    first = save_recognizer(runs / "images-alone" / "model", recognizer, {"run": "images-alone", "objective": "seqclr"})
    RunFolder(first.parent).write(RunState("finished", "0", 1, corpora={"corpora/unlabeled": "ab" * 32}))
    last = save_recognizer(runs / "tuned" / "model", recognizer, {"run": "tuned", "objective": "ccr"})
    RunFolder(last.parent).write(RunState("finished", "0", 1, corpora={"corpora/labeled": "cd" * 32}, start=Start(str(first), "ef" * 32)))
    assert [(each["run"], each["objective"], each["start"]) for each in lineage(str(last))] == [("tuned", "ccr", str(first)), ("images-alone", "seqclr", "")]
    words = words_folder(tmp_path / "words", [expected(model)[0][0] or "-", "nothing like it"])
    assert main([str(last), "--name", "carded", "--promote", "--data", f"words={words}"]) == 0
    version = MlflowClient(tracking_uri=store).get_model_version("carded", "1")
    for said in ("version 1 of carded is its first champion", "| recognizer | crnn_tiny |", "| tuned | ccr | corpora/labeled (cdcdcdcdcdcd) |",
                 "| images-alone | seqclr | corpora/unlabeled (abababababab) | weights drawn at random |", "| words | 2 | 50.00 |", 'load_model("models:/carded@champion")'):
        assert said in version.description, said
    assert version.tags["corpora"] == "corpora/labeled cdcdcdcdcdcd, corpora/unlabeled abababababab" and version.tags["began_with"] == str(first)
    assert len(version.tags["weights_sha256"]) == 64


@pytest.mark.parametrize(("found", "min_gain", "better", "said"), [
    (Paired(5, 0, 0, 5), 0, False, "5 of 10 words (50.00 %) against 5 of 10 words (50.00 %) of version 1, a tie"),
    (Paired(5, 1, 1, 3), 0, False, "a tie"),
    (Paired(40, 0, 6, 4), 0, True, "46 of 50 words (92.00 %) against 40 of 50 words (80.00 %) of version 1, 6 more (+12.00 points), told apart (p = 0.031)"),
    (Paired(40, 0, 5, 5), 0, False, "5 more (+10.00 points), not told apart (p = 0.062): more words may tell"),
    (Paired(40, 0, 6, 4), 15, False, "6 more (+12.00 points), less than the 15 that --min-gain wants"),
    (Paired(40, 0, 6, 4), 12, True, "told apart"),
    (Paired(40, 6, 0, 4), 0, False, "6 fewer (-12.00 points)"),
])
def test_the_gate_is_a_paired_test(found, min_gain, better, said):
    promoted, sentence = verdict("n", "2", Score(10, 5), "1", found, min_gain)
    assert promoted is better and said in sentence and sentence.startswith(f"version 2 of n is {'the new champion' if better else 'not promoted, version 1 stays champion'}: ")
