"""Multiply-adds of layers whose number is known, and of whole recognizers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.charset import Charset
from models.costs import Costs, costs, multiply_adds
from models.recognizers import build

FRAMES = torch.zeros(2, 7, 5)  # n, frames, width
CHARSET = Charset.named("36")


class Attention(nn.Module):
    """The fused attention of PyTorch, of every frame over every frame."""

    def forward(self, frames):
        return F.scaled_dot_product_attention(frames, frames, frames)


class Products(nn.Module):
    """Two products of matrices, one of them spelled in Einstein's notation."""

    def forward(self, frames):
        return torch.einsum("nti,nsi->nts", frames, frames) @ frames


class InFullPrecision(nn.Module):
    """As the rectifiers compute under autocast."""

    def forward(self, frames):
        with torch.autocast(frames.device.type, enabled=False):
            return frames @ frames.transpose(1, 2)


@pytest.mark.parametrize("module, images, products", [
    (nn.Conv2d(4, 6, 3, padding=1), torch.zeros(2, 4, 8, 10), 2 * 6 * 80 * 4 * 9),
    (nn.Conv2d(4, 6, 3, stride=(2, 1), padding=1, groups=2), torch.zeros(1, 4, 8, 10), 6 * 40 * 2 * 9),
    (nn.Linear(5, 3), FRAMES, 2 * 7 * 5 * 3),
    (nn.LSTM(5, 3, batch_first=True), FRAMES, 2 * 7 * 4 * 3 * (5 + 3)),
    (nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True), FRAMES, 2 * 7 * 2 * 4 * 3 * (5 + 3 + 6 + 3)),
    (nn.GRU(5, 3, batch_first=True), FRAMES, 2 * 7 * 3 * 3 * (5 + 3)),
    (nn.LSTMCell(5, 3), FRAMES[0], 7 * 4 * 3 * (5 + 3)),
    (nn.GRUCell(5, 3), FRAMES[0], 7 * 3 * 3 * (5 + 3)),
    (Attention(), FRAMES, 2 * 2 * 7 * 7 * 5),
    (Products(), FRAMES, 2 * 2 * 7 * 7 * 5),
    (InFullPrecision(), FRAMES, 2 * 7 * 7 * 5),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.zeros(2, 7, 8), 2 * 7 * (4 * 64 + 2 * 128) + 2 * 2 * 49 * 8),
    (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), torch.zeros(2, 4, 8, 10), 0),
], ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "")
@torch.no_grad()
def test_known_layers(module, images, products):
    assert multiply_adds(module, images) == products


def test_the_convolutions_of_crnn_by_hand():
    pixels, products = 32 * 100, 0
    for channels, out_channels, kernel, shrinks in ((1, 64, 9, 1), (64, 128, 9, 4), (128, 256, 9, 4), (256, 256, 9, 1), (256, 512, 9, 2),
                                                    (512, 512, 9, 1)):
        pixels //= shrinks
        products += channels * out_channels * kernel * pixels
    products += 512 * 512 * 4 * 24  # the last one, 2 x 2, onto 24 frames
    lstms = sum(24 * (2 * 1024 * (width + 256) + 512 * 256) for width in (512, 256))
    found = costs(build("crnn", CHARSET))
    assert found["encoder"] == Costs(5_549_824, products)
    assert found["sequence"].multiply_adds == lstms
    assert found["decoder"] == Costs(9_509, 24 * 256 * 37)
    assert found["all"] == Costs(8_451_621, products + lstms + 24 * 256 * 37)


def test_a_decoder_writes_all_of_its_steps():
    lengths = [costs(build("trba_tiny", CHARSET, max_length=length))["decoder"].multiply_adds for length in (1, 2, 3)]
    assert lengths[1] - lengths[0] == lengths[2] - lengths[1] > 96 * 38  # a step has at least its output layer


def test_the_parts_make_the_whole_and_the_recognizer_stays_as_it_is():
    recognizer = build("trba", CHARSET).train()
    weights = {name: tensor.clone() for name, tensor in recognizer.state_dict().items()}
    found = costs(recognizer)
    assert set(found) == {"rectifier", "encoder", "sequence", "decoder", "all"}
    assert sum(found[part].parameters for part in found if part != "all") == found["all"].parameters == 49_555_182
    assert sum(found[part].multiply_adds for part in found if part != "all") == found["all"].multiply_adds
    assert recognizer.training and recognizer.decoder.stops_early
    assert all(torch.equal(tensor, weights[name]) for name, tensor in recognizer.state_dict().items())


def test_it_costs_the_same_without_weights():
    with torch.device("meta"):
        weightless = build("trba_tiny", CHARSET)
    assert costs(weightless) == costs(build("trba_tiny", CHARSET))
