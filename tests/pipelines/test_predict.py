"""What a model reads, as lines, files and corpora: every image once, in order, with its confidence and its labeler, whatever is killed in between."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from confident import sure_model
from foreign import make_folder, make_lmdb
from killing import Killed, killing
from models.charset import Charset
from pipelines.cli import run
from pipelines.corpus.manifest import SourceCounts, write_manifest
from pipelines.corpus.quarantine import write_quarantine
from pipelines.corpus.reader import Corpus
from pipelines.corpus.shards import ShardWriter
from pipelines.corpus.verification import verify_corpus
from pipelines.evaluation.measure import evaluate_recognizer
from pipelines.ingestion.staging import LocalStaging
from pipelines.prediction import pipeline, readings
from pipelines.prediction.sources import CorpusSource, open_all
from pipelines.progress import Progress
from pipelines.reading.weights import load_recognizer, read_description, save_temperature

BROKEN = b"\x89PNG\r\n\x1a\n no more"
LEAST = 0.425  # a confidence that about half of the pictures reach
# The model's weights below are 1000 times those of a fresh one, so that it is sure of something; what float32 rounds at a logit of 300 (3e-5)
# moves the probability of 25 frames by less than this, whatever the processor and the batch.
NEAR = 1e-3


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 6, 3), np.uint8)
    return cv2.imencode(".png", cv2.resize(noise, (60, 20), interpolation=cv2.INTER_CUBIC))[1].tobytes()


PICTURES = [picture(seed) for seed in range(26)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return sure_model(tmp_path_factory.mktemp("model"), run="sure")


@pytest.fixture(scope="module")
def expected(model) -> list[tuple[str, float]]:
    """What evaluation says that the model reads of each of PICTURES, and how sure it is; none of them near LEAST."""
    found = evaluate_recognizer(load_recognizer(model), [(str(seed), image, "") for seed, image in enumerate(PICTURES)]).words
    assert min(abs(word.confidence - LEAST) for word in found) > 2 * NEAR
    return [(word.prediction, word.confidence) for word in found]


def labeler(model: Path) -> str:
    return f"sure@{read_description(model)['weights_sha256'][:12]}"


def near(confidence: float):
    return pytest.approx(confidence, abs=NEAR)


def label(seed: int) -> str | None:
    return f"label{seed}" if seed % 3 == 0 else None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Two sources: three shards of `signs` with 20 pictures, of which the eighth is broken, and one of `words` with six; a third has labels."""
    folder = tmp_path_factory.mktemp("in") / "corpus"
    shards, seed = [], 0
    for source, index, rows in (("signs", 0, 9), ("signs", 1, 7), ("signs", 2, 4), ("words", 0, 6)):
        with ShardWriter(folder, source, index, rows_per_group=3) as writer:
            for _ in range(rows):
                writer.write(key=f"{source}/{seed}", image=BROKEN if seed == 7 else PICTURES[seed], text=label(seed), width=60, height=20, phash=seed)
                seed += 1
        shards.append(writer.entry)
    write_quarantine(folder)
    counts = {"signs": SourceCounts(rows_in=20, kept=20, labeled=7), "words": SourceCounts(rows_in=6, kept=6, labeled=2)}
    write_manifest(folder, shards, counts, {"command": "test"})
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of four rows and more, and Ray for more than ten images, so that few are enough."""
    monkeypatch.setattr(readings, "LEAST_BLOCK", 4)
    monkeypatch.setattr(pipeline, "AT_ONCE", 10)


def predict(*arguments: object) -> int:
    return run("predict", [str(argument) for argument in arguments])


def rows_of(folder: Path) -> list[dict]:
    return pa.concat_tables(Corpus.open(folder).rows_iter()).to_pylist()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def no_ray(monkeypatch):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("it started Ray"))
    monkeypatch.setattr(pipeline, "read_blocks", lambda *_: pytest.fail("it used Ray"))


def test_images_and_folders_are_read_line_by_line_without_ray(model, expected, tmp_path, monkeypatch, capsys):
    no_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, {"one.png": PICTURES[0], "more/b.png": PICTURES[2], "more/a.png": PICTURES[1], "no ending": PICTURES[3]})
    assert predict(model, "one.png", "more", "no ending", "./one.png") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    order = [("one.png", 0), ("more/a.png", 1), ("more/b.png", 2), ("no ending", 3), ("./one.png", 0)]
    assert [line[:2] for line in lines] == [[key, expected[seed][0]] for key, seed in order]
    assert [float(line[2]) for line in lines] == pytest.approx([expected[seed][1] for _, seed in order], abs=NEAR)
    assert all(len(line[2]) == 6 for line in lines)  # 0.1234


def test_a_name_with_tabs_and_line_ends_stays_one_line_of_three_columns(model, expected, tmp_path, monkeypatch, capsys):
    no_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, {"a\tb\nc.png": PICTURES[0], "a\tb\nbroken.png": BROKEN})
    assert predict(model, "a\tb\nc.png", "a\tb\nbroken.png") == 0
    shown = capsys.readouterr()
    assert [line.split("\t")[:2] for line in shown.out.splitlines()] == [[r"a\tb\nc.png", expected[0][0]], [r"a\tb\nbroken.png", ""]]
    assert shown.err.splitlines() == [r"a\tb\nbroken.png: truncated image"]


def test_a_list_is_read_and_what_cannot_be_read_is_named_and_counted(model, expected, tmp_path, monkeypatch, capsys):
    no_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, {"a, b.png": PICTURES[0], "broken.png": BROKEN, "list": b"a, b.png\ngone.png\n\nbroken.png\nsome\n", "some/c.png": PICTURES[1]})
    assert predict(model, "@list", "--json") == 0
    shown = capsys.readouterr()
    first, gone, broken, folder = map(json.loads, shown.out.splitlines())
    assert first == {"key": "a, b.png", "text": expected[0][0], "confidence": near(expected[0][1]), "labeler": labeler(model), "problem": None,
                     "upside_down": False}
    assert (gone["text"], gone["confidence"], gone["problem"], broken["problem"]) == ("", 0.0, "missing file", "truncated image")
    assert shown.err.splitlines() == ["gone.png: missing file", "broken.png: truncated image", "some: folder where an image was named"]
    assert (folder["key"], folder["text"]) == ("some", "")
    assert predict(model, "@list", "--min-confidence", "0") == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 and shown.err == "predict: 1 of 4 images kept (1 missing file, 1 truncated image, 1 folder where an image was named)\n"


@pytest.mark.parametrize("ending, delimiter", [("csv", ","), ("tsv", "\t")])
def test_few_images_become_a_table_without_ray(model, expected, tmp_path, monkeypatch, ending, delimiter):
    no_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, {"a, \"b\".png": PICTURES[0], "broken.png": BROKEN})
    assert predict(model, "a, \"b\".png", "broken.png", "--out", f"new.{ending}", "--keep-images", "no") == 0
    raw = (tmp_path / f"new.{ending}").read_bytes().decode("utf-8").split("\n")
    head, first, broken = csv.reader(raw[:-1], delimiter=delimiter)
    assert head == ["key", "text", "confidence", "labeler", "problem", "upside_down"] and raw[-1] == ""
    assert [*first[:2], *first[3:]] == ["a, \"b\".png", expected[0][0], labeler(model), "", "false"] and float(first[2]) == near(expected[0][1])
    assert broken == ["broken.png", "", "0.000000", labeler(model), "truncated image", "false"]
    assert raw[2] == delimiter.join(broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a, \"b\".png", "broken.png", f"new.{ending}"]


def test_an_lmdb_becomes_json_lines(model, expected, tmp_path, monkeypatch):
    no_ray(monkeypatch)
    make_lmdb(tmp_path / "in", {number: PICTURES[number] for number in (1, 2, 3)}, {1: b"One"})
    assert predict(model, tmp_path / "in", "--out", tmp_path / "new.jsonl", "--min-confidence", LEAST) == 0
    found = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text(encoding="utf-8").splitlines()]
    sure = [number for number in (1, 2, 3) if expected[number][1] >= LEAST]
    assert [(line["key"], line["text"]) for line in found] == [(f"in/{number:09d}", expected[number][0]) for number in sure]


def test_a_corpus_becomes_pseudo_labels(ray_session, model, expected, corpus, tmp_path, capsys):
    assert predict(model, corpus, "--out", tmp_path / "new", "--min-confidence", LEAST) == 0
    sure = [seed for seed in range(26) if seed != 7 and expected[seed][0] and expected[seed][1] >= LEAST]
    assert 5 < len(sure) < 20
    before = {row["key"]: row for row in rows_of(corpus)}
    after = rows_of(tmp_path / "new")
    assert [row["phash"] for row in after] == sure  # in the order of the source
    for row, seed in zip(after, sure, strict=True):
        assert row == {**before[row["key"]], "text": expected[seed][0], "confidence": near(expected[seed][1]), "labeler": labeler(model)}
    found = Corpus.open(tmp_path / "new")
    signs = found.manifest.sources["signs"]
    kept = sum(seed < 20 for seed in sure)
    assert (signs.rows_in, signs.kept, signs.labeled, signs.quarantined, signs.filtered) == (20, kept, kept, 1, 19 - kept)
    assert signs.reasons == {"confidence below 0.425": 19 - kept, "truncated image": 1}
    rejected = [row for table in found.quarantine_iter() for row in table.to_pylist()]
    assert len(rejected) == 26 - len(sure) and all(row["image"] is None for row in rejected)
    assert {(row["key"], row["kind"], row["text"]) for row in rejected} >= {("signs/7", "quarantined", None)}
    assert all(row["text"] == expected[int(row["key"].split("/")[1])][0] for row in rejected if row["kind"] == "filtered")
    assert not any("label" in (row["text"] or "") for row in [*after, *rejected])  # the labels of the source are nowhere
    made_by = found.manifest.made_by
    assert (made_by["labeler"], made_by["min_confidence"], made_by["readings"]["images"]) == (labeler(model), LEAST, 26)
    assert verify_corpus(str(tmp_path / "new")).damaged == [] and [path.name for path in tmp_path.iterdir()] == ["new"]
    shown = capsys.readouterr()
    assert f"{len(sure)} of 26 images kept ({25 - len(sure)} confidence below 0.425, 1 truncated image), by {labeler(model)}" in shown.out
    assert shown.out.splitlines()[1].split() == [">=", "0.00", "25", "96.2", "9", "0.00"]  # nine of these have a label, which none says
    assert "predict: 26 of 26 images (100 %)" in shown.err


@pytest.mark.parametrize("where, name, calls", [(Progress, "add", 0), (Progress, "add", 3), (pipeline, "in_tasks", 0), (LocalStaging, "publish", 0),
                                                (LocalStaging, "remove", 0), (readings.Readings, "remove", 0)])
def test_a_killed_prediction_goes_on_and_ends_with_the_same_bytes(model, corpus, tmp_path, whole, monkeypatch, capsys, where, name, calls):
    with monkeypatch.context() as patch:
        patch.setattr(where, name, killing(getattr(where, name), calls))
        with pytest.raises(Killed):
            predict(model, corpus, "--out", tmp_path / "new", "--min-confidence", LEAST)
    capsys.readouterr()
    assert predict(model, corpus, "--out", tmp_path / "new", "--min-confidence", LEAST) == 0
    assert "predict: continues in " in capsys.readouterr().err
    assert content(tmp_path / "new") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.fixture(scope="module")
def whole(ray_of_process, model, corpus, tmp_path_factory) -> dict[str, bytes]:
    """The same corpus, never killed, read by Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        patch.setattr(readings, "LEAST_BLOCK", 4)
        folder = tmp_path_factory.mktemp("whole") / "new"
        assert predict(model, corpus, "--out", folder, "--min-confidence", LEAST) == 0
    return content(folder)


