"""1 x 1 convolutions with a stride: their results and gradients, in every memory layout and with few channels."""

import pytest
import torch
from torch import nn

from models.charset import Charset
from models.encoders.pointwise import StridedPointwise
from models.recognizers import RECOGNIZERS, build


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 4, 8, 12, 16, 24])
@pytest.mark.parametrize("stride", [2, (2, 1), 3])
def test_is_the_convolution_of_the_picked_pixels(channels: int, stride: int | tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours = StridedPointwise(channels, 8, stride, bias=True).to(memory_format=layout)
    x = torch.randn(3, channels, 32, 100).to(memory_format=layout).requires_grad_()
    y = ours(x)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()

    truth = nn.Conv2d(channels, 8, 1, stride, dtype=torch.float64)
    truth.load_state_dict(ours.state_dict())
    wide = x.detach().double().contiguous().requires_grad_()
    (truth(wide) * weights).sum().backward()
    assert y.shape == truth(wide).shape
    torch.testing.assert_close(y.double(), truth(wide), rtol=0, atol=2e-6)
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=0, atol=2e-6)
    torch.testing.assert_close(ours.weight.grad.double(), truth.weight.grad, rtol=1e-5, atol=1e-3)  # sums of up to 4,800 products


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_no_recognizer_leaves_such_a_convolution_to_a_library_that_may_corrupt_memory(name: str) -> None:
    for where, module in build(name, Charset.named("36")).named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1):
            assert isinstance(module, StridedPointwise), where
