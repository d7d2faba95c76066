"""What decoders give: of two readings of the same images, the surer."""

import pytest
import torch

from models.decoders.decoded import Reading, surer


def test_of_two_readings_each_image_has_the_surer():
    one = Reading(["a", "b", "c"], torch.tensor([0.5, 0.9, 0.4]), [[0.5], [0.9], [0.4]])
    other = Reading(["x", "yy", "z"], torch.tensor([0.7, 0.2, 0.4]), [[0.7], [0.4, 0.5], [0.4]])
    found = surer(one, other)
    assert (found.texts, found.characters) == (["x", "b", "c"], [[0.7], [0.9], [0.4]])
    assert found.confidences.tolist() == pytest.approx([0.7, 0.9, 0.4])
