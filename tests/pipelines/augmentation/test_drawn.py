"""Views that show the label: what they go through, where they take their randomness from, and that training can ask for them."""

import pytest
import torch

from models.batch import Batch, Part
from models.charset import Charset
from models.recognizers import build
from pictures import seeded, word_images
from pipelines.augmentation.drawn import check_drawable, view_of
from pipelines.augmentation.views import augment
from pipelines.errors import BadInput
from pipelines.synthesis.base_images import GROUND, BaseImages
from pipelines.training.loop import prepare
from pipelines.training.recipe import parse_recipe
from pipelines.training.worker import build_objective

WORDS = ["ray", "book", "7up"]


def labeled(recognizer) -> Part:
    return Part(word_images(3), WORDS, WORDS, recognizer.decoder.encode(WORDS))


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_a_base_image_shows_the_label_and_nothing_of_the_image(name):
    recognizer = build(name, Charset.named("36"))
    part = labeled(recognizer)
    view = view_of(part, "base", recognizer, seeded(1))
    assert view.shape == (3, 3, 32, 100) and view.dtype == torch.float32
    faces = torch.randint(12, part.targets.shape, generator=seeded(1))
    drawn = BaseImages(recognizer.decoder.tokens, 32, torch.device("cpu")).draw(part.targets, faces, 100)
    assert torch.equal(view, drawn / 127.5 - 1)
    part.images = 255 - part.images
    assert torch.equal(view_of(part, "base", recognizer, seeded(1)), view)
    assert not torch.equal(view_of(part, "base", recognizer, seeded(2)), view)  # other faces


def test_the_strong_base_image_is_the_base_image_augmented():
    recognizer = build("trba_tiny", Charset.named("36"))
    part = labeled(recognizer)
    generator = seeded(1)
    drawn = ((view_of(part, "base", recognizer, generator) + 1) * 127.5).round().to(torch.uint8)  # the generator moves on
    assert torch.equal(view_of(part, "base_strong", recognizer, seeded(1)), augment(drawn, "strong", generator))


def test_words_fill_the_width_where_images_are_stretched_to_it():
    for aspect, fills in (("stretch", True), ("pad", False)):
        recognizer = build("trba_tiny", Charset.named("36"), aspect=aspect)
        ink = view_of(labeled(recognizer), "base", recognizer, seeded(1)) != torch.tensor(GROUND) / 127.5 - 1
        ends = [int(columns.nonzero().max()) for columns in ink.any(1).any(1)]
        assert (min(ends) > 75) == fills


def test_other_views_are_those_of_the_images():
    recognizer = build("crnn_tiny", Charset.named("36"))
    part = labeled(recognizer)
    for name in ("none", "weak", "strong"):
        assert torch.equal(view_of(part, name, recognizer, seeded(3)), augment(part.images, name, seeded(3)))
    with pytest.raises(BadInput, match="there is no view 'wild'"):
        view_of(part, "wild", recognizer, seeded(3))


def test_an_unlabeled_part_has_nothing_to_draw():
    recognizer = build("crnn_tiny", Charset.named("36"))
    with pytest.raises(ValueError, match="expected targets to draw the view 'base' from, found an unlabeled part"):
        view_of(Part(word_images(1), ["a"]), "base", recognizer, seeded(0))


def test_the_loop_gives_visu_its_views():
    objective = build_objective(recipe())
    batch = Batch(Part(word_images(3), WORDS, WORDS), Part(word_images(2), ["a", "b"]))
    prepared = prepare(batch, objective, torch.device("cpu"), seed=5)
    image, base = prepared.labeled.views
    assert image.shape == base.shape and not torch.equal(image, base) and len(prepared.unlabeled.views) == 2
    losses = objective.train()(prepared)
    losses.total.backward()
    assert losses.total.isfinite() and losses.named["base_recognition_loss"] > 0


def recipe(charset: str = "36", objective: str = "visu"):
    return parse_recipe({"name": "try", "recognizer": {"name": "crnn_tiny", "charset": charset}, "objective": {"name": objective},
                         "data": {}, "training": {"steps": 1}})


def test_a_charset_that_no_font_draws_is_refused_before_training():
    with pytest.raises(BadInput, match="lacks '漢'; leave these out of recognizer.charset, or choose an objective without base images"):
        with torch.device("meta"):  # as the driver does
            build_objective(recipe("ab漢"))
    build_objective(recipe("ab漢", "ccr"))  # which draws nothing
    check_drawable({"labeled": ("strong",), "unlabeled": ("weak", "strong")}, Charset("漢"))