def test_no_block_is_read_twice_and_a_half_written_one_is_read_again(ray_session, model, corpus, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_into_file", killing(None))
        with pytest.raises(Killed):
            predict(model, corpus, "--out", tmp_path / "new.jsonl")
    blocks = tmp_path / "new.jsonl.readings/blocks"
    names = sorted(path.name for path in blocks.glob("*.parquet"))
    assert names == [f"part-signs-{index:05d}.parquet" for index in range(5)] + ["part-words-00000.parquet"]
    (blocks / f"{names[1]}.json").unlink()
    times = {name: (blocks / name).stat().st_mtime_ns for name in names}
    read = []
    monkeypatch.setattr(pipeline, "read_blocks", lambda *arguments, real=pipeline.read_blocks, **few: read.extend(arguments[3]) or real(*arguments, **few))
    written = []

    def into_file(*arguments, real=pipeline._into_file):
        written.extend(name for name in names if (blocks / name).stat().st_mtime_ns != times[name])
        return real(*arguments)

    monkeypatch.setattr(pipeline, "_into_file", into_file)
    assert predict(model, corpus, "--out", tmp_path / "new.jsonl") == 0
    assert [chunk.shard for chunk in read] == written == [names[1]]
    found = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["key"] for line in found] == [row["key"] for row in rows_of(corpus)]
    assert [line["problem"] for line in found] == ["truncated image" if seed == 7 else None for seed in range(26)]
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_another_model_does_not_go_on_but_another_threshold_does(model, corpus, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(LocalStaging, "publish", killing(None))
        with pytest.raises(Killed):
            predict(model, corpus, "--out", tmp_path / "new", "--min-confidence", LEAST)
    other = shutil.copytree(model, tmp_path / "other")
    save_temperature(other, 2.0)
    before = content(tmp_path / "new.readings/blocks")
    for arguments, difference in ((["other"], "temperature 1.0 instead of 2.0"), (["model", "--beam", "3"], "beam null instead of 3")):
        capsys.readouterr()
        assert predict(other if arguments[0] == "other" else model, corpus, "--out", tmp_path / "new", *arguments[1:]) == 2
        assert f"{tmp_path}/new.readings: expected what the same command left when it was stopped, found the readings of another one ({difference})" \
            in capsys.readouterr().err
    assert content(tmp_path / "new.readings/blocks") == before
    assert predict(model, corpus, "--out", tmp_path / "new") == 0
    assert "predict: continues in " in capsys.readouterr().err
    assert [row["phash"] for row in rows_of(tmp_path / "new")] == [seed for seed in range(26) if seed != 7]


def test_where_nothing_is_sure_enough_the_readings_are_kept(model, corpus, tmp_path, capsys):
    assert predict(model, corpus, "--out", tmp_path / "new", "--min-confidence", "1") == 2
    assert ("new: expected pseudo-labels, found none among 26 images (25 confidence below 1, 1 truncated image): lower --min-confidence (the "
            f"readings are kept in {tmp_path / 'new.readings'})") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new.readings"]
    assert predict(model, corpus, "--out", tmp_path / "new", "--min-confidence", LEAST) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_is_there_is_replaced_only_on_request(model, corpus, tmp_path, capsys):
    arguments = (model, corpus, "--out", tmp_path / "new.csv")
    assert predict(*arguments) == 0
    first = (tmp_path / "new.csv").read_bytes()
    assert predict(*arguments) == 2
    assert "found an earlier file of readings: choose another --out, or add --overwrite" in capsys.readouterr().err
    assert predict(*arguments, "--min-confidence", LEAST, "--overwrite") == 0
    assert 0 < (tmp_path / "new.csv").read_bytes().count(b"\n") < first.count(b"\n")
    (tmp_path / "mine.csv").write_text("my notes", encoding="utf-8")
    assert predict(model, corpus, "--out", tmp_path / "mine.csv", "--overwrite") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv", "new.csv"]


def test_beams_and_lexicons_choose_as_in_evaluation(ray_session, model, corpus, tmp_path):
    (tmp_path / "words.txt").write_text("other\nwords\n", encoding="utf-8")
    for name, options in (("beam", ["--beam", "4"]), ("lexicon", ["--lexicon", tmp_path / "words.txt"])):
        assert predict(model, corpus, "--out", tmp_path / f"{name}.jsonl", *options) == 0
        assert run("evaluate", [str(model), "--data", f"all={corpus}", "--out", str(tmp_path / name), *map(str, options)]) == 0
        evaluated = [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        found = {line["key"]: line for line in map(json.loads, (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())}
        assert len(evaluated) == 9 and len(found) == 26
        assert [found[word["key"]]["text"] for word in evaluated] == [word["prediction"] for word in evaluated]
        assert [found[word["key"]]["confidence"] for word in evaluated] == pytest.approx([word["confidence"] for word in evaluated], abs=NEAR)
    assert {line["text"] for line in found.values() if line["problem"] is None} <= {"other", "words"}


def test_a_table_says_which_images_were_turned_to_be_read(model, expected, tmp_path, monkeypatch):
    no_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for seed in range(8):
        cv2.imwrite(f"{seed}.png", cv2.imdecode(np.frombuffer(PICTURES[seed], np.uint8), cv2.IMREAD_COLOR)[::-1, ::-1])
    assert predict(model, *[f"{seed}.png" for seed in range(8)], "--out", "new.jsonl") == 0
    as_they_stand = [line["confidence"] for line in map(json.loads, open("new.jsonl", encoding="utf-8"))]
    assert predict(model, *[f"{seed}.png" for seed in range(8)], "--out", "both.jsonl", "--both-ways-up") == 0
    lines = [json.loads(line) for line in open("both.jsonl", encoding="utf-8")]
    for seed, (line, upright) in enumerate(zip(lines, as_they_stand)):
        assert line["upside_down"] == (expected[seed][1] > upright)  # `expected` is of the images before they were turned
    assert 0 < sum(line["upside_down"] for line in lines)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_answered(model, name, capsys):
    assert predict(model, name) == 2
    assert "found an empty name" in capsys.readouterr().err


def test_a_picture_that_was_read_upside_down_is_turned_in_the_corpus(model, expected, corpus, tmp_path):
    """Its text then stands in it from left to right; what was read as it stands keeps its bytes."""
    assert predict(model, corpus, "--out", tmp_path / "new", "--both-ways-up") == 0
    pixels = {seed: cv2.imdecode(np.frombuffer(PICTURES[seed], np.uint8), cv2.IMREAD_COLOR) for seed in range(26) if seed != 7}
    turned = {seed: cv2.imencode(".png", image[::-1, ::-1])[1].tobytes() for seed, image in pixels.items()}
    other = evaluate_recognizer(load_recognizer(model), [(str(seed), image, "") for seed, image in turned.items()]).words
    read = {seed: (word.prediction, word.confidence) for seed, word in zip(turned, other, strict=True)}
    rows, flipped = {int(row["key"].split("/")[1]): row for row in rows_of(tmp_path / "new")}, 0
    for seed, row in rows.items():
        if abs(read[seed][1] - expected[seed][1]) > 2 * NEAR:
            upside_down = read[seed][1] > expected[seed][1]
            text, confidence = read[seed] if upside_down else expected[seed]
            assert (row["text"], row["confidence"]) == (text, near(confidence))
            assert (row["image"] == PICTURES[seed]) != upside_down
            image = cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_COLOR)
            np.testing.assert_array_equal(image, pixels[seed][::-1, ::-1] if upside_down else pixels[seed])
            flipped += upside_down
    assert 3 < flipped < len(rows) - 3
    assert verify_corpus(str(tmp_path / "new")).damaged == []


def test_a_registered_model_is_the_labeler_by_its_version(model, store, tmp_path, monkeypatch, capsys):
    from pipelines.registry.champion import register
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    no_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    register(str(model), "predicted", promote=True)
    make_folder(tmp_path, {"a.png": PICTURES[0]})
    capsys.readouterr()
    for name in ("predicted@champion", "models:/predicted@champion", "models:/predicted/1"):
        assert predict(name, "a.png", "--json") == 0
        assert json.loads(capsys.readouterr().out)["labeler"] == "models:/predicted/1"


def test_a_recognizer_is_trained_on_pseudo_labels_as_they_are(model, corpus, store, tmp_path, monkeypatch):
    from pipelines.training.driver import train
    from pipelines.training.recipe import parse_recipe
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    assert predict(model, corpus, "--out", "labels", "--min-confidence", LEAST) == 0
    outcome = train(parse_recipe({
        "name": "student", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "supervised"}, "data": {"labeled": {"corpus": "labels", "batch_size": 4}},
        "training": {"steps": 4, "log_every": 1, "threads_per_worker": 1, "cpus_per_worker": 0.5}}), quiet=True)
    last = json.loads((outcome.folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["step"] == 4 and np.isfinite(last["loss"])
    assert load_recognizer(outcome.model).charset.characters == Charset.named("36").characters


def test_a_corpus_is_cut_into_whole_row_groups_of_one_shard(corpus):
    signs, words = open_all([str(corpus)])
    assert isinstance(signs, CorpusSource) and (signs.name, signs.count(), words.name, words.count()) == ("signs", 20, "words", 6)
    pieces = list(signs.pieces(4))
    assert [(piece.shard.name[-13:-8], piece.first, piece.stop, piece.rows) for piece in pieces] == [
        ("00000", 0, 2, 6), ("00000", 2, 3, 3), ("00001", 0, 2, 6), ("00001", 2, 3, 1), ("00002", 0, 2, 4)]
    assert [row.key for piece in pieces for row in piece.read()] == [f"signs/{seed}" for seed in range(20)]
    assert [readings.rows_per_block(rows) for rows in (26, 2560, 1_000_000, 10**8)] == [4, 10, 3906, 10_000]


def test_one_bad_name_stops_no_other(model, expected, tmp_path, monkeypatch, capsys):
    """As a shell writes out folder/*, whatever lies in the folder."""
    no_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, {"a.png": PICTURES[0], "Thumbs.db": b"\xd0\xcf\x11\xe0", "empty": b"", "b.png": PICTURES[1]})
    assert predict(model, "Thumbs.db", "a.png", "empty", "gone.png", "b.png") == 0
    shown = capsys.readouterr()
    assert [line.split("\t")[:2] for line in shown.out.splitlines()] == [["Thumbs.db", ""], ["a.png", expected[0][0]], ["empty", ""], ["gone.png", ""], ["b.png", expected[1][0]]]
    assert shown.err.splitlines() == ["Thumbs.db: not an image", "empty: empty image", "gone.png: missing file"]
    assert predict(model, "a.png", "photoz") == 2  # which may have been a folder, or a corpus
    assert "photoz: expected an LMDB" in capsys.readouterr().err
    assert predict(model, "Thumbs.db") == 2 and "Thumbs.db: expected an LMDB" in capsys.readouterr().err


def test_where_no_image_can_be_read_it_is_an_error(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, {"labels.csv": b"file_name,text\n" + b"".join(b"%d.png,x\n" % number for number in range(12)), "broken.png": BROKEN, "Thumbs.db": b"x"})
    sentence = "textray: error: expected images that can be read, found none among {}: correct their names, or name others\n"
    for sources, found in ((["labels.csv"], "12 images (12 missing file, as labels/0.png)"), (["broken.png"], "1 image (1 truncated image, as broken.png)"),
                           (["broken.png", "Thumbs.db", "gone.png", "lost.png"], "4 images (2 missing file, 1 not an image, 1 truncated image, as broken.png)")):
        for more in ([], ["--min-confidence", "0.5"], ["--out", "new.csv"]):
            capsys.readouterr()
            at_once = more[:1] != ["--out"] or sources != ["labels.csv"]  # above AT_ONCE it is Ray's, which keeps no example
            assert predict(model, *sources, *more) == 2
            shown = capsys.readouterr()
            assert shown.out == "" and shown.err.endswith(sentence.format(found if at_once else found.replace(", as labels/0.png", "")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Thumbs.db", "broken.png", "labels.csv"]
