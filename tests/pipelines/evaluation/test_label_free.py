"""Criteria that need no labels, on recognizers whose answers are known."""

import math
from collections import Counter

import pytest
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.evaluation.label_free import CRITERION, LabelFree, divergence, label_free

CHARSET = Charset("abc")


def always(text: str, probability: float = 0.9):
    """A recognizer that reads one character in every frame, "" for the blank, with that probability, whatever it is shown."""
    torch.manual_seed(0)
    recognizer = build("crnn_tiny", CHARSET)
    classifier = recognizer.decoder.classifier
    with torch.no_grad():
        classifier.weight.zero_()
        chosen = CHARSET.index[text] + 1 if text else 0
        classifier.bias.copy_(torch.full((4,), (1 - probability) / 3).index_fill(0, torch.tensor([chosen]), probability).log())
    return recognizer


def images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_one_that_always_reads_the_same_agrees_with_itself():
    found = label_free(always("b"), images(5), Counter("abc"))
    assert (found.weak_agreement, found.strong_agreement, found.strong_similarity) == (1, 1, 1)
    runs = sum((26 - frames) * 0.9 ** frames * (0.1 / 3) ** (25 - frames) for frames in range(1, 26))  # of b, blanks around it
    assert found.mean_confidence == found.confident_agreement == pytest.approx(runs)
    assert found.character_divergence == pytest.approx(math.log(1 / (2 / 6)))  # all b, where each of three characters has 2 of 6 shares


def test_one_that_reads_nothing_agrees_with_nobody():
    found = label_free(always(""), images(3), Counter("abc"))
    assert (found.weak_agreement, found.strong_agreement, found.strong_similarity, found.confident_agreement) == (0, 0, 0, 0)
    assert found.character_divergence == 0


def test_the_same_question_has_the_same_answer_and_modes_stay():
    torch.manual_seed(3)
    recognizer = build("crnn_tiny", Charset.named("36")).train()
    recognizer.decoder.eval()
    assert label_free(recognizer, images(7)) == label_free(recognizer, images(7))
    assert (recognizer.training, recognizer.decoder.training) == (True, False)


def test_the_divergence_of_what_is_read_from_what_is_known():
    assert divergence(["ab", "b"], None) == divergence([], Counter("ab")) == 0
    known = Counter({"a": 3, "b": 1})  # counted once more: 4 and 2 of 6
    assert divergence(["ab", "b"], known) == pytest.approx(1 / 3 * math.log(1 / 3 / (4 / 6)) + 2 / 3 * math.log(2 / 3 / (2 / 6)))


def test_the_criterion_that_decides_is_one_of_them():
    assert CRITERION in LabelFree.__dataclass_fields__
