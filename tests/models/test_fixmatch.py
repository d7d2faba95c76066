"""FixMatch: USB's and TorchSSL's numbers for single labels, the whole loss of words the plain way, and what leaves the supervised loss alone."""

import pytest
import torch

from ccr_models import BOTH, full_batch, objective, plain_string, plain_string_distance, recognizer, single_labels
from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Decoded
from models.objectives import FixMatch, Supervised
from models.objectives.fixmatch import certain_steps
from models.objectives.readings import read
from models.objectives.weak_strong import Branches, word_consistency
from models.recognizers import build

SIX = AttentionTokens(Charset("abcd"))  # six classes


@pytest.fixture(scope="module")
def recorded(parity_data) -> dict:
    return torch.load(parity_data / "ssl_losses.pt", map_location="cpu", weights_only=True)


@pytest.mark.parametrize("threshold", [0.95, 0.5])
def test_reproduces_usb_for_single_labels(recorded, threshold):
    usb, case = recorded["usb"], recorded["usb"]["cases"][f"fixmatch_hard_{threshold}"]
    weak, strong = usb["weak"].double(), usb["strong"].double().requires_grad_(True)
    reading, _ = single_labels(weak)
    kept = reading.scores >= threshold
    loss = word_consistency(reading, strong.unsqueeze(1), kept, SIX)
    loss.backward()
    assert loss.item() == pytest.approx(case["unsup_loss"], abs=1e-6)
    assert kept.double().mean().item() == pytest.approx(case["mask_mean"], abs=1e-6)
    torch.testing.assert_close(strong.grad, case["grad_strong"].double(), rtol=0, atol=1e-6)
    assert torch.count_nonzero(case["grad_weak"]) == 0


def test_reproduces_torchssl_for_single_labels(recorded):
    torchssl, case = recorded["torchssl"], recorded["torchssl"]["cases"]["fixmatch_hard_T0.5_0.8"]
    strong = torchssl["strong"].double().requires_grad_(True)
    reading, _ = single_labels(torchssl["weak"].double())
    loss = word_consistency(reading, strong.unsqueeze(1), reading.scores >= 0.8, SIX)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"].item(), abs=1e-6)
    torch.testing.assert_close(strong.grad, case["grad_strong"].double(), rtol=0, atol=1e-6)


def test_reproduces_torchssls_soft_labels(recorded):
    torchssl, case = recorded["torchssl"], recorded["torchssl"]["cases"]["fixmatch_soft_T0.5_0.8"]
    strong = torchssl["strong"].double().requires_grad_(True)
    reading, weak = single_labels(torchssl["weak"].double())
    both = Branches(Decoded(weak, weak), weak, reading, Decoded(strong.unsqueeze(1), strong), reading)
    kept, model = reading.scores >= 0.8, objective("fixmatch", "trba_tiny", labels="soft")
    loss = (model.word_distances(both) * kept).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"].item(), abs=1e-6) and kept.double().mean().item() == pytest.approx(case["mask_mean"], abs=1e-6)
    torch.testing.assert_close(strong.grad, case["grad_strong"].double(), rtol=0, atol=1e-6)


def test_soft_labels_of_words_are_the_weak_views_sharpened_distributions():
    model = objective("fixmatch", "trba_tiny", labels="soft", sharpening_temperature=0.25, confidence_threshold=0.0)
    batch = full_batch(model)
    weak, strong = batch.unlabeled.views
    target = model.recognizer(weak).logits
    reading = read(target, model.recognizer.decoder.tokens)
    online = model.recognizer(strong, reading.inputs).logits.log_softmax(-1)
    expected = [-(target[image, :steps].mul(4).softmax(1) * online[image, :steps]).sum().item() / steps
                for image, steps in enumerate(reading.steps.sum(1).tolist())]
    losses = model(batch)
    assert losses.named["consistency_loss"].item() == pytest.approx(sum(expected) / len(weak), rel=1e-9)
    model.mask_unit = "character"  # a threshold of 0 keeps each
    assert model(batch).named["consistency_loss"].item() == pytest.approx(sum(expected) / len(weak), rel=1e-9)


def test_a_word_is_the_mean_over_its_symbols_fed_with_what_was_read():
    model = objective("fixmatch", "trba_tiny", confidence_threshold=0.3, score="product")
    batch = full_batch(model)
    weak, strong = batch.unlabeled.views
    losses, expected, kept = model(batch), 0.0, 0
    for image in range(len(weak)):
        read, score = [], 1.0
        for step in model.recognizer(weak[image:image + 1]).logits[0].softmax(1).tolist():
            read.append(step.index(max(step)))
            score *= max(step)
            if read[-1] < 2:
                break
        read[-1] = 1  # the last step ends the word, whatever it says
        online = model.recognizer(strong[image:image + 1], torch.tensor([[0, *read[:-1]]])).logits[0].log_softmax(1)
        if score >= 0.3:
            kept += 1
            expected += -sum(online[step, symbol].item() for step, symbol in enumerate(read)) / len(read)
    assert 0 < kept < len(weak)
    assert losses.named["consistency_loss"].item() == pytest.approx(expected / len(weak), rel=1e-9)
    assert losses.named["kept_fraction"].item() == pytest.approx(kept / len(weak))


