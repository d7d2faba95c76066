"""CCR: the whole loss against a plain re-implementation, and the facts that any honest implementation shows."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ccr_models import BOTH, HALF, batch_of, ccr, different_views, images, plain_string, plain_string_distance, recognizer
from models.batch import Batch
from models.objectives import CCR, Supervised
from models.objectives.ccr import _projection
from models.objectives.readings import read

# --- the whole loss, one image, one step and one class at a time ------------------------------------------------------


def plain_attention_reading(logits: Tensor) -> tuple[list[int], float, list[int]]:
    """Symbols with their end, score, and the steps that write a character, of (steps, classes)."""
    symbols, score = [], 1.0
    for step, values in enumerate(logits.softmax(1)):
        best = int(values.argmax())
        score *= values[best].item()
        if best < 2 or step == len(logits) - 1:
            return [*symbols, 1], score, list(range(len(symbols)))
        symbols.append(best)


def plain_ctc_reading(logits: Tensor) -> tuple[list[int], float, list[int]]:
    """Classes of the frames, score, and the frames that are not blank, of (frames, classes)."""
    best = [int(values.argmax()) for values in logits]
    string = plain_string(best)
    score = math.exp(-plain_string_distance(string, logits) * len(string)) if string else 0.0
    return best, score, [frame for frame, symbol in enumerate(best) if symbol != 0]


def plain_coral(source: list[Tensor], unlabeled: list[Tensor], form: str) -> float:
    covariances = [np.cov(torch.stack(vectors).detach().numpy().T) for vectors in (source, unlabeled)]
    width = len(covariances[0])
    if form == "paper":
        return ((covariances[0] - covariances[1]) ** 2).sum() / (4 * width**2)
    scatters = [covariances[0] * (len(source) - 1), covariances[1] * (len(unlabeled) - 1)]
    return ((scatters[0] - scatters[1]) ** 2).mean() / (4 * width**2)


def plain_parts(model: CCR, batch: Batch, constants: dict) -> dict[str, float]:
    """The losses of a model in eval mode, from the formulas."""
    decoder = model.recognizer.decoder
    reading = plain_attention_reading if decoder.kind == "attention" else plain_ctc_reading
    kept, distances, unlabeled, source = 0, [], [], []
    weak, strong = batch.unlabeled.views
    for image in range(len(weak)):
        target = model.target(weak[image:image + 1]).logits[0]
        symbols, score, _ = reading(target)
        fed = None
        if decoder.kind == "attention" and constants.get("consistency_level") != "sequence":
            steps = model.target(weak).logits.shape[1]
            fed = torch.tensor([[0, *symbols, *[0] * steps][:steps]])
        online = decoder(model.recognizer.encode(strong[image:image + 1]), fed, model.projection)
        by_string = decoder.kind == "ctc" and constants.get("alignment") != "frames"
        if score >= constants["confidence_threshold"]:
            kept += 1
            if by_string:
                distances.append(plain_string_distance(plain_string(symbols), online.logits[0]))
            for step, symbol in enumerate([] if by_string else symbols[:online.logits.shape[1]]):
                q = online.logits[0, step].softmax(0)
                if constants.get("consistency") == "cross_entropy":
                    distances.append(-math.log(q[symbol].item()))
                    continue
                p = (target[step] / constants["sharpening_temperature"]).softmax(0)
                distances.append(sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0))
        _, own_score, characters = reading(online.logits[0])
        if own_score >= constants["confidence_threshold"]:
            unlabeled += [online.glimpses[0, step] for step in characters]
    labeled = model.recognizer(batch.labeled.views[0], decoder.inputs(batch.labeled.targets))
    for logits, glimpses in zip(labeled.logits, labeled.glimpses, strict=True):
        _, own_score, characters = reading(logits)
        if own_score >= constants["labeled_confidence_threshold"]:
            source += [glimpses[step] for step in characters]
    parts = {"recognition_loss": decoder.loss(labeled, batch.labeled.targets).item(), "kept_fraction": kept / len(weak),
             "consistency_loss": kept / len(weak) * sum(distances) / len(distances),
             "domain_adaptation_loss": plain_coral(source, unlabeled, constants.get("coral_form", "paper"))}
    return parts


VARIANTS = [{}, {"consistency": "cross_entropy"}, {"coral_form": "authors_code"}, {"projection": "linear"}, {"projection": "residual"},
            {"projection": "none", "sharpening_temperature": 1.0}]
FRAMES = {"alignment": "frames"}


CASES = [("trba_tiny", variant) for variant in VARIANTS] + [("crnn_tiny", {**variant, **FRAMES}) for variant in VARIANTS] + \
    [("crnn_tiny", variant) for variant in ({}, {"projection": "none"}, {"projection": "residual"})]


@pytest.mark.parametrize("name, variant", [*CASES, ("trba_tiny", {"consistency_level": "sequence"})])
def test_equals_a_plain_reimplementation(name, variant):
    constants = {"sharpening_temperature": 0.4, **HALF, **variant}
    model = ccr(name, **constants)
    batch = different_views(model)

    losses = model(batch)
    parts = plain_parts(model, batch, constants)

    assert parts["kept_fraction"] not in (0, 1) and parts["domain_adaptation_loss"] > 0  # all parts have work
    for part, expected in parts.items():
        assert losses.named[part].item() == pytest.approx(expected, rel=1e-9), part
    total = parts["recognition_loss"] + 1.0 * parts["consistency_loss"] + 0.01 * parts["domain_adaptation_loss"]
    assert losses.total.item() == pytest.approx(total, rel=1e-9)


# --- the published facts ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_identical_views_without_average_and_projection_leave_the_gap_of_sharpening(name, temperature):
    model = ccr(name, alignment="frames", projection="none", ema_decay=0.0, sharpening_temperature=temperature, confidence_threshold=0.0)
    same = images(6, seed=2)
    batch = batch_of(model, same, same)
    optimizer = torch.optim.SGD(model.recognizer.parameters(), lr=1e-3)
    model(batch).total.backward()
    optimizer.step()
    model.after_step(1)  # the target is the online model again

    losses = model(batch)

    logits = model.recognizer(same, read(model.target(same).logits, model.recognizer.decoder.tokens).inputs).logits
    counted = read(logits, model.recognizer.decoder.tokens).steps
    sharpened = (logits / temperature).log_softmax(-1)[counted]
    gap = (sharpened.exp() * (sharpened - logits.log_softmax(-1)[counted])).sum(-1).mean()
    assert losses.named["kept_fraction"] == 1
    assert losses.named["consistency_loss"].item() == pytest.approx(gap.item(), abs=1e-12)
    assert (gap > 0.01) == (temperature != 1)


@pytest.mark.parametrize("name, threshold", [("crnn_tiny", 0.0), ("trba_tiny", 0.2)])
def test_nothing_is_adapted_to_words_of_which_none_is_kept(name, threshold):
    """However sure the online branch is: the authors' code does not run it then."""
    model = ccr(name, confidence_threshold=threshold, labeled_confidence_threshold=0.0)
    batch = different_views(model)
    assert model(batch).named["domain_adaptation_loss"] > 0
    with torch.no_grad():
        model.target.decoder.classifier.weight.zero_()
        model.target.decoder.classifier.bias.zero_()  # the first of the classes, all as likely: nothing for CTC, else an empty word of 1 / 11
    losses = model(batch)
    assert losses.named["kept_fraction"] == 0 and losses.named["domain_adaptation_loss"] == 0


