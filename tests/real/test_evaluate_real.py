"""The published test sets, read where they lie."""

import pytest
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.corpus.images import Shape, decode_image
from pipelines.evaluation.measure import evaluate_set
from pipelines.evaluation.protocols import compared_36, size_note
from pipelines.ingestion.wordsets import open_sets


@pytest.mark.parametrize("name, words, note", [("SVT", 647, None), ("IIIT5K", 3000, None),
                                               ("IC13", 1015, "the published subset of 1,015")])
def test_every_word_of_the_published_sets_is_there_labeled_and_readable(real_data, name, words, note):
    found, = open_sets([f"{name}={real_data / 'words' / 'test' / name}"])
    rows = list(found.read())
    assert found.rows == len(rows) == words and size_note(name, len(rows)) == note
    assert all(compared_36(text) for _, _, text in rows)
    assert all(decode_image(image, Shape(32, 100)) is not None for _, image, _ in rows)


def test_a_tree_is_a_set_for_each_leaf(real_data):
    sets = open_sets([str(real_data / "words" / "test")])
    assert {found.name: found.rows for found in sets} == {"IC13": 1015, "IIIT5K": 3000, "SVT": 647}


def test_a_test_set_is_measured_whole(real_data):
    torch.manual_seed(0)
    svt, = open_sets([f"SVT={real_data / 'words' / 'test' / 'SVT'}"])
    result = evaluate_set(build("crnn_tiny", Charset.named("36")), svt)
    assert result.notes == [] and result.evaluation.score.words == 647 and result.evaluation.unreadable == []
    assert result.evaluation.score.cer > 0.5  # nothing was learned yet
    assert [word.key for word in result.evaluation.words[:2]] == ["SVT/000000001", "SVT/000000002"]
