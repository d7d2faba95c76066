"""Base images: exact properties of words in plain print, and the drawing against a plain one, glyph by glyph and column by column."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.charset import AttentionTokens, Charset, CTCTokens
from pipelines.errors import BadInput
from pipelines.synthesis.base_images import COLUMNS, GROUND, INK, BaseImages, glyphs_of, plain_faces

TOKENS = AttentionTokens(Charset.named("94"))
HEIGHT = 32
BORDER = round(COLUMNS * HEIGHT)


def ids_of(*words: str, steps: int = 26) -> Tensor:
    """(words, steps): the characters, the end symbol, padding."""
    rows = torch.zeros(len(words), steps, dtype=torch.int64)
    for row, word in zip(rows, words, strict=True):
        ids = [*TOKENS.ids(word, steps - 1), TOKENS.end]
        row[:len(ids)] = torch.tensor(ids)
    return rows


def draw(*words: str, face: int = 0, width: int = 100, stretch: bool = True) -> Tensor:
    ids = ids_of(*words)
    return BaseImages(TOKENS, HEIGHT, torch.device("cpu")).draw(ids, torch.full_like(ids, face), width, stretch=stretch)


def line_of(word: str, face: int) -> np.ndarray:
    """(height, columns) float64: the word's ink in [0, 1], the borders before and behind it included."""
    glyphs, charset = glyphs_of(TOKENS.charset, HEIGHT), TOKENS.charset
    cells = [np.zeros((HEIGHT, BORDER))]
    for character in word:
        number = 1 + face * len(charset) + charset.index[character]
        cells.append(np.diff(glyphs.sums[number, :glyphs.widths[number] + 1], axis=0).T / 255)
    return np.concatenate([*cells, np.zeros((HEIGHT, BORDER))], axis=1)


def squeezed(line: np.ndarray, width: int, scale: float) -> np.ndarray:
    """Each of `width` columns the average of the line over `scale` columns; nothing stands behind the line's end."""
    image = np.zeros((len(line), width))
    for place in range(width):
        for column in range(line.shape[1]):
            overlap = min((place + 1) * scale, column + 1) - max(place * scale, column)
            image[:, place] += max(overlap, 0) / scale * line[:, column]
    return image


def test_an_empty_word_is_a_blank_image():
    assert (draw("") == GROUND).all() and draw("").shape == (1, 3, HEIGHT, 100) and draw("").dtype == torch.uint8
    assert (draw("", stretch=False) == GROUND).all()


def test_the_same_ids_in_the_same_faces_are_the_same_image_whatever_stands_beside_them():
    alone, among = draw("Ray7"), draw("x", "Ray7", "longer-word")
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(alone, draw("Ray7", face=1))
    assert not torch.equal(among[0], among[1])


def test_a_character_has_the_face_that_is_given_for_it():
    base, ids = BaseImages(TOKENS, HEIGHT, torch.device("cpu")), ids_of("aa", steps=3)
    mixed = base.draw(ids, torch.tensor([[0, 2, 1]]), 200, stretch=False)
    first, second = (base.draw(ids_of("a", steps=3), torch.full((1, 3), face), 200, stretch=False) for face in (0, 2))
    end = BORDER + base.widths[1 + TOKENS.charset.index["a"]]  # of the first a
    assert torch.equal(mixed[..., :end], first[..., :end])
    assert torch.equal(mixed[..., end:150], second[..., BORDER:150 - end + BORDER])


def test_the_width_grows_with_every_character_until_the_image_is_full():
    words = ["Characters"[:length] for length in range(11)]
    ends = [int((image != GROUND).any(0).any(0).nonzero().max()) if word else 0
            for word, image in zip(words, draw(*words, width=300, stretch=False), strict=True)]
    assert ends == sorted(set(ends))
    narrow = draw("Characters" * 2, width=100, stretch=False)
    assert torch.equal(narrow, draw("Characters" * 2, width=100, stretch=True))  # what would not fit is narrowed until it does


@pytest.mark.parametrize("face", [0, 9])
@pytest.mark.parametrize("word", ["Ray", "a", "Wj|{}~gQ_", "Characters-in-a-long-word"])
def test_the_drawing_against_a_plain_one(word, face):
    line = line_of(word, face)
    wide = line.shape[1]
    for stretch, width in ((True, 100), (False, 100), (True, wide)):
        scale = wide / width if stretch else max(1, wide / width)
        expected = GROUND + (INK - GROUND) * squeezed(line, width, scale)  # (height, width)
        found = draw(word, face=face, width=width, stretch=stretch)[0]
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
        # Rounding to a gray level moves by at most a half. The sums are whole numbers below 2^24; float32 knows the two edges of a column to
        # 2e-5 columns of the line each (half a step at 500), and the average changes by at most 127 gray levels for each that is missed.
        assert np.abs(found[0].double().numpy() - expected).max() <= 0.5 + 0.01


def test_nothing_of_a_character_is_cut_off():
    for face, number in ((plain_faces(TOKENS.charset)[0], 0), (plain_faces(TOKENS.charset)[7], 7)):
        sizes = range(8, 64)
        for character in "jgQ|_fW":
            inked = {int(face.glyph(character, size).pixels.astype(np.int64).sum()) for size in sizes}
            assert int(round(line_of(character, number).sum() * 255)) in inked


def test_what_is_no_character_draws_nothing():
    base = BaseImages(TOKENS, HEIGHT, torch.device("cpu"))
    ids = torch.tensor([[TOKENS.start, *TOKENS.ids("ab", 9), TOKENS.end, TOKENS.pad]])
    plain = torch.tensor([[*TOKENS.ids("ab", 9)]])
    assert torch.equal(base.draw(ids, torch.zeros_like(ids), 100), base.draw(plain, torch.zeros_like(plain), 100))
    tokens = CTCTokens(TOKENS.charset)
    blanks = torch.tensor([[*tokens.ids("ab", 9), tokens.blank, tokens.blank]])
    assert torch.equal(BaseImages(tokens, HEIGHT, torch.device("cpu")).draw(blanks, torch.zeros_like(blanks), 100),
                       base.draw(plain, torch.zeros_like(plain), 100))


@pytest.mark.parametrize("height", [24, 32, 64])
def test_characters_of_every_face_fit_the_height(height):
    glyphs = glyphs_of(TOKENS.charset, height)
    free = round(height / 16)
    ink = glyphs.sums[:, -1]  # (glyphs, height)
    assert (ink[1:].sum(1) > 0).all() and ink[:, :free].sum() == ink[:, height - free:].sum() == 0


def test_characters_that_no_font_draws_are_named():
    with pytest.raises(BadInput, match="expected a charset that one of the packaged fonts draws, .* lacks '漢'; leave these out"):
        BaseImages(AttentionTokens(Charset("ab漢")), HEIGHT, torch.device("cpu"))


class _NoWaiting(TorchDispatchMode):
    """Fails where a value or a data-dependent shape would have to come back from the device."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        assert not any(name in str(function) for name in ("_local_scalar_dense", "nonzero")), function
        return function(*arguments, **(keywords or {}))


def test_drawing_never_waits_for_the_device():
    base, ids = BaseImages(TOKENS, HEIGHT, torch.device("cpu")), ids_of("Ray", "")
    with _NoWaiting():
        drawn = base.draw(ids, torch.zeros_like(ids), 100)
    assert (drawn[0] != GROUND).any()