@BOTH
def test_a_threshold_of_one_leaves_the_pure_supervised_loss(name):
    model = ccr(name, confidence_threshold=1.0)
    supervised = Supervised(recognizer(name)).eval()
    batch = different_views(model)
    losses, expected = model(batch), supervised(batch)
    losses.total.backward()
    expected.total.backward()

    assert losses.total.item() == expected.total.item()
    assert losses.named["kept_fraction"] == 0
    assert losses.named["consistency_loss"] == 0 and losses.named["domain_adaptation_loss"] == 0
    for parameter, other in zip(model.recognizer.parameters(), supervised.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-12, atol=1e-15)
    assert all(torch.count_nonzero(parameter.grad) == 0 for parameter in model.projection.parameters())


def test_a_score_that_equals_its_threshold_is_kept():
    model = ccr("trba_tiny", confidence_threshold=1.0)
    with torch.no_grad():
        model.target.decoder.classifier.bias[1] = 1e4
    losses = model(different_views(model))
    assert losses.named["mean_score"] == 1
    assert losses.named["kept_fraction"] == 1


def test_domain_adaptation_moves_both_branches():
    model = ccr("trba_tiny", **HALF)
    decoded = []
    model.recognizer.decoder.register_forward_hook(lambda _, arguments, output: decoded.append(output))
    losses = model(different_views(model))
    labeled, online = decoded
    gradients = torch.autograd.grad(losses.total, [labeled.glimpses, online.glimpses])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@BOTH
