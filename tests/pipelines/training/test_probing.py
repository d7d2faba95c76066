"""What a pretrained encoder is worth: the recipes of the probes, their table, and one that runs from end to end."""

from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.probe import as_table
from pipelines.synthesis.corpus import Settings, render_corpus
from pipelines.training.probing import Probe, Probed, recipe_of

ABOUT = {"name": "crnn_tiny", "charset": "0123456789", "overrides": {"width": 64}}


def plan(**changes) -> Probe:
    return Probe(**({"model": "seqclr", "labels": "corpora/labels", "sets": [], "name": "seqclr-probe"} | changes))


def test_a_probe_is_a_recipe_of_the_model_that_it_starts_from():
    recipe = recipe_of(plan(), ABOUT, "pretrained", 0.05, 2)
    assert (recipe.name, recipe.seed, recipe.initialize_from) == ("seqclr-probe-pretrained-5pct-seed2", 2, "seqclr")
    assert (recipe.recognizer.name, recipe.recognizer.charset, recipe.recognizer.options) == ("crnn_tiny", "0123456789", {"width": 64})
    assert (recipe.data.labeled.fraction, recipe.objective["name"], recipe.training.freeze) == (0.05, "supervised", None)


def test_without_pretraining_it_starts_from_nothing_and_frozen_probes_have_names_of_their_own():
    recipe = recipe_of(plan(freeze=True), ABOUT, "none", 1.0, 0)
    assert (recipe.name, recipe.initialize_from, recipe.training.freeze) == ("seqclr-probe-frozen-none-100pct-seed0", None, "encoder")


def test_another_decoder_takes_its_own_options():
    assert recipe_of(plan(recognizer="trba_tiny"), ABOUT, "pretrained", 1.0, 0).recognizer.options == {}


def test_the_table_has_the_mean_the_spread_and_what_pretraining_adds():
    done = [Probed(start, 0.05, seed, 11, {"SVT": base + 0.1 * (start == "pretrained"), "IC13": 0.5}, "")
            for seed, base in enumerate((0.2, 0.3)) for start in ("pretrained", "none")]
    assert as_table(done).splitlines() == [
        "pretraining  fraction  labels  seeds          SVT %        IC13 %",
        "pretrained       0.05      11      2   35.00 ± 7.07  50.00 ± 0.00",
        "none             0.05      11      2   25.00 ± 7.07  50.00 ± 0.00",
        "difference       0.05              2  +10.00 ± 0.00  +0.00 ± 0.00"]


def test_from_a_run_to_the_row_of_the_table(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    render_corpus("words", 120, Settings(style="plain", charset="36"))
    Path("pretrain.yaml").write_text("name: simclr\nrecognizer: {name: crnn_tiny, options: {width: 64}}\nobjective: {name: simclr, features: contextual, projection_width: 16}\n"
                                     "data: {unlabeled: {corpus: words, batch_size: 16}}\ntraining: {steps: 2, cpus_per_worker: 0.5}\n", encoding="utf-8")
    assert run("pretrain", ["pretrain.yaml"]) == 0
    probe = ["simclr", "--labeled", "words", "--data", "plain=words", "--fractions", "0.2", "--seeds", "1", "--steps", "2", "--freeze"]
    assert run("probe", probe) == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-2:]
    assert last[0].split() == ["pretraining", "fraction", "labels", "seeds", "plain", "%"]
    assert last[1].split()[:2] == ["pretrained", "0.2"] and 10 < int(last[1].split()[2]) < 40 and last[1].split()[3] == "1"
    assert Path("runs/simclr-probe-frozen-pretrained-20pct-seed0/model/weights.pt").is_file()
    assert run("probe", probe) == 0  # nothing is trained again
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == last[1]


@pytest.mark.parametrize(("option", "sentence"), [
    (["--fractions", "0,1"], "expected shares above 0 and up to 1, such as 0.05,0.1,1, found '0,1'"), (["--seeds", "0"], "--seeds: expected at least 1, found 0"),
])
def test_options_that_make_no_sense(option, sentence, capsys):
    assert run("probe", ["model", "--labeled", "words", "--data", "a=b", *option]) == 2
    assert sentence in capsys.readouterr().err
