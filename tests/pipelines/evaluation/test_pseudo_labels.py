"""Pseudo-labels of a sample: which are kept, which are right where labels are known, and which of them are shown."""

import pytest
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import rule_of
from pipelines.evaluation.pseudo_labels import Example, Examples, PseudoLabel, accuracies, chosen, pseudo_labels


def labels(*given: tuple[float, bool, bool | None]) -> list[PseudoLabel]:
    return [PseudoLabel("word", *each) for each in given]


def test_what_is_kept_reaches_the_threshold_and_what_is_right_is_compared_by_the_rule():
    torch.manual_seed(3)
    charset = Charset.named("36")
    recognizer = build("trba_tiny", charset).train()
    images = torch.randint(0, 256, (5, 3, 32, 100), dtype=torch.uint8)
    rule = rule_of("charset", charset)
    first = pseudo_labels(recognizer, images, [None, "", "?!", None, None], rule, batch_size=2)
    assert [each.right for each in first] == [None] * 5 and all(each.kept for each in first)  # nothing of "?!" can be compared
    assert recognizer.training and len({each.score for each in first}) > 1
    threshold = sorted(each.score for each in first)[3]
    known = [each.text.upper() for each in first[:3]] + ["another", None]
    again = pseudo_labels(recognizer, images, known, rule, threshold=threshold, batch_size=2)
    assert [(each.text, each.score) for each in again] == [(each.text, each.score) for each in first]  # the same views for the same images
    assert sum(each.kept for each in again) == 2 and all(each.kept == (each.score >= threshold) for each in again)
    assert [each.right for each in again] == [True if each.text else None for each in first[:3]] + [False, None]


def test_accuracies_count_what_is_known_and_are_silent_where_nothing_is():
    found = labels((0.9, True, True), (0.8, True, False), (0.7, True, None), (0.2, False, False), (0.1, False, False))
    assert accuracies(found) == {"pseudo_label_accuracy": 0.25, "kept_pseudo_label_accuracy": 0.5}
    assert accuracies(found[3:]) == {"pseudo_label_accuracy": 0.0}
    assert accuracies(labels((0.9, True, None))) == {}


def test_examples_are_the_surest_mistakes_and_others_from_the_surest_to_the_least_sure():
    found = labels(*((0.9 - 0.1 * number, number < 6, number not in (1, 3, 4)) for number in range(9)))
    assert chosen(found, each=2) == {"kept": [0, 4], "dropped": [6, 7], "wrong": [1, 3]}
    assert chosen(found, each=9) == {"kept": [0, 2, 5], "dropped": [6, 7, 8], "wrong": [1, 3, 4]}
    assert chosen([]) == {"kept": [], "dropped": [], "wrong": []}


def test_what_is_written_is_read_again_and_something_else_refused():
    examples = Examples(40, 256, 31, [Example("wrong", "a/1", "wrod", 0.75, "word", "aGk="), Example("kept", "a/2", "ক", 0.5, None, "")])
    assert Examples.from_json(examples.to_json(), "f") == examples and examples.examples[0].image == b"hi"
    with pytest.raises(BadInput, match="f: expected a value for step, found none: remove it; the next validation writes it again"):
        Examples.from_json(b"{}", "f")