@pytest.mark.parametrize("threshold", [0.0, 1.0])
@pytest.mark.parametrize("variant", [{}, {"domain_adaptation": False}, {"consistency": "cross_entropy"},
                                     {"projection": "none"}, {"projection": "residual"}])
def test_every_trained_parameter_gets_a_gradient_and_the_target_none(name, threshold, variant):
    model = ccr(name, confidence_threshold=threshold, **variant).train()
    batch = different_views(model)
    batch.unlabeled.views[0].requires_grad_(True)
    model(batch).total.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith("target."):
            assert not parameter.requires_grad and parameter.grad is None, parameter_name
        else:
            assert torch.isfinite(parameter.grad).all(), parameter_name
    assert batch.unlabeled.views[0].grad is None


@BOTH
def test_the_target_is_the_closed_form_of_the_moving_average(name):
    model = ccr(name, ema_decay=0.9).train()
    batch = different_views(model)
    optimizer = torch.optim.SGD(model.recognizer.parameters(), lr=1e-3)
    online = [[p.detach().clone() for p in model.recognizer.parameters()]]
    for step in range(1, 5):
        optimizer.zero_grad()
        model(batch).total.backward()
        optimizer.step()
        model.after_step(step)
        online.append([p.detach().clone() for p in model.recognizer.parameters()])

    for position, target in enumerate(model.target.parameters()):
        history = [weights[position] for weights in online]
        expected = 0.9**4 * history[0] + sum(0.1 * 0.9 ** (4 - step) * history[step] for step in range(1, 5))
        torch.testing.assert_close(target, expected, rtol=1e-12, atol=1e-14)
    for target, buffer in zip(model.target.buffers(), model.recognizer.buffers(), strict=True):
        assert torch.equal(target, buffer)  # copied, not averaged


@pytest.mark.parametrize("constants", [{"ema_decay": 0.0}, {"ema": False}])
def test_without_average_the_target_is_the_online_model(constants):
    model = ccr("crnn_tiny", **constants).train()
    optimizer = torch.optim.SGD(model.recognizer.parameters(), lr=1e-2)
    model(different_views(model)).total.backward()
    optimizer.step()
    pairs = list(zip(model.target.parameters(), model.recognizer.parameters(), strict=True))
    assert not any(torch.equal(target, online) for target, online in pairs)
    model.after_step(1)
    assert all(torch.equal(target, online) for target, online in pairs)


def test_the_target_stays_in_eval_mode_and_keeps_its_own_statistics():
    model = ccr("crnn_tiny").train()
    before = [buffer.clone() for buffer in model.target.buffers()]
    model(different_views(model))
    assert model.recognizer.training and model.projection.training
    assert not any(module.training for module in model.target.modules())
    assert all(torch.equal(buffer, old) for buffer, old in zip(model.target.buffers(), before, strict=True))
    assert model.eval().train(False) is model


def test_a_continued_run_has_the_same_target():
    model = ccr("crnn_tiny", ema_decay=0.5)
    with torch.no_grad():
        model.recognizer.decoder.classifier.bias += 1
    model.after_step(1)
    continued = ccr("crnn_tiny", ema_decay=0.5)
    continued.load_state_dict(model.state_dict())
    batch = different_views(model)
    assert model(batch).total == continued(batch).total


# --- switches ---------------------------------------------------------------------------------------------------------


