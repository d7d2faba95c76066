"""CCR's parts: what it reads from logits, and the distance between two sets of glimpses (Deep CORAL)."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.charset import AttentionTokens, Charset, CTCTokens, attention_tokens
from models.decoders import Decoded
from models.objectives.coral import coral
from models.objectives.readings import pseudo_sequences, read
from models.recognizers import build


@pytest.mark.parametrize("symbols, expected, length", [
    ([10, 11, 12, 3, 7, 8, 9, 20], [2, 10, 11, 12, 3, 0, 0, 0, 0], 4),
    ([10, 11, 12, 13, 7, 8, 9, 20], [2, 10, 11, 12, 13, 7, 8, 9, 3], 8),  # no end: it takes the last step
    ([4, 11, 12, 3, 7, 8, 9, 20], [2, 3, 0, 0, 0, 0, 0, 0, 0], 1),  # a leading space
    ([10, 0, 12, 3, 7, 8, 9, 20], [2, 10, 3, 0, 0, 0, 0, 0, 0], 2),  # padding cuts too
])
def test_pseudo_sequences_as_the_authors_cut_them(symbols, expected, length):
    tokens = attention_tokens(Charset.named("94"), "fewer_labels")  # the authors' table
    sequences, lengths = pseudo_sequences(torch.tensor([symbols]), tokens)
    assert sequences.tolist() == [expected]
    assert lengths.tolist() == [length]


def logits_of(steps: list[tuple[int, float]], classes: int = 5) -> Tensor:
    """(1, steps, classes) float64 logits whose likeliest class at each step has the given probability."""
    rows = []
    for best, probability in steps:
        row = torch.full((classes,), (1 - probability) / (classes - 1), dtype=torch.float64)
        row[best] = probability
        rows.append(row.log())
    return torch.stack(rows)[None]


def test_an_attention_reading_scores_up_to_its_end_symbol():
    reading = read(logits_of([(2, 0.9), (4, 0.8), (1, 0.7), (3, 0.5)]), AttentionTokens(Charset("abc")))
    assert reading.inputs.tolist() == [[0, 2, 4, 1]]
    assert reading.symbols.tolist() == [[2, 4, 1, 0]]
    assert reading.steps.tolist() == [[True, True, True, False]]
    assert reading.characters.tolist() == [[True, True, False, False]]
    assert reading.scores.item() == pytest.approx(0.9 * 0.8 * 0.7)


def test_a_ctc_reading_counts_a_run_once_with_its_most_certain_frame():
    frames = [(0, 0.6), (2, 0.8), (2, 0.9), (0, 0.5), (2, 0.7), (3, 0.95)]
    reading = read(logits_of(frames), CTCTokens(Charset("abcd")), "product")
    assert reading.inputs is None
    assert reading.symbols.tolist() == [[0, 2, 2, 0, 2, 3]]
    assert reading.steps.tolist() == [[True] * 6]
    assert reading.characters.tolist() == [[False, True, True, False, True, True]]
    assert reading.scores.item() == pytest.approx(0.9 * 0.7 * 0.95)


def test_a_ctc_reading_of_blanks_scores_zero():
    assert read(logits_of([(0, 0.99), (0, 0.99)]), CTCTokens(Charset("abcd"))).scores.tolist() == [0]


@pytest.mark.parametrize("tokens", [AttentionTokens(Charset("abc")), CTCTokens(Charset("abcd"))])
def test_the_score_may_be_the_least_certain_step(tokens):
    logits = logits_of([(2, 0.9), (3, 0.7), (2, 0.8), (1, 0.95)])
    assert read(logits, tokens, "minimum").scores.item() == pytest.approx(0.7)


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_the_scores_are_the_confidences_of_the_decoders_own_reading(name):
    decoder = build(name, Charset("abc")).decoder
    logits = torch.randn(50, 8, decoder.tokens.classes, generator=torch.Generator().manual_seed(0))
    if name == "trba_tiny":
        logits[:, :, 0] -= 100  # no start symbol inside a word,
        logits[:, 7, 1] += 100  # and an end symbol at the latest here: elsewhere the two follow different authors
    scores, confidences = read(logits, decoder.tokens).scores, decoder.read(Decoded(logits, None)).confidences
    torch.testing.assert_close(scores, confidences)


def vectors(seed: int, count: int = 20, width: int = 3) -> tuple[Tensor, Tensor]:
    """(2, count / 2, width) vectors and a mask that takes all."""
    drawn = torch.randn(2, count // 2, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn, torch.ones(2, count // 2, dtype=torch.bool)


@pytest.mark.parametrize("form", ["paper", "authors_code"])
def test_coral_is_zero_for_equal_sets_and_does_not_see_a_shift(form):
    (source, all_source), (unlabeled, all_unlabeled) = vectors(0), vectors(1)
    assert coral(source, all_source, source.flip(1), all_source, form).item() == pytest.approx(0, abs=1e-20)
    distance = coral(source, all_source, unlabeled, all_unlabeled, form)
    assert distance > 1e-3
    torch.testing.assert_close(coral(source + 5, all_source, unlabeled - 3, all_unlabeled, form), distance)
    torch.testing.assert_close(coral(unlabeled, all_unlabeled, source, all_source, form), distance)


def test_coral_is_scaled_by_a_quarter_of_the_squared_width():
    source, everything = vectors(0)
    # twice the vectors have four times the covariance: the difference is three times the covariance
    covariance = np.cov(source.flatten(0, 1).numpy().T)
    distance = coral(source, everything, 2 * source, everything)
    assert distance.item() == pytest.approx(9 * (covariance**2).sum() / (4 * 3**2))


def test_corals_forms_differ_by_the_number_of_characters_and_the_number_of_entries():
    (source, all_source), (unlabeled, all_unlabeled) = vectors(0), vectors(1)
    paper = coral(source, all_source, unlabeled, all_unlabeled)
    code = coral(source, all_source, unlabeled, all_unlabeled, "authors_code")
    torch.testing.assert_close(code, paper * 19**2 / 3**2)


def test_coral_looks_at_the_masked_vectors_only():
    (source, all_source), (unlabeled, all_unlabeled) = vectors(0), vectors(1)
    some = all_source.clone()
    some[:, 6:] = False
    expected = coral(source[:, :6], all_source[:, :6], unlabeled, all_unlabeled)
    torch.testing.assert_close(coral(source, some, unlabeled, all_unlabeled), expected)
    changed = source.clone()
    changed[:, 6:] = 1e6
    torch.testing.assert_close(coral(changed, some, unlabeled, all_unlabeled), expected)


@pytest.mark.parametrize("form", ["paper", "authors_code"])
@pytest.mark.parametrize("characters", [0, 1])
def test_coral_without_a_character_is_zero_and_one_character_has_no_spread(form, characters):
    """One counts, as in the authors' code: its covariance is 0, and the other side is drawn to it."""
    (source, all_source), (unlabeled, all_unlabeled) = vectors(0), vectors(1)
    source.requires_grad_(True), unlabeled.requires_grad_(True)
    few = torch.zeros_like(all_unlabeled)
    few[0, :characters] = True
    loss = coral(source, all_source, unlabeled, few, form)
    loss.backward()
    chosen = source.detach()[all_source].double()
    scatter = torch.cov(chosen.t()) * (len(chosen) - 1)
    width = source.shape[-1]
    alone = (scatter / (len(chosen) - 1)).square().sum() if form == "paper" else scatter.square().mean()
    torch.testing.assert_close(loss.double(), characters * alone / (4 * width**2), rtol=1e-5, atol=1e-9)
    assert (torch.count_nonzero(source.grad) > 0) == bool(characters) and torch.count_nonzero(unlabeled.grad) == 0
