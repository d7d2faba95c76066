"""Whether an encoder is alive and knows text: each number against what it must be for encoders that are made to know one thing."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.charset import Charset
from models.recognizers import build
from pipelines.evaluation.features import Features, border_colours, effective_rank, features, neighbour_similarity, predictability


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_rank_of_a_line_of_a_plane_and_of_a_ball():
    line, plane = rows(200, 1) @ rows(1, 8, seed=1), torch.linalg.qr(rows(200, 2))[0] @ torch.linalg.qr(rows(8, 2, seed=1))[0].t()
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert effective_rank(plane) == pytest.approx(2, abs=0.05)
    assert 7.8 < effective_rank(rows(2000, 8)) <= 8
    assert effective_rank(torch.ones(10, 4)) == 0


def test_what_is_linear_is_predicted_and_noise_is_not():
    inputs = rows(400, 6)
    assert predictability(inputs, inputs @ rows(6, 3, seed=1)) > 0.99
    assert predictability(inputs, rows(400, 3, seed=2)) < 0.05


def test_what_is_the_same_everywhere_is_not_predicted():
    """White margins; or all but one that is off by a level."""
    inputs, white = rows(64, 6), torch.full((64, 3), 255.0, dtype=torch.float64)
    off = white.clone()
    off[7] -= 1
    assert predictability(inputs, white) == predictability(inputs, off) == 0


def test_neighbours_with_the_same_label_are_alike():
    words = ["alpha", "beta", "gamma", "delta"] * 10
    places = {word: rows(8, 5, seed=number) for number, word in enumerate(sorted(set(words)))}
    parts = torch.stack([places[word] + 0.01 * rows(8, 5, seed=100 + number) for number, word in enumerate(words)])
    assert neighbour_similarity(parts, words) > 0.5
    assert abs(neighbour_similarity(rows(40, 8, 5), words)) < 0.25
    assert neighbour_similarity(parts, [None] * 40) is None


def images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def grounds(n: int) -> Tensor:
    """Images of one colour each, with some noise in the middle."""
    noise = np.random.default_rng(0)
    found = np.repeat(noise.integers(0, 256, (n, 3, 1, 1)), 32, 2).repeat(100, 3).astype(np.uint8)
    found[:, :, 8:24] = noise.integers(0, 256, (n, 3, 16, 100))
    return torch.from_numpy(found)


class Colours(nn.Module):
    """An encoder that knows the colour of each column, and nothing else."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(2, keepdim=True)


def test_an_encoder_that_knows_the_background_alone_is_seen():
    recognizer = build("crnn_tiny", Charset.named("36"), channels=3)
    recognizer.encoder, recognizer.sequence = Colours(), nn.Identity()
    found = features(recognizer, grounds(64), ["word", "crow"] * 32)
    assert found.background > 0.9 and abs(found.neighbour_similarity) < 0.3
    torch.testing.assert_close(border_colours(grounds(64)), grounds(64)[:, :, 0, 0].double())


def test_a_collapsed_encoder_is_seen():
    recognizer = build("crnn_tiny", Charset.named("36"))
    recognizer.sequence = nn.Sequential(recognizer.sequence, Zeros())
    found = features(recognizer, images(8))
    assert (found.effective_rank, found.alignment) == (0, 0) and found.uniformity == pytest.approx(0, abs=1e-9) and found.background < 0.1
    assert found.neighbour_similarity is None and "neighbour_similarity" not in found.numbers()


class Zeros(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames * 0 + 1


@pytest.mark.parametrize(("name", "options"), [("vitstr", {"size": "tiny"}), ("trba_tiny", {})])
def test_maps_and_modes_are_as_they_were(name, options):
    torch.manual_seed(0)
    recognizer = build(name, Charset.named("36"), **options).train()
    pictures = torch.randint(0, 256, (6, 3, 32, recognizer.width), dtype=torch.uint8)
    found = features(recognizer, pictures)
    assert isinstance(found, Features) and recognizer.training and features(recognizer, pictures) == found
