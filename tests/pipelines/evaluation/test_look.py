"""What a run shows of an encoder that learns from images alone: views, neighbours, frames, a map, codebooks."""

import base64

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.charset import Charset
from models.objectives import quantizer
from models.objectives.mae import MAE
from models.objectives.persec import PerSec
from models.objectives.seqclr import SeqCLR
from models.recognizers import build
from pipelines.evaluation.look import Look, Thumb, codebooks, frames, look, neighbours, places, png
from pipelines.reports.run import as_page


def images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def decoded(picture: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_picture_is_the_image_itself():
    one = images(1)[0]
    assert np.array_equal(decoded(png(one))[:, :, ::-1], one.permute(1, 2, 0).numpy())


def test_the_nearest_neighbour_is_the_image_with_the_same_features():
    parts = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts[4] = parts[1]
    thumbs = [Thumb(str(number), None) for number in range(6)]
    found = {each.image.picture: each for each in neighbours(parts, thumbs)}
    assert found["1"].near[0] == thumbs[4] and found["4"].near[0] == thumbs[1]
    assert found["1"].similarity[0] == pytest.approx(1.0) and sorted(found["1"].similarity, reverse=True) == found["1"].similarity
    assert all(each.image not in each.near and len(each.near) == 4 for each in found.values())


def test_places_lie_along_the_largest_spread():
    along = torch.linspace(-3, 3, 7, dtype=torch.float64)
    vectors = torch.stack([along, 0.1 * along.square(), torch.zeros(7, dtype=torch.float64)], 1)
    found = places(vectors, torch.full((7, 3), 51.0, dtype=torch.float64), [None] * 7)
    assert [each.x for each in found] == pytest.approx([number / 6 for number in range(7)], abs=1e-3)
    assert all(each.ground == 0.2 and 0 <= each.y <= 1 for each in found)


def test_frames_are_alike_where_the_encoder_says_so():
    recognizer = build("crnn_tiny", Charset.named("36"))
    [first, *_] = frames(recognizer, images(6), [Thumb("", None)] * 6)
    matrix = decoded(first.similarity)
    assert matrix.shape == (25, 25) and (matrix.diagonal() == 255).all() and np.array_equal(matrix, matrix.T)
    assert matrix.min() < 200


@pytest.mark.parametrize("make, shown", [(lambda: SeqCLR(build("crnn_tiny", Charset.named("36"))), ["Views"]),
                                         (lambda: MAE(build("vitstr", Charset.named("36"), size="tiny", width=96, patch=[8, 8])), []),
                                         (lambda: PerSec(build("crnn_tiny", Charset.named("36")), entries=8, codebooks=2, context_width=16, heads=2), ["Codebooks"])])
def test_a_whole_look_comes_back_from_its_file_and_is_drawn(make, shown):
    torch.manual_seed(0)
    objective = make().train()
    width = objective.recognizer.width
    labels = ["Ab<c", None, "b", "C", "d", "e"]
    found = look(objective, images(6)[..., :width], labels, 40)
    assert objective.training and objective.recognizer.training
    assert Look.from_json(found.to_json(), "look.json") == found
    page = as_page("r", "seqclr on crnn_tiny", 100, [], look=found)
    titles = [title for title in ("Views", "Nearest neighbours", "Map", "Frames along a word", "Codebooks") if f"<h3>{title}</h3>" in page]
    assert titles == [title for title in ("Views", "Nearest neighbours", "Map", "Frames along a word", "Codebooks")
                      if title not in ("Views", "Codebooks") or title in shown]
    assert "Ab&lt;c" in page and "Ab<c" not in page and "Of 6 unlabeled images at step 40." in page


def test_codebooks_count_every_position(monkeypatch):
    monkeypatch.setattr(quantizer, "gather", None)  # one of several ranks asks alone: the others would never answer
    objective = PerSec(build("crnn_tiny", Charset.named("36")), entries=8, codebooks=2, context_width=16, heads=2)
    found = codebooks(objective, images(5))
    assert list(found) == ["stroke, codebook 1", "stroke, codebook 2", "semantic, codebook 1", "semantic, codebook 2"]
    assert all(len(counts) == 8 and counts == sorted(counts, reverse=True) for counts in found.values())
    assert {name: sum(counts) for name, counts in found.items()} == {"stroke, codebook 1": 5 * 8 * 25, "stroke, codebook 2": 5 * 8 * 25,
                                                                     "semantic, codebook 1": 5 * 25, "semantic, codebook 2": 5 * 25}