@BOTH
def test_the_projection_belongs_to_the_online_branch_alone(name):
    batch = different_views(ccr(name))
    parts = {projection: ccr(name, projection=projection, **HALF)(batch).named
             for projection in ("none", "linear", "feed_forward")}
    for same in ("recognition_loss", "mean_score", "kept_fraction"):
        assert len({values[same].item() for values in parts.values()}) == 1, same
    assert len({values["consistency_loss"].item() for values in parts.values()}) == 3


@pytest.mark.parametrize("projection, parameters", [("feed_forward", 33_216), ("linear", 65_792)])
def test_the_projection_has_the_published_size(projection, parameters):
    head = _projection(projection, 256)
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters
    assert head(torch.randn(2, 5, 256)).shape == (2, 5, 256)
    assert _projection("none", 256) is None


@BOTH
def test_the_weights_and_the_domain_adaptation_switch(name):
    batch = different_views(ccr(name))
    losses = ccr(name, **HALF, consistency_weight=2.0, domain_adaptation_weight=0.5)(batch)
    part = losses.named
    expected = part["recognition_loss"] + 2 * part["consistency_loss"] + 0.5 * part["domain_adaptation_loss"]
    torch.testing.assert_close(losses.total.detach(), expected)
    without = ccr(name, **HALF, domain_adaptation=False)(batch)
    torch.testing.assert_close(without.total.detach(), part["recognition_loss"] + part["consistency_loss"])
    assert "domain_adaptation_loss" not in without.named
    assert not any(value.requires_grad for value in part.values())


def test_ccr_feeds_the_online_decoder_the_targets_symbols_and_scr_its_own():
    fed = {}
    for level in ("character", "sequence"):
        model = ccr("trba_tiny", consistency_level=level)
        batch = different_views(model)
        calls = []
        model.recognizer.decoder.register_forward_pre_hook(lambda _, arguments, calls=calls: calls.append(arguments[1]))
        model(batch)
        fed[level] = calls[-1]
    with torch.no_grad():
        target = read(model.target(batch.unlabeled.views[0]).logits, model.recognizer.decoder.tokens)
    assert torch.equal(fed["character"], target.inputs)
    assert fed["sequence"] is None


def test_scr_compares_the_steps_that_both_branches_have():
    model = ccr("trba_tiny", consistency_level="sequence", confidence_threshold=0.0, consistency="cross_entropy")
    with torch.no_grad():  # the target ends at once but runs on; the online decoder, in eval mode, stops when all words have ended
        model.target.decoder.classifier.bias[1] = 100
        model.recognizer.decoder.classifier.bias[1] = 50
    batch = different_views(model)
    losses, (weak, strong) = model(batch), batch.unlabeled.views
    online = model.recognizer.decoder(model.recognizer.encode(strong), None, model.projection).logits
    assert model.target(weak).logits.shape[1] == model.recognizer.max_length + 1 > online.shape[1] == 1
    wanted = -online[:, 0].log_softmax(-1)[:, 1].mean()  # of the end symbol, the one step that counts
    assert losses.named["consistency_loss"].item() == pytest.approx(wanted.item(), rel=1e-9)


def test_scr_has_no_meaning_for_ctc():
    with pytest.raises(ValueError, match="found a CTC decoder: use consistency_level=character"):
        ccr("crnn_tiny", consistency_level="sequence")


@pytest.mark.parametrize("constants, message", [({"ema_decay": 1.5}, "ema_decay from 0 to 1, found 1.5"),
                                                ({"sharpening_temperature": 0.0}, "above 0, found 0.0")])
def test_refuses_constants_that_make_no_sense(constants, message):
    with pytest.raises(ValueError, match=message):
        ccr("trba_tiny", **constants)


class _NoWaiting(TorchDispatchMode):
    """Fails where a value or a data-dependent shape would have to come back from the device."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        assert not any(name in str(function) for name in ("_local_scalar_dense", "nonzero")), function
        return function(*arguments, **(keywords or {}))


def test_a_step_never_waits_for_the_device():
    model = ccr("trba_tiny", **HALF).train()
    batch = different_views(model)
    with _NoWaiting():
        losses = model(batch)
    losses.total.backward()
    assert 0 < losses.named["kept_fraction"] < 1
