"""Words that stand on their head: which way up is surer, and what CCR makes of it."""

import pytest
import torch
from ccr_models import BOTH, batch_of, ccr, different_views, images

from models.charset import AttentionTokens, Charset
from models.decoders.decoded import Reading, surer
from models.objectives.orientation import surer_way_up, turned, way_up


def test_an_image_is_turned_by_half_a_circle():
    image = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]])
    assert turned(image).tolist() == [[[[6, 5, 4], [3, 2, 1]]]]
    assert torch.equal(turned(turned(image)), image)


def test_the_surer_way_up_is_taken_and_what_stands_stays_where_both_are_alike():
    tokens = AttentionTokens(Charset("ab"))  # start 0, end 1, a 2, b 3
    # The first pixel says how surely "a" is read: 0.9 standing and 0.6 turned; the other way round; alike.
    pictures = torch.tensor([[0.9, 0.6], [0.6, 0.9], [0.7, 0.7]]).view(3, 1, 1, 2)

    def logits_of(shown: torch.Tensor) -> torch.Tensor:
        first = shown[:, 0, 0, 0]
        likeliest = torch.stack([(1 - first) / 3, (1 - first) / 3, first, (1 - first) / 3], 1)  # (n, classes): a
        ends = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(len(shown), -1)
        return torch.stack([likeliest, ends], 1).log()

    logits, surer_turned = surer_way_up(logits_of, pictures, tokens, "product")
    assert surer_turned.tolist() == [False, True, False]
    assert logits[:, 0, 2].exp().tolist() == pytest.approx([0.9, 0.9, 0.7])
    assert way_up(pictures, surer_turned)[:, 0, 0, 0].tolist() == pytest.approx([0.9, 0.9, 0.7])


@BOTH
def test_ccr_learns_the_same_from_images_that_stand_on_their_head(name):
    model = ccr(name, orientations=2, confidence_threshold=0.0)
    batch = different_views(model)
    weak, strong = batch.unlabeled.views
    losses = [model(batch_of(model, weak, strong)), model(batch_of(model, turned(weak), turned(strong)))]
    assert losses[0].total.item() == pytest.approx(losses[1].total.item(), rel=1e-12)
    assert losses[0].named["turned_fraction"].item() + losses[1].named["turned_fraction"].item() == pytest.approx(1)


@BOTH
def test_with_one_orientation_nothing_is_turned(name):
    model = ccr(name)
    assert "turned_fraction" not in model(different_views(model)).named


def test_of_two_readings_each_image_has_the_surer():
    one = Reading(["a", "b", "c"], torch.tensor([0.5, 0.9, 0.4]), [[0.5], [0.9], [0.4]])
    other = Reading(["x", "yy", "z"], torch.tensor([0.7, 0.2, 0.4]), [[0.7], [0.4, 0.5], [0.4]])
    found = surer(one, other)
    assert (found.texts, found.characters) == (["x", "b", "c"], [[0.7], [0.9], [0.4]])
    assert found.confidences.tolist() == pytest.approx([0.7, 0.9, 0.4])


def test_turning_twice_is_what_was_there():
    pictures = images(2, seed=4)
    everything = torch.ones(2, dtype=torch.bool)
    assert torch.equal(way_up(way_up(pictures, everything), everything), pictures)
