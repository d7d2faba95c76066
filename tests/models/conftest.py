"""Models are tested on one thread; what must be equal whatever the order of a sum, in float64."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def models_on_one_thread(one_thread):
    """Every test of this folder."""


@pytest.fixture
def float64():
    """Tensors and modules are made in float64, in which sums in another order differ by about 1e-13 and not by what the processor adds."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
