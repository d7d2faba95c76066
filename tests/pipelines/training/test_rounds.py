"""Rounds of pseudo-labels: each a run, each from the last one's readings, and nothing done twice."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from killing import Killed, killing
from models.charset import Charset
from models.decoding.ngram import BEGIN, Ngram, trained_on
from models.recognizers import build
from pipelines.corpus.reader import Corpus
from pipelines.errors import BadInput
from pipelines.prediction import own_ngram
from pipelines.prediction.files import Line, write_csv
from pipelines.prediction.labeler import Manner
from pipelines.reading.weights import read_description, save_recognizer
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training import rounds
from pipelines.training.driver import Outcome
from pipelines.training.recipe import Recipe, parse_recipe
from pipelines.training.rounds import Rounds, self_train, student_recipe
from pipelines.training.runs import RunFolder

GREEDY = Manner(256, "float32", Namespace(beam=None, ngram=None, ngram_weight=0.3, bcn=None, bcn_weight=0.3, lexicon=None, both_ways_up=False))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """40 labeled words, and 30 to label, whose labels nobody looks at."""
    folder = tmp_path_factory.mktemp("corpora")
    render_corpus(folder / "source", 40, Settings(style="plain", charset="36"))
    render_corpus(folder / "target", 30, Settings(style="street", charset="36", seed=1))
    return folder


@pytest.fixture
def plan(corpora, tmp_path, store, monkeypatch) -> Rounds:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    return Rounds(recipe(corpora, tmp_path), 2, 0.0, GREEDY)


def recipe(corpora: Path, place: Path) -> Recipe:
    return parse_recipe({
        "name": "try", "runs": str(place / "runs"), "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"},
        "data": {"labeled": {"corpus": str(corpora / "source"), "batch_size": 8}, "unlabeled": {"corpus": str(corpora / "target"), "batch_size": 8}},
        "training": {"steps": 2, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5}})


def test_a_student_goes_on_from_its_teacher_or_begins_anew(plan):
    one = student_recipe(plan, 1, "MODEL", "LABELS")
    assert (one.name, one.initialize_from, one.recognizer.name) == ("try-round-1", "MODEL", "crnn_tiny")
    assert one.data.labeled.corpora == [plan.recipe.data.labeled.corpus, "LABELS"] and one.data.unlabeled is None
    assert one.objective["view"] == "strong" and one.data.labeled.weights is None
    assert student_recipe(replace(plan, fresh=True), 1, "MODEL", "LABELS").initialize_from is None
    larger = student_recipe(replace(plan, student="trba_tiny"), 2, "MODEL", "LABELS")
    assert (larger.name, larger.initialize_from, larger.recognizer.name) == ("try-round-2", None, "trba_tiny")


def test_a_teacher_that_no_student_can_go_on_from_is_refused_before_anything_is_trained(plan, tmp_path):
    save_recognizer(tmp_path / "teacher", build("crnn_small", Charset("36")))
    with pytest.raises(BadInput, match="initialize_from: the encoder of .* does not fit that of crnn_tiny; choose the same recognizer and options"):
        next(self_train(replace(plan, teacher=str(tmp_path / "teacher"))))
    assert student_recipe(replace(plan, recipe=plan.recipe.model_copy(update={"initialize_from": "START"}), student="trba_tiny"), 1, "", "LABELS"
                          ).initialize_from is None


def test_the_share_of_pseudo_labels_is_divided_by_rows(plan, corpora, tmp_path):
    names = [next(iter(Corpus.open(corpora / name).manifest.sources)) for name in ("source", "target")]
    if names[0] == names[1]:
        with pytest.raises(BadInput, match=f"--share: expected labeled and unlabeled sources of different names, found {names[0]} among both"):
            next(self_train(replace(plan, share=0.25)))
    else:
        student = student_recipe(replace(plan, share=0.25), 1, "MODEL", str(corpora / "target"))
        assert student.data.labeled.weights == {names[0]: 0.75, names[1]: 0.25}


def test_killed_rounds_go_on_and_learn_from_the_last_models_readings(plan, tmp_path, monkeypatch):
    plan = replace(plan, rounds=1)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "train", killing(rounds.train, calls=1))  # behind the pseudo-labels of round 1
        with pytest.raises(Killed):
            list(self_train(plan, quiet=True))
    labels = tmp_path / "runs/try/round-1/labels"
    before = (labels / "corpus.json").read_bytes()
    monkeypatch.setattr(rounds, "predict", killing(rounds.predict, calls=0))  # nothing is read again
    done = list(self_train(plan, quiet=True))
    assert [(each.number, each.run) for each in done] == [(number, str(tmp_path / f"runs/try-round-{number}")) for number in range(2)]
    assert (labels / "corpus.json").read_bytes() == before
    corpus, teacher = Corpus.open(labels), read_description(tmp_path / "runs/try-round-0/model")
    assert corpus.manifest.made_by["weights_sha256"] == teacher["weights_sha256"]
    assert corpus.manifest.made_by["readings"]["images"] == 30 and done[1].labels == corpus.rows
    with pytest.raises(BadInput, match="expected the pseudo-labels of try-round-0@.* with a confidence of 0.5 or more, found those of another"):
        list(self_train(replace(plan, least=0.5), quiet=True))
    assert [each.labels for each in self_train(plan, quiet=True)] == [each.labels for each in done]  # nothing is done again


def test_each_round_learns_from_what_the_last_rounds_model_reads(plan, monkeypatch):
    """Rounds without training and without reading: who labels, and where the student begins."""
    labeled, trained = [], []
    monkeypatch.setattr(rounds, "_label", lambda plan, model, target: labeled.append((model, Path(target).parent.name)))
    monkeypatch.setattr(rounds, "train", lambda recipe, quiet: trained.append((recipe.name, recipe.initialize_from)) or
                        Outcome(RunFolder(f"runs/{recipe.name}").place, {}))
    monkeypatch.setattr(rounds, "Corpus", Namespace(open=lambda place: Namespace(rows=7)))
    assert [(each.number, each.labels) for each in self_train(plan)] == [(0, None), (1, 7), (2, 7)]
    models = [RunFolder(f"runs/try-round-{number}").model for number in range(2)]
    assert labeled == [(models[0], "round-1"), (models[1], "round-2")]
    assert trained == [("try-round-0", None), ("try-round-1", models[0]), ("try-round-2", models[1])]


def test_an_n_gram_of_what_is_read_surely_guides_the_beam(plan, tmp_path, monkeypatch):
    """The 30 images are read greedily, and all anew; killed between the two, the first are not read again, nor for another confidence."""
    teacher = build("crnn_tiny", Charset("36"))
    with torch.no_grad():
        teacher.decoder.classifier.bias[teacher.decoder.tokens.blank] -= 5  # reads something everywhere
    save_recognizer(tmp_path / "teacher", teacher)
    guided = replace(plan, manner=replace(GREEDY, search=Namespace(**{**vars(GREEDY.search), "beam": 2})), own_ngram=1.0)
    with pytest.raises(BadInput, match="--own-ngram: expected words that .* reads with a confidence of 1 or more, found none: lower it, or leave it out"):
        rounds._label(guided, str(tmp_path / "teacher"), str(tmp_path / "labels"))
    monkeypatch.setattr(own_ngram, "predict", killing(own_ngram.predict, calls=0))  # what was read is still there
    guided = replace(guided, own_ngram=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "predict", killing(rounds.predict, calls=0))
        with pytest.raises(Killed):
            rounds._label(guided, str(tmp_path / "teacher"), str(tmp_path / "labels"))
    file, = tmp_path.glob("labels-own-*.json")
    assert sum(Ngram.load(file).counts[BEGIN].values()) == 30 and not list(tmp_path.glob("labels-first*"))
    rounds._label(guided, str(tmp_path / "teacher"), str(tmp_path / "labels"))
    made_by = Corpus.open(tmp_path / "labels").manifest.made_by
    assert (made_by["beam"], made_by["ngram"]) == (2, file.name) and made_by["readings"]["images"] == 30
    rounds._label(guided, str(tmp_path / "teacher"), str(tmp_path / "labels"))  # nothing is done again
    with pytest.raises(BadInput, match="expected what this model read, guided by its own readings of 0.5 and more, found what another model"):
        rounds._label(replace(guided, own_ngram=0.5), str(tmp_path / "teacher"), str(tmp_path / "labels"))


def test_an_n_gram_of_readings_knows_their_spaces(tmp_path):
    file = tmp_path / "first.csv"
    with open(file, "w", encoding="utf-8", newline="") as out:
        write_csv(out, [Line("1", "ab c", 0.9, None, False), Line("2", "b", 0.2, None, False), Line("3", " ", 0.9, None, True),
                        Line("4", "", 0.0, "no image", False)], "me")
    job = Namespace(labeler=Namespace(name="me", recognizer=Namespace(charset=Charset("ab c"))))
    assert own_ngram._ngram(job, str(file), 0.9).counts == trained_on(["ab c"], Charset("ab c")).counts


@pytest.mark.parametrize("change, message", [
    ({"own_ngram": 0.5}, "--own-ngram: expected --beam N with it, which it guides, and no --ngram, found no --beam"),
    ({"own_ngram": 0.5, "beam": 5, "ngram": "words.txt"}, "--own-ngram: expected --beam N with it, which it guides, and no --ngram, found --ngram"),
    ({"own_ngram": 0.5, "beam": 5, "recognizer": "hga"}, "--own-ngram: expected no language model, found one: the beam search of"),
    ({"beam": 5, "recognizer": "vitstr"}, "expected a decoder that writes step by step for a beam, found one of the kind parallel"),
])
def test_a_search_that_the_recognizer_does_not_have_is_refused_before_anything_is_trained(plan, change, message):
    search = Namespace(**{**vars(GREEDY.search), **{name: value for name, value in change.items() if name in ("beam", "ngram")}})
    recognizer = plan.recipe.recognizer.model_copy(update={"name": change.get("recognizer", "crnn_tiny")})
    recipe = plan.recipe.model_copy(update={"recognizer": recognizer})
    with pytest.raises(BadInput, match=message):
        next(self_train(replace(plan, recipe=recipe, manner=replace(GREEDY, search=search), own_ngram=change.get("own_ngram"))))
