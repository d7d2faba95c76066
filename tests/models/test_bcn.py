"""BCN: the language model learns to spell from texts; words, misspellings and noise as its paper has them."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.batch import Batch
from models.charset import Charset
from models.objectives.bcn import BCN, edited, words_of
from models.recognizer import Recognizer
from models.recognizers import build


@pytest.fixture
def texts(tmp_path: Path) -> str:
    file = tmp_path / "texts.txt"
    file.write_text("The cat saw the dog .\nthe extraordinarily long\n", encoding="utf-8")
    return str(file)


def small(max_length: int = 8, **options) -> Recognizer:
    torch.manual_seed(0)
    return build("abinet_small", Charset.named("36"), max_length=max_length, hidden=32, **options)


def spelled(model: BCN, tokens: Tensor, lengths: Tensor) -> list[str]:
    characters, first = model.recognizer.charset.characters, model.recognizer.decoder.tokens.first_character
    return ["".join(characters[token - first] for token in row[:length]) for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def test_words_are_counted_as_the_charset_spells_them_and_what_cannot_be_written_is_left_out():
    assert words_of("The cat saw the dog .\nthe extraordinarily long", Charset.named("36"), 8) == Counter({"the": 3, "cat": 1, "saw": 1, "dog": 1, "long": 1})
    assert words_of("The THE the", Charset.named("62"), 8) == Counter({"The": 1, "THE": 1, "the": 1})


def test_words_are_drawn_as_often_as_they_stand_in_the_text(texts):
    model = BCN(small(), texts=texts, batch_size=7000)
    drawn = []
    model.loss_of = lambda targets: drawn.append(targets)  # what a step would learn
    torch.manual_seed(5)
    model(Batch())
    found = Counter(spelled(model, drawn[0][:, 1:], model.recognizer.decoder.tokens.is_character(drawn[0]).sum(1)))
    assert {word: 7 * count / 7000 for word, count in found.items()} == pytest.approx({"the": 3, "cat": 1, "saw": 1, "dog": 1, "long": 1}, abs=0.15)
    torch.manual_seed(5)
    model(Batch())
    assert torch.equal(drawn[0], drawn[1])  # from the step's seed


def test_the_loss_is_the_mean_over_characters_and_end_symbols_of_the_cross_entropy(texts):
    model = BCN(small(), texts=texts).eval()
    decoder = model.recognizer.decoder
    targets = decoder.encode(["cat", "longest"])
    total, count = 0.0, 0
    for row, word in zip(targets, ["cat", "longest"], strict=True):
        symbols = torch.zeros(1, 9, decoder.tokens.classes)
        for place in range(9):
            symbols[0, place, row[1 + place] if place < len(word) else decoder.tokens.end] = 1
        logits = decoder.language(symbols, torch.tensor([len(word) + 1]))[1][0].double()
        for place in range(len(word) + 1):
            total -= logits[place].log_softmax(0)[row[1 + place]].item()
            count += 1
    found = model.loss_of(targets)
    assert found.total.item() == pytest.approx(total / count, rel=1e-6)
    assert set(found.named) == {"spelling_loss", "characters_right"}


def test_what_is_said_of_a_place_does_not_depend_on_the_character_that_stands_there(texts):
    model = BCN(small(), texts=texts).eval()
    language, classes = model.recognizer.decoder.language, model.recognizer.decoder.tokens.classes
    words = torch.randint(1, classes, (2, 9), generator=torch.Generator().manual_seed(0))
    other = words.clone()
    other[:, 3] = words[:, 3] % (classes - 1) + 1
    one, two = (language(torch.nn.functional.one_hot(each, classes).float(), torch.tensor([6, 6]))[1] for each in (words, other))
    assert torch.equal(one[:, 3], two[:, 3]) and not torch.equal(one[:, 2], two[:, 2])
    behind = words.clone()
    behind[:, 7] = 1
    assert torch.equal(one, language(torch.nn.functional.one_hot(behind, classes).float(), torch.tensor([6, 6]))[1])


def test_only_the_language_model_learns(texts):
    model = BCN(small(), texts=texts, batch_size=16)
    torch.manual_seed(0)
    model(Batch()).total.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0}
    assert trained and all(name.startswith("recognizer.decoder.language.") for name in trained)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == \
        {name for name, _ in model.named_parameters() if name.startswith("recognizer.decoder.language.")}
    assert not [name for name in model.state_dict() if not name.startswith("recognizer.")]  # the words are in no checkpoint


def edit(word: str, place: float, kind: float, letter: str, steps: int = 9) -> str:
    given = torch.tensor([[ord(character) for character in word] + [0] * (steps - len(word))])
    moved, lengths = edited(given, torch.tensor([len(word)]), torch.tensor([place]), torch.tensor([kind]), torch.tensor([ord(letter)]))
    return "".join(map(chr, moved[0, :lengths[0]].tolist()))


def test_edits():
    assert edit("word", 0.3, 0.0, "x") == "wxrd"
    assert edit("word", 0.3, 0.75, "x") == "wxord"  # before the letter
    assert edit("word", 0.3, 0.9, "x") == "wrd"
    assert edit("word", 0.999, 0.9, "x") == "wor"
    assert edit("w", 0.5, 0.9, "x") == "w"  # the last character stays
    assert edit("wordword", 0.0, 0.75, "x") == "wordword"  # all steps but the end symbol's are full


def test_misspellings_are_as_many_as_the_paper_says(texts):
    model = BCN(small(max_length=12), texts=texts, mutation=True)
    decoder, words = model.recognizer.decoder, ["a", "abcd", "abcdefgh", "12ab", "1ab"]
    torch.manual_seed(1)
    shares = {}
    for word in words:
        targets = decoder.encode([word] * 4000)
        given, lengths = model.misspelt(targets[:, 1:].clone(), torch.full((4000,), len(word)))
        shares[word] = sum(each != word for each in spelled(model, given, lengths)) / 4000
    kept = 1 / 26 * 0.7  # a replacement may be by the same letter
    assert shares["a"] == shares["12ab"] == 0.0
    assert shares["abcd"] == pytest.approx(0.30 * (1 - kept), abs=0.025)
    assert shares["1ab"] == pytest.approx(0.30 * (1 - kept * 2 / 3), abs=0.025)
    assert shares["abcdefgh"] == pytest.approx(0.30, abs=0.025)
    lengths_of_long = model.misspelt(decoder.encode(["abcdefgh"] * 4000)[:, 1:], torch.full((4000,), 8))[1]
    assert 5 <= lengths_of_long.min() and lengths_of_long.max() <= 11


def test_smoothed_rows_add_up_to_one_and_stay_near_the_symbol(texts):
    model = BCN(small(), texts=texts, smoothing=0.1)
    symbols = torch.eye(37).unsqueeze(0)
    noisy = model.smoothed(symbols)
    assert torch.allclose(noisy.sum(2), torch.ones(1, 37)) and (noisy[symbols == 1] >= 0.9).all() and (noisy[symbols == 1] < 1).all()


def test_it_learns_which_letter_is_missing(tmp_path):
    (tmp_path / "abc.txt").write_text("abcde edcba", encoding="utf-8")
    model = BCN(small(), texts=str(tmp_path / "abc.txt"), batch_size=32)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        losses = model(Batch())
        losses.total.backward()
        optimizer.step()
    assert losses.named["characters_right"] > 0.95 and losses.total < 0.3 < math.log(37)


@pytest.mark.parametrize("make, words", [
    (lambda texts: BCN(build("crnn_tiny", Charset.named("36")), texts=texts), "expects an abinet with a language model"),
    (lambda texts: BCN(small(iterations=0), texts=texts), "with iterations: 0"),
    (lambda texts: BCN(small(), texts=texts + "x"), "expected a file"),
    (lambda texts: BCN(build("abinet_small", Charset("абв")), texts=texts), "expected words of 1 to 25 characters of the charset, found none"),
    (lambda texts: BCN(small(), texts=texts, smoothing=1.5), "smoothing"),
    (lambda texts: BCN(build("abinet_small", Charset("0123456789.")), texts=texts, mutation=True), "a charset with letters")])
def test_what_cannot_be_is_said(texts, make, words):
    with pytest.raises(ValueError, match=words):
        make(texts)
