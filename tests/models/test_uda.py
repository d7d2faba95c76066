"""UDA: USB's and TorchSSL's numbers for single labels, annealing, and its two forms for CTC."""

import math

import pytest
import torch

from ccr_models import BOTH, full_batch, objective, single_labels
from models.charset import Charset
from models.decoders.decoded import Decoded
from models.objectives.distances import cross_entropies
from models.objectives.readings import read
from models.objectives.uda import annealed, soft_distances, teaching
from models.recognizers import build


@pytest.fixture(scope="module")
def recorded(parity_data) -> dict:
    return torch.load(parity_data / "ssl_losses.pt", map_location="cpu", weights_only=True)


@pytest.mark.parametrize("source, name, consistency, temperature", [
    ("usb", "uda_0.8", "cross_entropy", 1.0),  # its temperature is not used
    ("torchssl", "uda_ce_T0.4_0.8", "cross_entropy", 0.4), ("torchssl", "uda_kld_tf_T0.4_0.8", "kl", 0.4)])
def test_reproduces_single_labels(recorded, source, name, consistency, temperature):
    case = recorded[source]["cases"][name]
    strong = recorded[source]["strong"].double().requires_grad_(True)
    reading, weak = single_labels(recorded[source]["weak"].double())
    kept = reading.scores >= 0.8
    loss = (soft_distances(reading, weak, strong.unsqueeze(1), consistency, temperature) * kept).mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(case.get("loss", case.get("unsup_loss"))), abs=1e-6)
    assert kept.double().mean().item() == pytest.approx(case["mask_mean"], abs=1e-6)
    torch.testing.assert_close(strong.grad, case["grad_strong"].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "exp", "log", "none"])
def test_reproduces_usbs_schedules(recorded, schedule):
    steps = [0, 10, 50, 90, 100]
    found = [annealed(torch.tensor(step / 100, dtype=torch.float64), 6, schedule).item() for step in steps]
    assert found == pytest.approx(recorded["usb"]["cases"]["tsa"][schedule], abs=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "log"])
def test_reproduces_usbs_annealed_labels(recorded, schedule):
    usb, case = recorded["usb"], recorded["usb"]["cases"][f"uda_0.8_tsa_{schedule}_it30of100"]
    labeled = usb["labeled"].double().requires_grad_(True)
    reading, _ = single_labels(labeled)
    taught = reading.scores <= annealed(torch.tensor(0.3, dtype=torch.float64), 6, schedule)
    losses = cross_entropies(usb["labels"][:, None], teaching(Decoded(labeled.unsqueeze(1), labeled), taught).logits).squeeze(1)
    losses.mean().backward()
    assert (losses * taught).mean().item() == pytest.approx(case["sup_loss"], abs=1e-6)
    assert 0 < taught.sum() < len(taught)
    torch.testing.assert_close(labeled.grad, case["grad_labeled"].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_identical_views_leave_the_gap_of_sharpening(temperature):
    model = objective("uda", "trba_tiny", confidence_threshold=0.0, sharpening_temperature=temperature)
    batch = full_batch(model)
    batch.unlabeled.views = (batch.unlabeled.views[0],) * 2
    found = model(batch).named["consistency_loss"].item()
    assert found == pytest.approx(0, abs=1e-12) if temperature == 1 else found > 0.01


def test_the_two_distances_have_one_gradient():
    gradients = []
    for consistency in ("kl", "cross_entropy"):
        model = objective("uda", "trba_tiny", confidence_threshold=0.3, consistency=consistency)
        model(full_batch(model)).total.backward()
        gradients.append([parameter.grad for parameter in model.recognizer.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@BOTH
def test_labels_that_are_known_teach_nothing(name):
    model = objective("uda", name, confidence_threshold=1.0, annealing="linear", annealing_steps=10, score="geometric_mean")
    batch = full_batch(model)
    scores = read(model.recognizer(batch.labeled.views[0], model.recognizer.decoder.inputs(batch.labeled.targets)).logits,
                  model.recognizer.decoder.tokens, "geometric_mean").scores
    model.after_step(5)
    classes = model.recognizer.decoder.tokens.classes
    ceiling = 0.5 * (1 - 1 / classes) + 1 / classes
    known = (scores > ceiling).nonzero().flatten().tolist()
    losses = model(batch)
    assert losses.named["taught_fraction"].item() == pytest.approx(1 - len(known) / len(scores))
    batch.labeled.views[0].requires_grad_(True)
    model(batch).total.backward()
    silent = [image for image, gradient in enumerate(batch.labeled.views[0].grad) if gradient.abs().max() == 0]
    assert silent == known and known
    model.after_step(10)
    assert model(batch).named["taught_fraction"] == 1


@pytest.mark.parametrize("name", ["abinet", "parseq"])
def test_annealing_drops_a_word_from_all_branches(name):
    torch.manual_seed(0)
    sizes = {"abinet": {"hidden": 32, "language_layers": 1, "vision_layers": 1}, "parseq": {"size": "tiny", "dropout": 0.0}}[name]
    recognizer = build(name, Charset("abc"), max_length=4, **sizes).double().eval()
    recognizer.decoder.train(name == "parseq")  # in which it writes in several orders
    targets = recognizer.decoder.encode(["ab", "c"])
    images = torch.rand(2, 3, 32, 128, dtype=torch.float64, requires_grad=True)
    decoded = recognizer(images, recognizer.decoder.inputs(targets))
    assert decoded.branches
    recognizer.decoder.loss(teaching(decoded, torch.tensor([False, True])), targets).backward()
    assert torch.count_nonzero(images.grad[0]) == 0 < torch.count_nonzero(images.grad[1])


def test_of_ctc_the_strings_are_compared_unless_the_frames_are_asked_for():
    strings, fixmatch = objective("uda", "crnn_tiny", confidence_threshold=0.3), objective("fixmatch", "crnn_tiny", confidence_threshold=0.3)
    batch = full_batch(strings)
    assert strings(batch).total == fixmatch(batch).total
    with pytest.warns(UserWarning, match="uda compares frame by frame, but its strong view moves the image"):
        frames = objective("uda", "crnn_tiny", confidence_threshold=0.0, alignment="frames")
    target, online = (frames.recognizer(view).logits.double() for view in batch.unlabeled.views)
    p = (target / 0.4).softmax(-1)
    words = (p * (p.log() - online.log_softmax(-1))).sum(-1).mean(1)
    kept = read(target, frames.recognizer.decoder.tokens).is_read
    assert frames(batch).named["consistency_loss"].item() == pytest.approx((words * kept).mean().item(), rel=1e-9)


@pytest.mark.parametrize("constants, message", [({"annealing": "log"}, "uda expects annealing_steps of 1 or more, found None"),
                                                ({"sharpening_temperature": 0.0}, "for hard labels use the objective fixmatch"),
                                                ({"consistency_weight": -1.0}, "consistency_weight of 0 or more, found -1.0"),
                                                ({"confidence_threshold": math.nan}, "from 0 to 1, found nan")])
def test_refuses_what_makes_no_sense(constants, message):
    with pytest.raises(ValueError, match=message):
        objective("uda", "trba_tiny", **constants)
