"""SoftMatch: USB's averages, weights, losses and gradients for single labels, step by step."""

import pytest
import torch

from ccr_models import full_batch, objective, single_labels
from models.charset import AttentionTokens, Charset
from models.objectives.posteriors import mean_posterior
from models.objectives.readings import scores_of
from models.objectives.softmatch import TruncatedGaussian
from models.objectives.weak_strong import word_consistency

SIX = AttentionTokens(Charset("abcd"))  # six classes


def test_reproduces_usb_for_single_labels(parity_data):
    case = torch.load(parity_data / "ssl_losses.pt", map_location="cpu", weights_only=True)["usb"]["cases"]["softmatch"]
    truncated = TruncatedGaussian([True] * 6, case["ema_p"], case["n_sigma"]).double()
    for step in case["steps"]:
        strong = step["strong"].double().requires_grad_(True)
        reading, weak = single_labels(step["weak"].double())
        truncated.update_posterior(mean_posterior(weak.softmax(-1), reading.steps))
        scores = scores_of(truncated.aligned(weak.softmax(-1)).log(), reading, "product", SIX)
        truncated.update_scores(scores, reading.is_read)
        weights = truncated.weights(scores)
        loss = word_consistency(reading, strong.unsqueeze(1), weights, SIX)
        loss.backward()
        for found, wanted in ((truncated.posterior, step["p_model"]), (truncated.average, step["mu"]), (truncated.variance, step["var"]),
                              (weights, step["weight"]), (loss.detach(), step["unsup_loss"]), (strong.grad, step["grad_strong"])):
            torch.testing.assert_close(found, torch.as_tensor(wanted).double(), rtol=0, atol=2e-6)


def test_weights_fall_off_below_the_average_alone():
    truncated = TruncatedGaussian([True] * 3, 0.9, 2.0)
    truncated.average.fill_(0.5), truncated.variance.fill_(0.04)  # a deviation of 0.2, 0.1 for n_sigma 2
    weights = truncated.weights(torch.tensor([0.9, 0.5, 0.4, 0.3]))
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.0, -0.5, -2.0]).exp())
    truncated.variance.fill_(0)  # all words alike
    assert truncated.weights(torch.tensor([0.5, 0.4])).tolist() == [1, 0]


def test_statistics_are_of_words_that_are_read():
    truncated = TruncatedGaussian([True] * 3, 0.0, 2.0)
    truncated.update_scores(torch.tensor([0.9, 0.0, 0.5]), torch.tensor([True, False, True]))
    assert truncated.average.item() == pytest.approx(0.7) and truncated.variance.item() == pytest.approx(0.08)
    truncated.update_scores(torch.tensor([0.2, 0.0]), torch.tensor([True, False]))  # one has no variance
    assert truncated.average.item() == pytest.approx(0.2) and truncated.variance.item() == pytest.approx(0.08)
    truncated.update_scores(torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    assert truncated.average.item() == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_without_alignment_the_weights_are_of_the_plain_scores(name):
    model = objective("softmatch", name, distribution_alignment=False, ema_decay=0.0)
    losses = model(full_batch(model))
    assert losses.named["score_average"].item() == pytest.approx(losses.named["mean_score"].item(), rel=0.2)  # all or nearly all are read
    assert 0 < losses.named["kept_fraction"] < 1 and model.truncated.seen == 0
    aligned = objective("softmatch", name, ema_decay=0.0)
    assert aligned(full_batch(aligned)).named["kept_fraction"] != losses.named["kept_fraction"] and aligned.truncated.seen == 1


def test_alignment_is_over_what_words_hold():
    model = objective("softmatch", "trba_tiny")  # start 0, end 1, nine characters
    assert model.truncated.writable.tolist() == [False] + [True] * 10
    assert objective("softmatch", "crnn_tiny").truncated.writable.tolist() == [False] + [True] * 9  # the blank
    with pytest.raises(ValueError, match="softmatch expects deviations above 0, found 0.0"):
        objective("softmatch", "trba_tiny", deviations=0.0)
