"""FlexMatch: USB's thresholds, masks and losses for single labels, and the counts that take the place of its memory of every image."""

import pytest
import torch

from ccr_models import full_batch, objective, single_labels
from models.charset import AttentionTokens, Charset
from models.objectives.flexmatch import flexible, learning_status, thresholds_of_words
from models.objectives.weak_strong import word_consistency

SIX = AttentionTokens(Charset("abcd"))  # six classes


@pytest.fixture(scope="module")
def recorded(parity_data) -> dict:
    return torch.load(parity_data / "ssl_losses.pt", map_location="cpu", weights_only=True)["usb"]["cases"]["flexmatch_warmup"]


def test_reproduces_usb_for_single_labels(recorded):
    for step in recorded["steps"]:
        strong = step["strong"].double().requires_grad_(True)
        reading, _ = single_labels(step["weak"].double())
        of_class = recorded["p_cutoff"] * flexible(step["status_before"].double())
        torch.testing.assert_close(of_class, step["threshold"].double(), rtol=0, atol=1e-6)
        kept = reading.scores >= thresholds_of_words(of_class, reading.symbols, reading.steps)
        loss = word_consistency(reading, strong.unsqueeze(1), kept, SIX)
        loss.backward()
        assert torch.equal(kept.float(), step["mask"])
        assert loss.item() == pytest.approx(step["unsup_loss"], abs=1e-6)
        torch.testing.assert_close(strong.grad, step["grad_strong"].double(), rtol=0, atol=1e-6)


def test_the_status_follows_from_counts_as_in_usb(recorded):
    """Given its memory of every image, which for words is an average of what the batches hold."""
    for step in recorded["steps"]:
        labels = step["selected_label"]  # -1: unused
        counts = torch.tensor([(labels == c).sum() for c in [*range(6), -1]]).double()
        torch.testing.assert_close(learning_status(counts), step["status_after"].double(), rtol=0, atol=1e-6)
    assert learning_status(torch.tensor([2.0, 1.0, 5.0]), warm_up=False).tolist() == [1, 0.5]
    assert learning_status(torch.tensor([0.0, 0.0, 1.0]), warm_up=False).tolist() == [0, 0]


def test_a_words_threshold_is_the_mean_or_the_largest_of_its_symbols():
    of_class = torch.tensor([0.0, 0.4, 0.8])
    words, written = torch.tensor([[2, 1, 9], [1, 0, 0]]), torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(thresholds_of_words(of_class, words, written), torch.tensor([0.6, 0.4]))
    torch.testing.assert_close(thresholds_of_words(of_class, words, written, "max"), torch.tensor([0.8, 0.4]))


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_the_first_step_keeps_all_and_later_ones_ask_more_of_characters_that_are_known(name):
    model = objective("flexmatch", name, confidence_threshold=0.5, ema_decay=0.5)
    batch = full_batch(model)
    first = model(batch)
    assert first.named["kept_fraction"] == 1 and first.named["mean_threshold"] == 0
    assert model.shares.sum().item() == pytest.approx(1) and 0 < model.shares[-1] < 1
    later = [model(batch).named["mean_threshold"].item() for _ in range(3)]
    assert 0 < later[0] < later[1] < later[2]


def test_the_shares_are_averages_of_what_confident_words_hold():
    model = objective("flexmatch", "trba_tiny", ema_decay=0.25)
    words, written = torch.tensor([[2, 3, 1], [2, 1, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    model._count(words, written, torch.tensor([True, False]))
    shares = 0.75 * torch.tensor([0, 1 / 5, 1 / 5, 1 / 5, 0, 0, 0, 0, 0, 0, 0, 2 / 5]).double()
    shares[-1] += 0.25  # all was unused
    torch.testing.assert_close(model.shares, shares, rtol=0, atol=1e-7)
    before = model.shares.clone()
    model._count(words, torch.zeros_like(written), torch.tensor([True, True]))  # no word at all
    assert torch.equal(model.shares, before)
