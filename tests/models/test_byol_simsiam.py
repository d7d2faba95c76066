"""BYOL and SimSiam: equal to a published implementation in loss, heads and schedule."""

import pytest
import torch

from models.objectives.byol import cosine_decay
from models.objectives.image_vectors import negative_cosine, normalised_mlp, spread


@pytest.fixture(scope="module")
def record(parity_data):
    return torch.load(parity_data / "ssl_losses.pt", weights_only=True)["lightly"]


@pytest.mark.parametrize("case", ["byol", "simsiam"])
def test_the_loss(record, case):
    kept = record[case]
    predicted = [kept[name].clone().requires_grad_() for name in ("p0", "p1")]
    targets = [kept[name].clone().requires_grad_() for name in ("z0", "z1")]
    loss = (negative_cosine(predicted[0], targets[1]) + negative_cosine(predicted[1], targets[0])) / 2
    loss.backward()
    torch.testing.assert_close(loss, kept["loss"], rtol=5e-6, atol=5e-6)
    for name, leaf in zip(("grad_p0", "grad_p1"), predicted, strict=True):
        torch.testing.assert_close(leaf.grad, kept[name], rtol=5e-6, atol=5e-6)
    assert all(target.grad is None for target in targets)


@pytest.mark.parametrize(("case", "last"), [("byol_projection", "linear"), ("byol_prediction", "linear"),
                                            ("simsiam_projection", "norm"), ("simsiam_prediction", "linear")])
def test_the_heads(record, parity_data, case, last, monkeypatch):
    monkeypatch.syspath_prepend(str(parity_data))
    from fixture import formula_param
    kept = record[f"head_{case}"]
    widths = kept["widths"]
    head = normalised_mlp([widths[0], widths[1], widths[1], widths[2]] if case == "simsiam_projection" else widths, last).train()
    assert [f"layers.{name}" for name, _ in head.named_parameters()] == list(kept["parameters"])
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.copy_(formula_param(f"layers.{name}", parameter.shape))
    torch.testing.assert_close(head(kept["input"]), kept["output_train"], rtol=1e-5, atol=1e-5)
    for name, buffer in head.named_buffers():
        torch.testing.assert_close(buffer, kept["buffers"][f"layers.{name}"], rtol=1e-5, atol=1e-6)


def test_the_schedule(record):
    kept = record["byol_momentum_schedule"]
    for done, value in zip(kept["at"], kept["value"], strict=True):
        assert cosine_decay(kept["start"], done, kept["steps"]) == pytest.approx(value, abs=1e-15)
    assert cosine_decay(0.9, 500, 100) == 1  # behind its end it stays there


def test_spread_tells_a_collapse():
    even = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    assert spread(even).item() == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(10, 32)).item() == pytest.approx(0, abs=1e-5)
