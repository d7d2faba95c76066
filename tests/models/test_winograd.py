"""Winograd's convolution against the sum that it replaces, and when it is used."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.charset import Charset
from models.encoders import winograd
from models.encoders.winograd import Convolution3x3, convolve
from models.recognizers import build


def example(height, width, *, n=2, channels=3, out_channels=5):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(n, channels, height, width, generator=generator), torch.randn(out_channels, channels, 3, 3, generator=generator),
            torch.randn(out_channels, generator=generator))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 2), (3, 5), (4, 26), (8, 25)])
def test_it_is_the_convolution_of_padding_1(height, width):
    x, weight, bias = example(height, width)
    for own in (bias, None):
        true = F.conv2d(x.double(), weight.double(), own.double() if own is not None else None, padding=1)
        torch.testing.assert_close(convolve(x, weight, own).double(), true, atol=2e-5, rtol=0)


def test_float64_stays_float64():
    x, weight, bias = (tensor.double() for tensor in example(4, 6))
    torch.testing.assert_close(convolve(x, weight, bias), F.conv2d(x, weight, bias, padding=1), atol=1e-12, rtol=0)


def test_float32_is_as_near_to_the_truth_as_the_direct_sum():
    x, weight, _ = example(8, 26, n=1, channels=256, out_channels=256)
    true = F.conv2d(x.double(), weight.double(), padding=1)
    error, direct = ((found.double() - true).abs().max() for found in (convolve(x, weight), F.conv2d(x, weight, padding=1)))
    assert error < 2 * direct


def test_bfloat16_under_autocast():
    x, weight, bias = example(4, 26, channels=64, out_channels=64)
    with torch.autocast("cpu", torch.bfloat16):
        found, direct = convolve(x, weight, bias), F.conv2d(x, weight, bias, padding=1)
    assert found.dtype == direct.dtype == torch.bfloat16
    true = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    error, usual = ((products.double() - true).std() / true.std() for products in (found, direct))
    assert usual < error < 3 * usual < 0.01


def test_pieces_and_batches_change_nothing(monkeypatch):
    x, weight, bias = example(6, 10, n=7)
    whole = convolve(x, weight, bias)
    torch.testing.assert_close(whole, torch.cat([convolve(one, weight, bias) for one in x.split(1)]), atol=1e-5, rtol=0)
    monkeypatch.setattr(winograd, "BYTES_AT_ONCE", 2 * 16 * 15 * 5 * 4)
    torch.testing.assert_close(whole, convolve(x, weight, bias), atol=1e-5, rtol=0)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole, convolve(x.contiguous(memory_format=torch.channels_last), weight, bias))


def test_it_reads_in_mixed_precision_and_does_not_train(monkeypatch):
    wide, narrow = Convolution3x3(256, 256, bias=False), Convolution3x3(128, 256, bias=False)
    x = torch.randn(1, 256, 2, 4)
    used = []
    monkeypatch.setattr(winograd, "convolve", lambda *arguments: used.append(1) or convolve(*arguments))
    with torch.autocast("cpu", torch.bfloat16):
        wide(x).sum().backward()
    assert wide.weight.grad.isfinite().all()
    with torch.no_grad():
        assert torch.equal(wide(x), F.conv2d(x, wide.weight, padding=1))  # float32 is what the references computed in
        with torch.autocast("cpu", torch.bfloat16):
            narrow(x[:, :128])
            assert not used
            wide(x)
    assert len(used) == 1


def test_exports_hold_the_convolution():
    layer = nn.Sequential(Convolution3x3(256, 256, bias=False))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        program = torch.export.export(layer, (torch.randn(2, 256, 2, 4),))
        traced = torch.jit.trace(layer, torch.randn(2, 256, 2, 4), check_trace=False)
    called = [str(node.target) for part in program.graph_module.modules() if hasattr(part, "graph") for node in part.graph.nodes]
    assert "aten.conv2d.default" in called and not any("bmm" in name for name in called)
    assert "aten::_convolution" in str(traced.inlined_graph) and "aten::bmm" not in str(traced.inlined_graph)


def test_tensors_without_values_pass_the_convolution():
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert Convolution3x3(256, 256, bias=True)(torch.empty(2, 256, 4, 26)).shape == (2, 256, 4, 26)


@pytest.mark.parametrize("name", ["crnn", "trba", "abinet"])
def test_recognizers_read_in_mixed_precision_about_as_well_with_it(name, monkeypatch):
    torch.manual_seed(0)
    recognizer = build(name, Charset.named("36")).eval()
    images = torch.rand(2, 3, recognizer.height, recognizer.width) * 2 - 1
    used = []
    monkeypatch.setattr(winograd, "convolve", lambda *arguments: used.append(1) or convolve(*arguments))
    with torch.no_grad():
        exact = recognizer.encode(images)
        assert not used
        with torch.autocast("cpu", torch.bfloat16):
            found = recognizer.encode(images).float()
            assert len(used) == {"crnn": 3, "trba": 21, "abinet": 9}[name]
            monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 10**6)
            direct = recognizer.encode(images).float()
    assert (found - exact).std() < 3 * (direct - exact).std()