def test_of_ctc_it_is_the_loss_of_the_string():
    model = objective("fixmatch", "crnn_tiny", confidence_threshold=0.0)
    batch = full_batch(model)
    weak, strong = batch.unlabeled.views
    strings = [plain_string(row) for row in model.recognizer(weak).logits.argmax(2).tolist()]
    online = model.recognizer(strong).logits
    expected = sum(plain_string_distance(string, logits) for string, logits in zip(strings, online, strict=True) if string) / len(weak)
    assert model(batch).named["consistency_loss"].item() == pytest.approx(expected, rel=1e-9)


def test_single_characters_may_be_kept():
    model = objective("fixmatch", "trba_tiny", confidence_threshold=0.9, mask_unit="character")
    batch = full_batch(model)
    losses = model(batch)
    weak, strong = batch.unlabeled.views
    target = model.recognizer(weak).logits
    reading = read(target, model.recognizer.decoder.tokens)
    online = model.recognizer(strong, reading.inputs).logits.log_softmax(-1)
    expected, shares = 0.0, 0.0
    for image, steps in enumerate(reading.steps.sum(1).tolist()):
        certain = [step for step in range(steps) if target[image, step].softmax(0).max() >= 0.9]
        expected += -sum(online[image, step, reading.symbols[image, step]].item() for step in certain) / steps
        shares += len(certain) / steps
    assert 0 < shares < len(weak)
    assert losses.named["consistency_loss"].item() == pytest.approx(expected / len(weak), rel=1e-9)
    assert losses.named["kept_fraction"].item() == pytest.approx(shares / len(weak), rel=1e-9)
    assert torch.equal(certain_steps(reading, target, 0.0), reading.steps)


def test_the_geometric_mean_keeps_long_words_that_the_product_drops():
    kept = {score: objective("fixmatch", "trba_tiny", score=score, confidence_threshold=0.5) for score in ("product", "geometric_mean", "minimum")}
    scores = {score: model(full_batch(model)).named["mean_score"].item() for score, model in kept.items()}
    assert scores["product"] < scores["minimum"] < scores["geometric_mean"]


@BOTH
def test_a_threshold_that_nothing_reaches_leaves_the_supervised_loss(name):
    model, supervised = objective("fixmatch", name, confidence_threshold=1.0), Supervised(recognizer(name)).eval()
    batch = full_batch(model)
    losses, expected = model(batch), supervised(batch)
    losses.total.backward()
    expected.total.backward()
    assert losses.total == expected.total and losses.named["kept_fraction"] == 0
    for parameter, other in zip(model.recognizer.parameters(), supervised.recognizer.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-12, atol=1e-15)


@BOTH
def test_the_reading_gets_no_gradient_and_leaves_modes_and_statistics_alone(name):
    model = objective("fixmatch", name, confidence_threshold=0.0).train()
    model.recognizer.sequence.eval()  # as a frozen part would be
    batch = full_batch(model)
    batch.unlabeled.views[0].requires_grad_(True)
    model(batch).total.backward()
    assert batch.unlabeled.views[0].grad is None
    assert model.recognizer.encoder.training and not model.recognizer.sequence.training
    seen = [module.num_batches_tracked.item() for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    fresh = [module.num_batches_tracked.item() for module in recognizer(name).modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert [now - before for now, before in zip(seen, fresh, strict=True)] == [2] * len(seen)  # labeled and strong, not weak


@BOTH
def test_one_concatenated_batch_is_the_same_in_eval_mode_and_shares_statistics_in_training(name):
    apart, together = (objective("fixmatch", name, confidence_threshold=0.0, use_cat=use_cat) for use_cat in (False, True))
    batch = full_batch(apart)
    assert apart(batch).total.item() == pytest.approx(together(batch).total.item(), rel=1e-12)
    assert apart.train()(batch).total != together.train()(batch).total
    seen = [module for module in together.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(module.num_batches_tracked == 2 for module in seen)  # once when it was made, once here


def test_identical_views_leave_the_uncertainty_of_what_is_read():
    """Of words that end: where a word does not, its last symbol is taken for the end symbol, which it is not."""
    model = objective("fixmatch", "trba_tiny", confidence_threshold=0.0)
    batch, tokens = full_batch(model), model.recognizer.decoder.tokens
    ended = (model.recognizer(batch.unlabeled.views[0]).logits.argmax(2) == tokens.end).any(1)
    weak = batch.unlabeled.views[0][ended]
    batch.unlabeled.views = (weak, weak)
    losses = model(batch)
    scores = read(model.recognizer(weak).logits, tokens, "geometric_mean").scores
    assert losses.named["agreement"] == 1 and len(weak) > 2
    assert losses.named["consistency_loss"].item() == pytest.approx(-scores.log().mean().item(), rel=1e-9)


def test_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="fixmatch expects confidence_threshold from 0 to 1, found 1.5"):
        objective("fixmatch", "trba_tiny", confidence_threshold=1.5)
    with pytest.raises(ValueError, match="found a CTC decoder, whose strings are compared whole: use mask_unit=word"):
        objective("fixmatch", "crnn_tiny", mask_unit="character")
    with pytest.raises(ValueError, match="found a CTC decoder, whose strings are hard labels: use labels=hard"):
        objective("fixmatch", "crnn_tiny", labels="soft")
    with pytest.raises(ValueError, match="fixmatch expects images of one width for use_cat, found a recognizer with aspect keep"):
        FixMatch(build("crnn_tiny", Charset("abc"), aspect="keep"), use_cat=True)
