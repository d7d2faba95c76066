"""Bad input to every command: status 2, one sentence on stderr, no traceback, and nothing new on the disk."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipelines.cli import COMMANDS, run
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.shards import ShardWriter

LONG = "x" * 300
RECIPE = {"name": "mine", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"}, "training": {"steps": 10},
          "data": {"labeled": {"corpus": "corpus", "batch_size": 2}, "unlabeled": {"corpus": "corpus", "batch_size": 2}}}
PICTURE = cv2.imencode(".png", np.arange(8 * 20, dtype=np.uint8).reshape(8, 20))[1].tobytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a corpus, pictures, a recipe, and files that are none of these."""
    from models.charset import Charset
    from models.recognizers import build
    from pipelines.reading.weights import save_recognizer
    here = tmp_path_factory.mktemp("here")
    for folder in ("corpus", "pictures", "empty"):
        (here / folder).mkdir()
    with ShardWriter(here / "corpus", "words", 0) as writer:
        for row in range(8):
            writer.write(key=f"words/{row}", image=PICTURE, text="text", width=20, height=8, phash=row)
    write_quarantine(here / "corpus")
    write_manifest(here / "corpus", [writer.entry], {"words": SourceCounts(rows_in=8, kept=8, labeled=8)}, {"command": "test"})
    (here / "pictures" / "a.png").write_bytes(PICTURE)
    (here / "pictures" / "labels.tsv").write_text("a.png\ttext\n", encoding="utf-8")
    (here / "file").write_text("neither this nor that", encoding="utf-8")
    (here / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    (here / "binary.yaml").write_bytes(bytes(range(256)))
    (here / "utf16.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-16")
    (here / "list.yaml").write_text("[1, 2]", encoding="utf-8")
    (here / "empty.yaml").touch()
    save_recognizer(here / "model", build("crnn_tiny", Charset.named("36")))
    return here


FINETUNE, TUNE, EVALUATE = ["finetune", "recipe.yaml"], ["tune", "recipe.yaml"], ["evaluate", "model", "--data", "corpus"]
SELF_TRAIN = ["self-train", "recipe.yaml", "objective={name: supervised}"]
PREDICT = ["predict", "model", "pictures"]
INGEST, RENDER = ["ingest", "pictures", "--out", "new"], ["render", "--out", "new", "-n", "3"]
FINITE = "expected a finite number, found"
CASES: list[tuple[list[str], str]] = [
    # numbers that are none
    *(([*INGEST, option, text], f"argument {option}: {FINITE} {text!r}") for option in ("--max-errors", "--max-aspect") for text in ("nan", "inf", "x")),
    *(([*EVALUATE, "--beam", "3", "--ngram", "file", f"{option}={text}"], f"argument {option}: {FINITE} {text!r}")
      for option in ("--ngram-weight", "--bcn-weight") for text in ("nan", "inf", "-inf")),
    ([*EVALUATE, "--beam", "3", "--ngram", "file", "--ngram-weight", "-1"], "argument --ngram-weight: expected 0 or more, found -1"),
    ([*EVALUATE, "--beam", "3", "--bcn", "model", "--bcn-weight", "-0.5"], "argument --bcn-weight: expected 0 or more, found -0.5"),
    ([*EVALUATE, "--gate", "corpus=nan"], "an accuracy from 0 to 1, found 'corpus=nan'"),
    ([*EVALUATE, "--gate", "corpus=inf"], "an accuracy from 0 to 1, found 'corpus=inf'"),
    ([*EVALUATE, "--gate", "corpus"], "expected NAME=ACCURACY"),
    ([*EVALUATE, "--batch-size", "0"], "--batch-size: expected at least 1, found 0"),
    ([*EVALUATE, "--batch-size", "1.5"], "argument --batch-size: invalid int value: '1.5'"),
    ([*EVALUATE, "--beam", "0"], "beam"),
    ([*EVALUATE, "--lexicon", "1"], "expected the true word and at least 1 other, found 1"),
    ([*INGEST, "--max-errors", "1.5"], "--max-errors: expected a share from 0 to 1, found 1.5"),
    ([*INGEST, "--max-errors", "-0.1"], "--max-errors: expected a share from 0 to 1, found -0.1"),
    ([*INGEST, "--min-side", "-1"], "--min-side: expected 0 or more, found -1"),
    ([*INGEST, "--rows-per-group", "0"], "--rows-per-group: expected 1 or more, found 0"),
    ([*RENDER[:-1], "0"], "expected at least 1 picture, found 0"),
    ([*RENDER[:-1], "true"], "argument -n: invalid int value: 'true'"),
    ([*RENDER, "--seed", "-1"], "expected a seed of 0 or more, found -1"),
    ([*RENDER, "--max-length", "0"], "--max-length"),
    (["export", "corpus", "--format", "lmdb", "--out", "new", "--rows-per-file", "0"], "--rows-per-file: expected 1 or more, found 0"),
    (["describe", "corpus", "--html", "new", "--images", "-1"], "--images: expected 0 or more, found -1"),
    ([*TUNE, "--trials", "0"], "expected --trials of at least 1, found 0"),
    ([*TUNE, "--concurrency", "0"], "expected --concurrency of at least 1, found 0"),
    ([*PREDICT, "--batch-size", "0"], "--batch-size: expected at least 1, found 0"),
    *(([*PREDICT, "--min-confidence", text], f"argument --min-confidence: {FINITE} {text!r}") for text in ("nan", "inf", "x")),
    *(([*PREDICT, "--min-confidence", text], f"--min-confidence: expected a confidence from 0 to 1, found {text}") for text in ("1.5", "-0.1")),
    # predict: what excludes each other
    ([*PREDICT, "--lexicon", "full"], "--lexicon: expected a file of words, found 'full'"), ([*PREDICT, "--lexicon", "50"], "expected a file of words, found '50'"),
    ([*PREDICT, "--overwrite"], "--overwrite: expected --out with it, found none"), ([*PREDICT, "--keep-images", "no"], "--keep-images: expected --out with it"),
    ([*PREDICT, "--out", "new.csv", "--json"], "--json: expected no --out with it, found new.csv"),
    ([*PREDICT, "--out", "new.csv", "--keep-images", "yes"], "--keep-images yes: expected a corpus, which holds its images, found --out new.csv"),
    ([*PREDICT, "--out", "new", "--keep-images", "no"], "--keep-images no: expected a file, for a corpus holds its images, found --out new"),
    ([*PREDICT, "--out", "new.json"], "expected a name that ends in .csv, .tsv, .jsonl, or the name of a corpus"),
    ([*PREDICT, "--beam", "2", "--lexicon", "file"], "expected --beam or --lexicon, found both"), ([*PREDICT, "--ngram", "file"], "--ngram: expected --beam N with it"),
    (["predict", "model", "pictures", "--out", "new"], "expected sources that are corpora, for a corpus is to be made of them, found"),
    (["predict", "model", "corpus", "./corpus", "--out", "new"], "expected sources with different names, found words in corpus and in ./corpus"),
    (["predict", "model", "corpus", "--out", "corpus/new"], "expected a folder apart from the sources"),
    # self-train
    *(([*SELF_TRAIN, *options], sentence) for *options, sentence in (
        ("--rounds", "0", "--rounds: expected at least 1, found 0"), ("--min-confidence", "2", "--min-confidence: expected a confidence from 0 to 1, found 2"),
        ("--share", "1", "--share: expected a share between 0 and 1, found 1"), ("--share", "0.5", "--share: expected labeled and unlabeled sources of different names"),
        ("--student", "crnn_tinny", "did you mean 'crnn_tiny'?"), ("--lexicon", "full", "--lexicon: expected a file of words"),
        ("objective={name: ccr}", "objective.name: expected supervised"), ("data.labeled.fraction=0.5", "data.labeled.fraction: expected 1"),
        ("data.unlabeled=null", "data.unlabeled: expected the corpora that are to be labeled, found none"),
        ("data.labeled.weights={words: 1}", "data.labeled.weights: expected --share beside them"), ("training.steps", "expected key=value"))),
    # recipes: numbers
    *(([*FINETUNE, f"{key}={text}"], f"{key}: input should be a finite number") for key in (
        "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.gradient_clip", "training.cpus_per_worker", "data.labeled.fraction",
        "objective.confidence_threshold", "objective.ema_decay", "objective.consistency_weight", "objective.sharpening_temperature")
      for text in (".nan", ".inf")),
    *(([*command, f"{key}=true"], f"{key}: expected a number or a text, found true") for command in (FINETUNE, TUNE) for key in (
        "training.steps", "data.labeled.batch_size", "seed", "optimizer.learning_rate", "training.workers", "objective.ema_decay")),
    ([*FINETUNE, "data.labeled.weights={words: true}"], "data.labeled.weights: expected a number or a text, found"),
    ([*FINETUNE, "data.labeled.weights={words: -1}"], "input should be greater than 0, found -1"),
    ([*FINETUNE, "data.labeled.weights={words: .inf}"], "input should be a finite number, found inf"),
    ([*FINETUNE, "data.labeled.batch_size=1.5"], "data.labeled.batch_size: input should be a valid integer"),
    ([*FINETUNE, "training.steps=1e400"], "training.steps: input should be a"),
    ([*FINETUNE, "training.minutes=5"], "training.minutes: expected no training.steps beside it, found 10: leave one of them out, as with training.steps=null"),
    ([*FINETUNE, "training.steps=null", "training.minutes=0"], "training.minutes: input should be greater than 0, found 0"),
    ([*FINETUNE, "training.compile=1"], "training.compile: expected true or false, found 1"),
    ([*FINETUNE, "training.gpu=maybe"], "training.gpu: expected true or false, found 'maybe'"),
    ([*FINETUNE, "objective.ema=1"], "objective.ema: expected true or false, found 1"),
    ([*FINETUNE, "objective.consistency_weight=-1"], "objective: ccr expects consistency_weight of 0 or more, found -1.0"),
    ([*FINETUNE, "objective.domain_adaptation_weight=-0.1"], "objective: ccr expects domain_adaptation_weight of 0 or more, found -0.1"),
    ([*FINETUNE, "objective.confidence_threshold=1.5"], "objective: ccr expects confidence_threshold from 0 to 1, found 1.5"),
    # recipes: options of the recognizer
    *(([*FINETUNE, f"recognizer.options={{{option}}}"], f"recognizer.options: {sentence}") for option, sentence in (
        ("width: wide", "width: expected a whole number from 1 to 100,000, found 'wide'"), ("width: -5", "width: expected a whole number from 1"),
        ("width: true", "width: expected a whole number from 1"), ("width: 1.5", "width: expected a whole number from 1"),
        ("width: 1000000000", "width: expected a whole number from 1"), ("max_length: .nan", "max_length: expected a whole number from 1"),
        ("aspect: round", "aspect: expected stretch, pad, keep, found 'round'"), ("wdth: 5", "expected a setting of the recognizer crnn_tiny, found 'wdth': did you mean width?"))),
    (["finetune", "recipe.yaml", "recognizer.name=abinet", "recognizer.options={language_weight: .inf}"],
     "language_weight: expected a finite number, 0 or more, found inf"),
    (["finetune", "recipe.yaml", "recognizer.name=vitstr", "recognizer.options={patch: 4}"], "patch: expected a list of which each is a whole number"),
    (["finetune", "recipe.yaml", "recognizer.name=moran", "recognizer.options={bidirectional: 1}"], "bidirectional: expected true or false, found 1"),
    (["import-weights", "file", "--name", "m", "--option", "width"], "--option: expected key=value"),
    # recipes: the file
    *(([command, file], sentence) for command in ("pretrain", "finetune", "tune") for file, sentence in (
        ("binary.yaml", "expected YAML, found bytes that are no text"), ("utf16.yaml", "expected YAML, found bytes that are no text"),
        ("list.yaml", "expected keys and values, found a list"), ("empty.yaml", "expected YAML, found an empty file"), ("nowhere.yaml", "found nothing at"),
        ("empty", "expected a recipe file, found"), ("file/below", "found nothing at"), (LONG, "expected"))),
    ([*FINETUNE, f"name={LONG}"], "name: string should have at most 100 characters"),
    ([*FINETUNE, "name=../out"], "name: string should match pattern"),
    ([*FINETUNE, "training.steps"], "expected key=value"),
    # files for folders, folders for files, names that no disk takes
    *(([command, *options], sentence) for command, *options, sentence in (
        ("describe", "file", "expected a corpus"), ("describe", "empty", "expected a corpus"), ("describe", "corpus/corpus.json", "expected a corpus"),
        ("describe", LONG, LONG), ("describe", "corpus", "--html", "empty", "--html empty"), ("describe", "corpus", "--html", "file/page", "file/page"),
        ("export", "file", "--format", "lmdb", "--out", "new", "expected a corpus"),
        ("export", "corpus", "--format", "lmdb", "--out", "file", "file"), ("export", "corpus", "--format", "lmdb", "--out", "file/new", "file"),
        ("export", "corpus", "--format", "lmdb", "--out", LONG, LONG),
        ("ingest", "nowhere", "--out", "new", "nowhere"), ("ingest", "pictures", "--out", "file", "expected a folder name that is free, found a file"),
        ("ingest", "pictures", "--out", "file/new", "file/new"), ("ingest", "pictures", "--out", LONG, LONG), ("ingest", LONG, "--out", "new", LONG),
        ("ingest", "pictures", "--guard", "nowhere", "--out", "new", "nowhere"), ("render", "--out", "file", "found a file"),
        ("render", "--out", "file/new", "file/new"), ("render", "--out", LONG, LONG), ("render", "--out", "new", "--words", "nowhere", "nowhere"),
        ("render", "--out", "new", "--words", "empty", "empty"), ("render", "--out", "new", "--words", "binary.yaml", "binary.yaml"),
        ("render", "--out", "new", "--fonts", "nowhere", "nowhere"), ("render", "--out", "new", "--fonts", "file", "file"),
        ("render", "--sheet", "empty", "expected a file name that ends in .png or .jpg"), ("render", "--sheet", "nowhere/a.png", "nowhere"),
        ("render", "--sheet", "file/a.png", "file"), ("render", "--sheet", f"{LONG}.png", LONG), ("render", "--sheet", "/dev/full/a.png", "/dev/full"),
        ("evaluate", "nowhere", "--data", "corpus", "nowhere"), ("evaluate", "file", "--data", "corpus", "found none called file"),
        ("evaluate", "empty", "--data", "corpus", "in empty or"), ("evaluate", "model", "--data", "nowhere", "nowhere"),
        ("evaluate", "model", "--data", "file", "file"), ("evaluate", "model", "--data", "corpus", "--out", "file", "expected a folder, found a file"),
        ("evaluate", "model", "--data", "corpus", "--out", "file/new", "file"), ("evaluate", LONG, "--data", "corpus", LONG),
        ("evaluate", "model", "--data", "corpus", "--lexicon", "empty", "--lexicon: expected a file that can be read, found empty"),
        ("evaluate", "model", "--data", "corpus", "--lexicon", "binary.yaml", "--lexicon: expected a text file in UTF-8"),
        ("evaluate", "model", "--data", "corpus", "--beam", "3", "--ngram", "empty", "empty"),
        ("evaluate", "model", "--data", "corpus", "--device", "tpu", "--device: expected a device of this machine"),
        ("predict", "nowhere", "pictures", "nowhere"), ("predict", "file", "pictures", "found none called file"), ("predict", LONG, "pictures", LONG),
        ("predict", "model", "nowhere", "nowhere"), ("predict", "model", "nowhere.png", "nowhere.png: expected an image, found no such file"),
        ("predict", "model", "file", "file"), ("predict", "model", "empty", "empty"), ("predict", "model", LONG, LONG),
        ("predict", "model", "@nowhere", "@nowhere: expected a list of images"), ("predict", "model", "@empty.yaml", "expected a list of images, a name a line, found none"),
        ("predict", "model", "@binary.yaml", "expected a list of images in UTF-8"), ("predict", "model", "pictures", "--out", "file", "expected sources that are corpora"),
        ("predict", "model", "corpus", "--out", "file", "expected a folder name that is free, found a file"), ("predict", "model", "corpus", "--out", "file/new", "file/new"),
        ("predict", "model", "corpus", "--out", LONG, LONG), ("predict", "model", "pictures", "--out", f"{LONG}.csv", LONG),
        ("predict", "model", "pictures", "--out", "file/new.csv", "file/new.csv"),
        ("predict", "model", "pictures", "--lexicon", "nowhere", "--lexicon: expected a file that can be read"),
        ("predict", "model", "corpus", "--out", "new", "--lexicon", "empty", "--lexicon: expected a file that can be read"),
        ("predict", "model", "pictures", "--device", "tpu", "--device: expected a device of this machine"),
        ("predict", "model", "pictures", "--out", "new.csv", "--device", "tpu", "--device: expected a device of this machine"),
        ("calibrate", "nowhere", "--data", "corpus", "nowhere"), ("calibrate", "model", "--data", "file", "file"),
        ("calibrate", "model", "--data", "corpus", "--batch-size", "-1", "--batch-size: expected at least 1, found -1"),
        ("export-model", "nowhere", "--out", "new.pt2", "nowhere"), ("export-model", "model", "--out", "new.txt", "expected a file ending in"),
        ("export-model", "model", "--out", "nowhere/new.pt2", "nowhere"), ("export-model", "model", "--out", "file/new.pt2", "file"),
        ("export-model", "model", "--out", f"{LONG}.pt2", LONG), ("export-model", "model", "--out", "new.pt2", "--data", "nowhere", "nowhere"),
        ("import-weights", "nowhere", "--out", "new", "nowhere"), ("import-weights", "empty", "--out", "new", "empty"),
        ("import-weights", "file", "--out", "new", "file"), ("import-weights", "file", "--out", "file", "--out"),
        ("import-weights", "file", "--out", "new", "--charset", "@nowhere", "nowhere"), ("import-weights", "file", "--out", "new", "--charset", "@binary.yaml", "--charset"),
        ("import-weights", "file", "--name", LONG, "--name: expected at most"), ("register", "nowhere", "--name", LONG, "--name: expected at most"),
        ("models", "--charset", "aa", "--charset"), ("models", LONG, "expected a recognizer"),
        ("verify", "nowhere", "expected a corpus, a model or a run"), ("verify", "file", "expected a corpus, a model or a run"), ("verify", LONG, LONG),
        ("demo", "--out", "file/new", "file"), ("demo", "--out", "new", "--benchmarks", "nowhere", "nowhere"), ("demo", "--out", LONG, LONG))),
    *(([*FINETUNE, f"{key}={value}"], sentence) for key, value, sentence in (
        ("runs", "file", "file"), ("runs", "file/below", "file"), ("runs", "/dev/full", "/dev/full"), ("data.labeled.corpus", "file", "expected a corpus"),
        ("data.labeled.corpus", "empty", "expected a corpus"), ("data.labeled.corpus", "[corpus, nowhere]", "nowhere"), ("data.labeled.corpus", LONG, LONG),
        ("data.validation", "{corpus: nowhere}", "nowhere"), ("data.validation", "{corpus: corpus, words: 0}", "input should be greater than 0"),
        ("initialize_from", "nowhere", "nowhere"), ("initialize_from", "file", "file"), ("recognizer.charset", "aa", "charset"))),
    # what a command line lacks or does not know
    *(([name, "--no-such-option"], f"`textray {name} --help` shows what it takes") for name in COMMANDS),
    *(([name], "the following arguments are required") for name in COMMANDS if name not in ("demo", "doctor", "models", "import-weights", "recipes", "render", "runs")),
    # what runs and comparisons cannot be made of
    *((["runs", *rest], sentence) for *rest, sentence in (
        ("runs: expected a folder of runs",), ("file", "file: expected a folder of runs"), ("--follow", "none", "runs/none: expected a run, found none"),
        ("--follow", "./empty", "./empty: expected a run, found none"))),
    *((["split", *rest], sentence) for *rest, sentence in (
        ("nowhere", "nowhere: expected a corpus"), ("file", "file: expected a corpus"), ("corpus", "--validation", "nan", f"argument --validation: {FINITE} 'nan'"),
        ("corpus", "--test", "-1", "argument --test: expected 0 or more, found -1"), ("corpus", "--test", "1", "expected shares that are together above 0"),
        ("corpus", "--out", "file/below", "file/below-train"))),
    *((["relabel", *rest], sentence) for *rest, sentence in (
        ("nowhere", "list.csv", "--out", "new", "nowhere: expected a corpus"), ("corpus", "nowhere", "--out", "new", "nowhere: expected a list of corrections"),
        ("corpus", "file", "--out", "new", "file: expected the columns key and correct"), ("corpus", "binary.yaml", "--out", "new", "binary.yaml: expected a list in UTF-8"))),
    *((["describe", "corpus", *rest], sentence) for *rest, sentence in (
        ("--suspects", "nowhere", "nowhere"), ("--suspects", "model", "--min-confidence", "2", "--min-confidence 2"), ("--suspects", "model", "--html", "file", "--html file"),
        ("--suspects", "model", "--most", "0", "--most 0"))),
    *((["adapt", *rest], sentence) for *rest, sentence in (
        ("nowhere", "nowhere"), ("file", "file"), ("pictures", "--labels", "nowhere", "--labels nowhere"), ("pictures", "--words", "nowhere", "nowhere"),
        ("pictures", "--pattern", "[A", "--pattern '[A'"), ("pictures", "--model", "nowhere", "nowhere"), ("pictures", "--charset", "aa", "--charset aa"),
        ("pictures", "--minutes", "0", "argument --minutes: expected a number above 0, found 0"), ("pictures", "--out", "file", "file"),
        ("pictures", "--words", "file", "--pattern", "A", "not allowed with argument"))),
    *((["recipes", *rest], sentence) for *rest, sentence in (
        ("nowhere", "expected a recipe of textray's, found 'nowhere'"), ("ccr_trba", "--copy", "file", "--copy file: expected a new file"),
        ("ccr_trba", "--copy", "nowhere/x", "--copy nowhere/x: expected a folder that is there"))),
    *((["compare", *rest], sentence) for *rest, sentence in (
        ("model", "nowhere", "--data", "corpus", "nowhere"), ("model", "model", "--data", "nowhere", "nowhere"),
        ("model", "model", "--data", "corpus", "--batch-size", "0", "--batch-size: expected at least 1, found 0"),
        ("model", "model", "--data", "corpus", "--out", "file", "--out file"), ("model", "model", "--data", "corpus", "--out", "file/page", "file/page"))),
]


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("command, sentence", CASES, ids=[" ".join(command).replace(LONG, "LONG") for command, _ in CASES])
def test_bad_input_is_one_sentence_and_leaves_nothing(command, sentence, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/full/mlflow.db")  # whatever goes as far as that would leave a store
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("it went as far as starting Ray"))
    before = listing(place)
    assert run(command[0], command[1:]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 and shown[0].startswith("textray: error: ") and sentence in shown[0], shown
    assert "Traceback" not in shown[0] and listing(place) == before


def test_the_recipe_that_the_table_spoils_is_right(place, monkeypatch):
    from pipelines.training.recipe import load_recipe
    monkeypatch.chdir(place)
    assert json.loads(json.dumps(load_recipe("recipe.yaml").objective))["name"] == "ccr"
