"""What is logged of semi-supervised objectives: agreement of two readings, and entropies that fall to 0 where readings collapse."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.charset import AttentionTokens, Charset, CTCTokens
from models.objectives.readings import GreedyReading, read
from models.objectives.signals import by_position, signals


def reading_of(symbols: list[list[int]], tokens: AttentionTokens | CTCTokens) -> GreedyReading:
    return read(10.0 * F.one_hot(torch.tensor(symbols), tokens.classes).double(), tokens)


def numbers(target: list[list[int]], own: list[list[int]], tokens: AttentionTokens | CTCTokens) -> dict[str, Tensor]:
    return signals(reading_of(target, tokens), reading_of(own, tokens), torch.tensor([True, False]), tokens)


def test_of_a_decoder_that_writes_symbols():
    tokens = AttentionTokens(Charset("abc"))  # start 0, end 1
    found = numbers([[2, 3, 1, 4], [2, 1, 4, 4]], [[2, 3, 1, 0, 0], [2, 2, 1, 0, 0]], tokens)
    assert found["kept_fraction"] == 0.5 and found["agreement"] == 0.5  # what stands behind the end does not count
    third = 1 / 3  # a twice, b once
    assert found["character_entropy"].item() == pytest.approx(-third * math.log(third) - 2 * third * math.log(2 * third))
    assert found["length_entropy"].item() == pytest.approx(math.log(2))


def test_of_ctc():
    tokens = CTCTokens(Charset("abc"))
    found = numbers([[1, 1, 0, 2], [3, 0, 3, 3]], [[0, 1, 2, 2], [3, 3, 3, 3]], tokens)
    assert found["agreement"] == 0.5  # ab is ab wherever it stands; cc is not c
    assert found["character_entropy"].item() == pytest.approx(0.25 * math.log(4) * 2 + 0.5 * math.log(2))
    assert found["length_entropy"] == 0


@pytest.mark.parametrize("tokens", [AttentionTokens(Charset("abc")), CTCTokens(Charset("abcd"))])
def test_one_word_for_everything_and_no_word_at_all_show_as_zero(tokens):
    blank = tokens.blank if isinstance(tokens, CTCTokens) else tokens.end
    for collapsed in ([[2, blank, blank]] * 2, [[blank] * 3] * 2):
        found = numbers(collapsed, collapsed, tokens)
        assert found["character_entropy"] == 0 and found["length_entropy"] == 0 and found["agreement"] == 1


def test_consistency_by_position_is_a_mean_over_the_words_that_have_the_position():
    distances = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 7.0], [3.0, 4.0, 9.0, 9.0, 9.0, float("inf")]])
    counted = torch.tensor([[True] * 6, [True, True] + [False] * 4])
    found = {name: value.item() for name, value in by_position(distances, counted).items()}
    assert found == {"consistency_position_1": 2, "consistency_position_2": 3, "consistency_position_3": 3, "consistency_position_4": 4,
                     "consistency_position_5_on": 6}
    assert [value.item() for value in by_position(distances[:, :2], counted[:, :2]).values()] == [2, 3, 0, 0, 0]  # shorter than five
    assert not any(by_position(distances, torch.zeros_like(counted)).values())  # nothing was kept
