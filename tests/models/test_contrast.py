"""The contrast of instances in pieces: the whole matrix's loss and gradient, in memory that is linear in the ranks."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from models.footprint import Held
from models.objectives import contrast as pieces
from models.objectives.contrast import contrast

GIB = 2 ** 30


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(own: torch.Tensor, everyone: torch.Tensor, start: int, temperature: float) -> torch.Tensor:
    """The loss by the whole matrix of similarities."""
    row = torch.arange(len(own))
    similarity = (own @ everyone.t() / temperature).index_put((row, start + row), torch.tensor(-torch.inf, dtype=own.dtype))
    return F.cross_entropy(similarity, start + (row + len(own) // 2) % len(own))


@pytest.mark.parametrize("columns", [1, 3, 8, 100])
@pytest.mark.parametrize("start", [0, 6, 12])
def test_the_pieces_make_the_whole(columns, start, monkeypatch):
    """Also where a piece holds nothing but the instance itself; of a rank in the middle, whose instances are rows 6 to 11 of 18."""
    monkeypatch.setattr(pieces, "COLUMNS", columns)
    everyone = F.normalize(drawn(18, 4), dim=1)
    inputs = [[part.clone().requires_grad_() for part in (everyone[start:start + 6], everyone)] for _ in range(2)]
    loss, matched = pieces._Contrast.apply(*inputs[0], start, 0.1)
    expected = whole(*inputs[1], start, 0.1)
    (3 * loss).backward()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for found, wanted in zip(inputs[0], inputs[1], strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-12)
    similarity = inputs[0][0] @ everyone.t()
    similarity[torch.arange(6), start + torch.arange(6)] = -2
    assert matched == (similarity.argmax(1) == start + torch.tensor([3, 4, 5, 0, 1, 2])).double().mean()


def test_a_small_temperature_does_not_overflow():
    instances = drawn(12, 4).requires_grad_()
    loss, _ = contrast(instances, 1e-4)
    loss.backward()
    unit = F.normalize(instances.detach(), dim=1)
    assert loss.item() == pytest.approx(whole(unit, unit, 0, 1e-4).item(), rel=1e-9)
    assert instances.grad.isfinite().all()


def step_of(ranks: int, images: int, frames: int, width: int) -> int:
    """The most bytes that a rank's step holds: its own instances of two views, those of all ranks, and what forward and backward make of them."""
    own = 2 * images * frames
    with FakeTensorMode(), Held([]) as held:
        instances = torch.empty(own, width, requires_grad=True)
        everyone = torch.empty(ranks * own, width, requires_grad=True)
        loss, _ = pieces._Contrast.apply(instances, everyone, 0, 0.1)
        loss.backward()
    return held.most


def test_thirty_two_ranks_of_256_images_with_26_frames_take_less_than_one_gibibyte():
    """Their matrix of similarities would take 21 GiB on each rank."""
    assert 32 * (2 * 256 * 26) ** 2 * 4 > 21 * GIB
    assert step_of(32, 256, 26, 256) < GIB


def test_memory_is_linear_in_the_ranks():
    one, two, four = (step_of(ranks, 64, 26, 64) for ranks in (1, 2, 4))
    assert four - two == 2 * (two - one)
