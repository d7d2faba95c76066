"""Duplicates on real words: planted copies are found, different pictures stay, and what two sets share is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from changes import CHANGES
from pipelines.corpus.images import decode_gray
from pipelines.ingestion.duplicates.hashes import Hashed, hash_rows, hashed, label_hash, write_hashes
from pipelines.ingestion.duplicates.search import HashFile, find
from pipelines.ingestion.guard import hash_set
from pipelines.ingestion.wordsets import open_sets

EVERY = 9  # of the training images copies are made


def row(data: bytes, text: str | None = None) -> Hashed:
    return hashed(data, text, decode_gray(data))


@pytest.fixture(scope="module")
def training(real_data) -> list[tuple[str, bytes, str]]:
    """(key, image, text) of IC15, IIIT5K and SVT train."""
    return [row for words in open_sets([str(real_data / "words/train")]) for row in words.read()]


def stored(folder: Path, rows: list[Hashed], source: str) -> HashFile:
    path = str(folder / source)
    write_hashes(path, hash_rows(rows))
    return HashFile(source, 0, path)


def results(files, guards=(), **options) -> list[dict]:
    return [row for table in find(files, guards, **options) for row in table.to_pylist()]


@pytest.fixture(scope="module")
def originals(training, tmp_path_factory) -> HashFile:
    return stored(tmp_path_factory.mktemp("real"), [row(image, None) for _, image, _ in training], "words")


@pytest.mark.parametrize("change", CHANGES)
def test_of_each_change_nine_tenths_are_found(change, training, originals, tmp_path):
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for _, data, _ in training[::EVERY]]
    copies = stored(tmp_path, [row(CHANGES[change](image), None) for image in images], "copies")
    found = [row for row in results([originals, copies]) if row["source"] == "copies"]
    # The match may be another crop of the sign, which the set holds too; its label tells.
    right = sum(label_hash(training[EVERY * row["row"]][2]) == label_hash(training[row["match_row"]][2]) for row in found)
    assert right >= 0.9 * len(images)
    assert len(found) == right


def test_without_labels_the_training_words_hold_only_true_copies(training, originals):
    """Each of these pairs was looked at: crops of one sign in one photograph, or one sign rendered twice."""
    found = results([originals])
    labels = [label_hash(text) for _, _, text in training]
    assert len(found) == 17  # 16 in IIIT5K, 1 in IC15
    assert sum(labels[row["row"]] != labels[row["match_row"]] for row in found) == 0


def test_iiit5k_train_shares_near_identical_crops_with_its_test_set(real_data, tmp_path):
    rows = [row(image, text) for words in open_sets([str(real_data / "words/train/IIIT5K")]) for _, image, text in words.read()]
    guard = hash_set([f"IIIT5K={real_data / 'words/test/IIIT5K'}"])
    found = results([stored(tmp_path, rows, "train")], [guard], exact=False, near=False)
    # Looked at, pair by pair: 24 are crops of one sign, or one rendered word; 2 (SHORTLY, OPENING) one button in two colours.
    assert {row["reason"] for row in found} == {"near a benchmark image"}
    assert len(found) == 26
