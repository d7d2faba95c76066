"""What decoders give: of the readings of both ways up, the surer."""

import pytest
import torch

from models.decoders.decoded import Reading, surer_way_up


def test_each_image_is_read_the_surer_way_up():
    one = Reading(["a", "b", "c"], torch.tensor([0.5, 0.9, 0.4]), [[0.5], [0.9], [0.4]])
    other = Reading(["x", "yy", "z"], torch.tensor([0.7, 0.2, 0.4]), [[0.7], [0.4, 0.5], [0.4]])
    found = surer_way_up(one, other)
    assert (found.texts, found.characters) == (["x", "b", "c"], [[0.7], [0.9], [0.4]])
    assert found.confidences.tolist() == pytest.approx([0.7, 0.9, 0.4])
    assert found.upside_down == [True, False, False]
