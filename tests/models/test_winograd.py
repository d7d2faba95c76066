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


A = torch.tensor([[1, 0], [1, 1], [1, -1], [0, -1]])
B = torch.tensor([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
SIZES = [(1, 1), (1, 2), (2, 2), (3, 5), (4, 26), (8, 25)]


def plain(x, weight, a=A, b=B, g=G):
    """Equation 8, tile by tile, in float64: (channels, H, W), (out_channels, channels, 3, 3) -> (out_channels, H, W)."""
    a, b, g = (matrix.double() for matrix in (a, b, g))
    (channels, height, width), x = x.shape, x.double()
    padded = F.pad(x, (1, 3, 1, 3))
    kernels = torch.einsum("ip,ocpq,jq->ocij", g, weight.double(), g)
    out = torch.zeros(len(weight), height + 2, width + 2, dtype=torch.float64)
    for top in range(0, height, 2):
        for left in range(0, width, 2):
            tile = torch.einsum("pi,cpq,qj->cij", b, padded[:, top:top + 4, left:left + 4], b)
            out[:, top:top + 2, left:left + 2] = torch.einsum("ip,oij,jq->opq", a, torch.einsum("ocij,cij->oij", kernels, tile), a)
    return out[:, :height, :width]


def rounding_limit(x, weight, unit):
    """How far the algorithm may be from the truth at every pixel: the sizes of all its terms, times what rounds each of them.

    A term is rounded in B^T d B (4 sums), in G g G^T (9 products and sums), in its product and the sum over the channels, and in A^T m A (4
    sums). A sum over K channels rounds by 4 sqrt(K) units but once in thousands (Higham and Mary 2019), and once more into its result.
    """
    sizes = torch.stack([plain(one.abs(), weight.abs(), A.abs(), B.abs(), G.abs()) for one in x])
    return sizes * unit * (4 + 9 + 2 + 4 + 4 * weight.shape[1] ** 0.5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_is_equation_8_and_the_convolution_of_padding_1(height, width):
    x, weight, bias = (tensor.double() for tensor in example(height, width))
    true = F.conv2d(x, weight, padding=1)
    torch.testing.assert_close(torch.stack([plain(one, weight) for one in x]), true, atol=1e-12, rtol=0)
    torch.testing.assert_close(convolve(x, weight), true, atol=1e-12, rtol=0)
    torch.testing.assert_close(convolve(x, weight, bias), true + bias.view(-1, 1, 1), atol=1e-12, rtol=0)


def test_float32_is_as_near_to_the_truth_as_its_sums_allow():
    x, weight, _ = example(8, 26, n=1, channels=256, out_channels=256)
    true = F.conv2d(x.double(), weight.double(), padding=1)
    assert ((convolve(x, weight).double() - true).abs() <= rounding_limit(x, weight, 2.0**-24)).all()


def test_bfloat16_under_autocast():
    """Products are summed in float32 and rounded to bfloat16; so is all else."""
    x, weight, _ = example(4, 26, channels=64, out_channels=64)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(x, weight)
    assert found.dtype == torch.bfloat16
    true = F.conv2d(x.double(), weight.double(), padding=1)
    assert ((found.double() - true).abs() <= rounding_limit(x, weight, 2.0**-8)).all()


def test_pieces_and_batches_change_nothing(monkeypatch):
    x, weight, bias = (tensor.double() for tensor in example(6, 10, n=7))
    whole = convolve(x, weight, bias)
    torch.testing.assert_close(whole, torch.cat([convolve(one, weight, bias) for one in x.split(1)]), atol=1e-12, rtol=0)
    torch.testing.assert_close(whole, convolve(x.contiguous(memory_format=torch.channels_last), weight, bias), atol=1e-12, rtol=0)
    monkeypatch.setattr(winograd, "BYTES_AT_ONCE", 2 * 16 * 15 * 5 * 8)
    torch.testing.assert_close(whole, convolve(x, weight, bias), atol=1e-12, rtol=0)
    assert whole.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("capabilities", "saves"), [
    ({"avx512_bf16": True, "amx_bf16": False}, True), ({"avx512_bf16": True, "amx_bf16": True}, False), ({"avx512_f": True}, False), ({}, False)])
def test_it_is_used_where_products_cost_more_than_sums(monkeypatch, capabilities, saves):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert winograd.saves_time.__wrapped__() == saves


def test_it_reads_in_mixed_precision_and_does_not_train(monkeypatch):
    monkeypatch.setattr(winograd, "saves_time", lambda: True)
    wide, narrow = Convolution3x3(512, 512, bias=False), Convolution3x3(256, 512, bias=False)
    x = torch.randn(1, 512, 2, 4)
    used = []
    monkeypatch.setattr(winograd, "convolve", lambda *arguments: used.append(1) or convolve(*arguments))
    with torch.autocast("cpu", torch.bfloat16):
        wide(x).sum().backward()
    assert wide.weight.grad.isfinite().all()
    with torch.no_grad():
        wide(x)  # float32 is what the references computed in
        assert not used
        with torch.autocast("cpu", torch.bfloat16):
            narrow(x[:, :256])
            assert not used
            wide(x)
    assert len(used) == 1


def test_exports_hold_the_convolution(monkeypatch):
    monkeypatch.setattr(winograd, "saves_time", lambda: True)
    layer = nn.Sequential(Convolution3x3(512, 512, bias=False))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        program = torch.export.export(layer, (torch.randn(2, 512, 2, 4),))
        traced = torch.jit.trace(layer, torch.randn(2, 512, 2, 4), check_trace=False)
    called = [str(node.target) for part in program.graph_module.modules() if hasattr(part, "graph") for node in part.graph.nodes]
    assert "aten.conv2d.default" in called and not any("bmm" in name for name in called)
    assert "aten::_convolution" in str(traced.inlined_graph) and "aten::bmm" not in str(traced.inlined_graph)


def test_tensors_without_values_pass_the_convolution(monkeypatch):
    monkeypatch.setattr(winograd, "saves_time", lambda: True)
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert Convolution3x3(512, 512, bias=True)(torch.empty(2, 512, 4, 26)).shape == (2, 512, 4, 26)


@pytest.mark.parametrize("name", ["crnn", "trba", "abinet"])
def test_recognizers_read_in_mixed_precision_about_as_well_with_it(name, monkeypatch):
    monkeypatch.setattr(winograd, "saves_time", lambda: True)
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
            assert len(used) == {"crnn": 1, "trba": 16, "abinet": 3}[name]
            monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 10**6)
            direct = recognizer.encode(images).float()
    # Of ones, the terms of equation 8 add up to (2 (1 + 1.5 + 1.5))^2 where the direct sum's add up to 9; measured are 2 to 3 times its error.
    assert (found - exact).std() < 64 / 9 * (direct - exact).std()
