"""FreeMatch: USB's averages, thresholds, losses and gradients for single labels, step by step."""

import pytest
import torch

from ccr_models import full_batch, objective, single_labels
from models.charset import AttentionTokens, Charset
from models.objectives.flexmatch import thresholds_of_words
from models.objectives.freematch import Adaptive, masked_quantile, quotients
from models.objectives.weak_strong import word_consistency

SIX = AttentionTokens(Charset("abcd"))  # six classes


@pytest.fixture(scope="module")
def recorded(parity_data) -> dict:
    return torch.load(parity_data / "ssl_losses.pt", map_location="cpu", weights_only=True)["usb"]["cases"]


@pytest.mark.parametrize("name", ["freematch", "freematch_clip", "freematch_quantile_clip"])
def test_reproduces_usb_for_single_labels(recorded, name):
    case = recorded[name]
    adaptive = Adaptive(6, case["ema_p"], use_quantile="quantile" in name, clip="clip" in name).double()
    for step in case["steps"]:
        strong = step["strong"].double().requires_grad_(True)
        reading, weak = single_labels(step["weak"].double())
        adaptive.update(reading.scores, reading.is_read, weak.softmax(-1), reading.symbols, reading.steps)
        for found, wanted in ((adaptive.certainty, step["time_p"]), (adaptive.posterior, step["p_model"]),
                              (adaptive.histogram, step["label_hist"]), (adaptive.thresholds(), step["class_thresholds"])):
            torch.testing.assert_close(found, torch.as_tensor(wanted).double(), rtol=0, atol=1e-6)
        kept = reading.scores >= thresholds_of_words(adaptive.thresholds(), reading.symbols, reading.steps)
        loss = word_consistency(reading, strong.unsqueeze(1), kept, SIX)
        fairness = adaptive.fairness(strong.unsqueeze(1).softmax(-1), kept.unsqueeze(1))
        (loss + case["lambda_e"] * fairness).backward()
        assert kept.double().mean().item() == pytest.approx(step["mask_mean"], abs=1e-6)
        assert loss.item() == pytest.approx(step["unsup_loss"], abs=1e-6)
        assert fairness.item() == pytest.approx(step["entropy_loss"], abs=1e-5)  # up to 28 in size
        torch.testing.assert_close(strong.grad, step["grad_strong"].double(), rtol=0, atol=1e-6)


def test_quantiles_are_between_two_scores_and_of_none_not_finite():
    scores, mask = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3]), torch.tensor([True, False, True, True, True])
    assert masked_quantile(scores, mask, 0.8).item() == pytest.approx(torch.quantile(scores[mask], 0.8).item())
    assert masked_quantile(scores, scores == 0.9, 0.8).item() == pytest.approx(0.9)
    assert not masked_quantile(scores, scores > 2, 0.8).isfinite()


def test_a_class_without_labels_counts_as_nothing():
    assert quotients(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.5, 0.0, 0.1])).tolist() == pytest.approx([1 / 3, 0, 2 / 3])
    adaptive = Adaptive(3, 0.9)
    adaptive.histogram.copy_(torch.tensor([0.5, 0.5, 1e-9]))
    probabilities = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]])
    adaptive.posterior.copy_(torch.tensor([0.4, 0.4, 0.2]))
    wanted, found = torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.5]) / 0.9
    fairness = adaptive.fairness(probabilities, torch.tensor([[True, True]]))
    assert fairness.item() == pytest.approx((wanted * found.log()).sum().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_posteriors_and_labels_are_counted_over_the_same_steps(name):
    """Of CTC over frames that are not blank, two of which may write one character, as in the fairness term; else over characters and ends."""
    model = objective("freematch", name, ema_decay=0.0)
    batch, tokens = full_batch(model), model.recognizer.decoder.tokens
    logits = model.recognizer(batch.unlabeled.views[0]).logits
    symbols = []
    for row in logits.argmax(2).tolist():
        if name == "crnn_tiny":
            symbols += [symbol for symbol in row if symbol != tokens.blank]
        else:
            symbols += [*row, tokens.end][:next((step for step, symbol in enumerate(row[:-1]) if symbol < 2), len(row) - 1)] + [tokens.end]
    model(batch)
    wanted = torch.tensor(symbols).bincount(minlength=tokens.classes).double() / len(symbols)
    torch.testing.assert_close(model.adaptive.histogram, wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_what_is_kept_nowhere_has_no_fairness(name):
    model = objective("freematch", name)
    model.adaptive.certainty.fill_(1e6)
    losses = model(full_batch(model))
    losses.total.backward()
    assert losses.named["kept_fraction"] == 0 and losses.named["fairness_loss"] == 0 and losses.named["consistency_loss"] == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.recognizer.parameters())


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_the_fairness_term_pulls_at_the_strong_view(name):
    gradients = []
    for weight in (0.0, 1.0):
        model = objective("freematch", name, fairness_weight=weight)
        losses = model(full_batch(model))
        losses.total.backward()
        gradients.append(model.recognizer.decoder.classifier.weight.grad)
        assert losses.named["fairness_loss"] < 0
    assert not torch.equal(*gradients)
