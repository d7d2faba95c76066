"""RotNet: equal to the authors' code, and what it turns."""

import pytest
import torch
from torch import nn

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import RotNet
from models.objectives.image_vectors import vectors
from models.objectives.rotnet import rotations
from models.recognizers import build


@pytest.fixture(scope="module")
def record(parity_data):
    return torch.load(parity_data / "fewer_labels.pt", weights_only=True)["rotnet"]


@pytest.fixture
def model(record, parity_data, monkeypatch) -> RotNet:
    """A VGG and its classifier with the record's weights."""
    monkeypatch.syspath_prepend(str(parity_data))
    from fixture import formula_param
    made = RotNet(build("crnn", Charset.named("36"), channels=3))
    theirs = {name: value for name, value in made.recognizer.encoder.named_parameters()}
    names = [name for name in record["parameters"] if name.startswith("FeatureExtraction.")]
    with torch.no_grad():
        for ours, name in zip(theirs.values(), names, strict=True):
            ours.copy_(formula_param(name, ours.shape))
        for (_, ours), (name, value) in zip(made.recognizer.encoder.named_buffers(), record["buffers"].items(), strict=True):
            ours.copy_(value)
        (head,) = {name.rpartition(".")[0] for name in record["parameters"] if not name.startswith("FeatureExtraction.")}
        made.classifier.weight.copy_(formula_param(f"{head}.weight", (4, 512)))
        made.classifier.bias.copy_(formula_param(f"{head}.bias", (4,)))
    return made


def pictures(record, parity_data) -> torch.Tensor:
    from fixture import image_input
    images = image_input(record["image_name"], record["image_shape"])
    assert images.double().sum().item() == pytest.approx(record["image_checksum"], rel=1e-4)
    return images


def test_loss_and_gradients_are_theirs(record, parity_data, model):
    """For images that are rotated already: eight images stand in a batch as two with their four rotations."""
    images = pictures(record, parity_data)
    model.eval()
    pooled = vectors(model.recognizer, images, "visual")
    torch.testing.assert_close(pooled, record["pooled"], rtol=1e-4, atol=1e-5)
    logits = model.classifier(pooled)
    torch.testing.assert_close(logits, record["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(nn.functional.cross_entropy(logits, record["labels"]), record["loss"], rtol=1e-5, atol=1e-5)


def test_training_takes_the_batchs_statistics(record, parity_data, model):
    loss = nn.functional.cross_entropy(model.train().classifier(vectors(model.recognizer, pictures(record, parity_data), "visual")), record["labels"])
    loss.backward()
    torch.testing.assert_close(loss, record["train_loss"], rtol=1e-5, atol=1e-5)
    for parameter, norm in zip(model.recognizer.encoder.parameters(), record["train_grad_norms"].values(), strict=False):
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-3)


def test_rotations_are_theirs_but_for_what_resizing_takes(record):
    """Theirs rotates a 9 x 21 crop and resizes it; ours resizes it first. The four stand side by side, turned against the clock."""
    crop = record["pil_image"].permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, 9, 21)
    resized = nn.functional.interpolate(crop, (32, 100), mode="bicubic", antialias=True).clamp(-1, 1)
    turned = rotations(resized)
    assert turned.shape == (4, 3, 32, 100)
    assert torch.equal(turned[0], resized[0]) and torch.equal(turned[2], resized[0].flip(1, 2))
    for number in (0, 2):
        torch.testing.assert_close(turned[number].mean((1, 2)), record["pil_resized_mean"][number].to(turned.dtype), rtol=0, atol=1e-2)
    upright = nn.functional.interpolate(record["pil_rotations"][1].permute(2, 0, 1)[None] / 127.5 - 1, (32, 100), mode="bicubic", antialias=True)[0]
    ours, theirs = (image.flatten() - image.mean() for image in (turned[1], upright))
    assert (ours @ theirs / (ours.norm() * theirs.norm())).item() > 0.8


def test_the_four_of_an_image_have_the_labels_0_to_3():
    torch.manual_seed(0)
    model = RotNet(build("crnn_tiny", Charset.named("36"))).train()
    images = torch.rand(3, 3, 32, 100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = model(Batch(unlabeled=Part(torch.empty(0), ["a", "b", "c"], views=(images,))))
    logits = model.classifier(vectors(model.recognizer, rotations(images), "visual"))
    assert losses.total.item() == pytest.approx(nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3] * 3)).item(), rel=1e-4)
