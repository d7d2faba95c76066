"""`textray split`: every row in one part, near duplicates together, the same parts whenever it is asked, whatever is killed."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from killing import Killed, killing
from pipelines.cli import run
from pipelines.corpus.reader import Corpus
from pipelines.ingestion import split as room
from pipelines.ingestion.chunks import Options
from pipelines.ingestion.pipeline import ingest
from pipelines.ingestion.split import Split
from pipelines.ingestion.staging import LocalStaging
from pipelines.synthesis.corpus import Settings, render_corpus

SMALL = Options(rows_per_shard=60, rows_per_group=25)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """150 drawn words, of which each tenth comes twice more: encoded anew under another name, once with another label, once with none."""
    folder = tmp_path_factory.mktemp("split")
    drawn = [row for table in render_corpus(folder / "drawn", 150, Settings(style="scene", charset="36")).rows_iter() for row in table.to_pylist()]
    (folder / "images").mkdir()
    labels = []
    for number, row in enumerate(drawn):
        (folder / "images" / f"{number:03}.jpg").write_bytes(row["image"])
        labels.append((f"{number:03}.jpg", row["text"]))
        if number % 10 == 0:
            again = cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_COLOR)
            (folder / "images" / f"again-{number:03}.png").write_bytes(cv2.imencode(".png", again)[1].tobytes())
            (folder / "images" / f"bare-{number:03}.jpg").write_bytes(cv2.imencode(".jpg", again, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes())
            labels.append((f"again-{number:03}.png", f"not {row['text']}"))
    (folder / "images" / "labels.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in labels), encoding="utf-8")
    ingest([f"words={folder / 'images'}"], folder / "words", SMALL)
    return folder / "words"


def rows(place: Path | str) -> dict[str, dict]:
    return {row["key"]: row for table in Corpus.open(place).rows_iter() for row in table.to_pylist()}


def content(*places: Path) -> dict[str, bytes]:
    return {f"{place.name}/{file.name}": file.read_bytes() for place in places for file in place.iterdir()}


def parts_of(place: Path) -> list[Path]:
    return [place.with_name(f"{place.name}-{part}") for part in ("train", "validation", "test")]


def test_every_row_comes_into_one_part_and_what_looks_the_same_into_the_same(corpus, tmp_path, capsys):
    assert run("split", [str(corpus), "--validation", "0.2", "--test", "0.2", "--out", str(tmp_path / "own")]) == 0
    parts = [rows(place) for place in parts_of(tmp_path / "own")]
    assert {key: row for part in parts for key, row in part.items()} == rows(corpus) and sum(map(len, parts)) == 180
    where = {key: number for number, part in enumerate(parts) for key in part}
    for number in range(0, 150, 10):
        assert len({where[f"words/{name}"] for name in (f"{number:03}.jpg", f"again-{number:03}.png", f"bare-{number:03}.jpg")}) == 1
    assert all(10 < len(part) < 60 for part in parts[1:])
    assert sum(row["text"] is None for part in parts[1:] for row in part.values()) == sum(where[f"words/{number:03}.jpg"] > 0 for number in range(0, 150, 10)) > 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in said[:3]] == [
        [name, str(len(part)), "images,", str(sum(row["text"] is not None for row in part.values()))]
        for name, part in zip(("train", "validation", "test"), parts)]
    assert said[3].startswith("next: textray finetune RECIPE data.labeled.corpus=")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own-test", "own-train", "own-validation"]


def test_parts_depend_on_the_keys_and_the_seed_alone(corpus, tmp_path):
    whole, seeded = room.split(Corpus.open(corpus), str(tmp_path / "a"), Split()), room.split(Corpus.open(corpus), str(tmp_path / "b"), Split(seed=1))
    keys = {name: {part: set(rows(made.path)) for part, made in found.items()} for name, found in (("whole", whole), ("seeded", seeded))}
    assert keys["whole"]["test"] != keys["seeded"]["test"]
    images = corpus.with_name("images")
    ingest([f"words={images}"], tmp_path / "larger", Options(rows_per_shard=1000))  # cut otherwise
    again = room.split(Corpus.open(tmp_path / "larger"), str(tmp_path / "c"), Split())
    assert {part: set(rows(made.path)) for part, made in again.items()} == keys["whole"]


def test_without_labels_all_images_are_drawn_and_a_part_may_be_left_out(corpus, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in sorted(corpus.with_name("images").glob("[0-9]*.jpg")):
        (bare / file.name).write_bytes(file.read_bytes())
    ingest([str(bare)], tmp_path / "unlabeled", SMALL)
    assert run("split", [str(tmp_path / "unlabeled"), "--test", "0"]) == 0
    said = capsys.readouterr()
    assert "unlabeled holds no labels: its parts can be read, and not be marked" in said.err
    assert said.out.splitlines()[-1] == f"next: textray predict MODEL {tmp_path}/unlabeled-train, or textray pretrain RECIPE data.unlabeled.corpus={tmp_path}/unlabeled-train"
    train, validation, test = parts_of(tmp_path / "unlabeled")
    assert len(rows(train)) + len(rows(validation)) == 150 and len(rows(validation)) > 5 and not test.exists()


@pytest.mark.parametrize("owner, name, calls", [(room, "_hash_shard", 1), (room, "together", 0), (room, "_cut", 0), (room, "_cut", 4),
                                                (LocalStaging, "publish", 0), (LocalStaging, "publish", 1), (LocalStaging, "publish", 2)])
def test_a_killed_split_goes_on_and_ends_with_the_same_bytes(corpus, tmp_path, monkeypatch, owner, name, calls):
    room.split(Corpus.open(corpus), str(tmp_path / "whole"), Split())
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), calls))
        with pytest.raises(Killed):
            room.split(Corpus.open(corpus), str(tmp_path / "cut"), Split())
    room.split(Corpus.open(corpus), str(tmp_path / "cut"), Split())
    assert list(content(*parts_of(tmp_path / "cut")).values()) == list(content(*parts_of(tmp_path / "whole")).values())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}-{part}" for name in ("cut", "whole") for part in ("test", "train", "validation")]


def test_a_part_that_was_lost_is_made_again(corpus, tmp_path, monkeypatch):
    room.split(Corpus.open(corpus), str(tmp_path / "own"), Split())
    train, _, test = parts_of(tmp_path / "own")
    before, stamp = content(*parts_of(tmp_path / "own")), (train / "corpus.json").stat().st_mtime_ns
    shutil.rmtree(test)
    (tmp_path / "own-train.partial").mkdir()  # as a kill leaves it when only the traces are to go
    (tmp_path / "own-train.partial" / "plan.json").write_text("{}", encoding="utf-8")
    (tmp_path / "own-train.partial" / "lock").touch()
    room.split(Corpus.open(corpus), str(tmp_path / "own"), Split())
    assert content(*parts_of(tmp_path / "own")) == before and (train / "corpus.json").stat().st_mtime_ns == stamp
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own-test", "own-train", "own-validation"]


def test_by_ray_the_parts_are_the_same(corpus, tmp_path, ray_session):
    room.split(Corpus.open(corpus), str(tmp_path / "ray"), Split())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS")
        room.split(Corpus.open(corpus), str(tmp_path / "own"), Split())
    assert list(content(*parts_of(tmp_path / "ray")).values()) == list(content(*parts_of(tmp_path / "own")).values())


def test_what_cannot_be_is_one_sentence(corpus, tmp_path, capsys):
    for options, sentence in ((["--validation", "0.6", "--test", "0.5"], "expected shares that are together above 0 and below 1"),
                              (["--validation", "0", "--test", "0"], "expected shares that are together above 0 and below 1"),
                              (["--test", "0.0001"], "expected labeled images for the part test, found none that fall into it: choose a larger --test, or")):
        assert run("split", [str(corpus), "--out", str(tmp_path / "new"), *options]) == 2
        assert sentence in capsys.readouterr().err
    assert run("split", [str(corpus), "--out", str(tmp_path / "own")]) == 0
    assert run("split", [str(corpus), "--out", str(tmp_path / "own")]) == 0  # there already, made so
    capsys.readouterr()
    assert run("split", [str(corpus), "--out", str(tmp_path / "own"), "--seed", "3"]) == 2
    assert "own-train: expected a free name, found a corpus: choose another --out, or add --overwrite" in capsys.readouterr().err
    assert run("split", [str(corpus), "--out", str(tmp_path / "own"), "--seed", "3", "--overwrite"]) == 0
