"""Every objective trains every kind of recognizer: an objective needs nothing but the contract."""

import pytest
import torch

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import OBJECTIVES
from models.recognizers import build

WORDS = ["hello", "wor1d"]
KINDS = {"crnn_tiny": {}, "trba_tiny": {}, "moran": {"height": 32, "width": 100}, "abinet": {"hidden": 64}, "vitstr": {"size": "tiny"},
         "parseq": {"size": "tiny"}, "svtr": {}}


def part(recognizer, views: int, labeled: bool) -> Part:
    images = torch.rand(2, 3, recognizer.height, recognizer.width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    targets = recognizer.decoder.encode(WORDS) if labeled else None
    return Part(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), ["a", "b"], WORDS if labeled else None, targets, (images,) * views)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_gives_every_trained_parameter_a_finite_gradient(name, objective):
    torch.manual_seed(0)
    recognizer = build(name, Charset.named("36"), **KINDS[name])
    trained = OBJECTIVES[objective](recognizer).train()
    batch = Batch(**{stream: part(recognizer, len(views), stream == "labeled") for stream, views in trained.views.items()})
    losses = trained(batch)
    losses.total.backward()
    trained.after_step(1)
    gradients = {name: parameter.grad for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert losses.total.isfinite()
