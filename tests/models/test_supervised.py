"""Supervised recognition: both decoders' losses against plain re-implementations, and that it learns."""

import math

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import Supervised
from models.recognizer import Recognizer
from models.recognizers import build

WORDS = ["a", "ray", "book", "7up", "aa", "scenetext"]


def recognizer(name: str) -> Recognizer:
    torch.manual_seed(0)
    return build(name, Charset.named("36"))


def batch_of(model: Recognizer, images: Tensor, texts: list[str]) -> Batch:
    return Batch(labeled=Part(torch.empty(0), texts, texts, model.decoder.encode(texts, "cpu"), views=(images,)))


def noise(n: int) -> Tensor:
    return torch.rand(n, 3, 32, 100, generator=torch.Generator().manual_seed(1)) * 2 - 1


def drawn(texts: list[str]) -> Tensor:
    """(n, 3, 32, 100) in [-1, 1]: black words on white."""
    font = ImageFont.load_default(20)
    pictures = []
    for text in texts:
        picture = Image.new("L", (100, 32), 255)
        ImageDraw.Draw(picture).text((50, 16), text, fill=0, font=font, anchor="mm")
        pictures.append(torch.tensor(list(picture.getdata()), dtype=torch.float32).view(1, 32, 100).expand(3, -1, -1))
    return torch.stack(pictures) / 127.5 - 1


def test_attention_is_cross_entropy_per_symbol_with_teacher_forcing():
    model = Supervised(recognizer("trba_tiny")).double().eval()
    images = noise(len(WORDS)).double()
    loss = model(batch_of(model.recognizer, images, WORDS)).total

    terms = []
    for image, word in zip(images, WORDS, strict=True):
        symbols = [0, *(2 + "0123456789abcdefghijklmnopqrstuvwxyz".index(c) for c in word), 1]  # start, word, end
        logits = model.recognizer(image[None], torch.tensor([symbols[:-1]])).logits[0]
        terms += [-step.softmax(0)[symbol].log().item() for step, symbol in zip(logits, symbols[1:], strict=True)]
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_ctc_is_the_likelihood_of_all_paths_that_read_as_the_word():
    model = Supervised(recognizer("crnn_tiny")).double().eval()
    images = noise(len(WORDS)).double()
    loss = model(batch_of(model.recognizer, images, WORDS)).total

    terms = []
    for image, word in zip(images, WORDS, strict=True):
        probabilities = model.recognizer(image[None]).logits[0].softmax(-1).tolist()
        states = [0]
        for c in word:
            states += [1 + "0123456789abcdefghijklmnopqrstuvwxyz".index(c), 0]  # blank, character, blank ...
        forward = [probabilities[0][states[0]], probabilities[0][states[1]]] + [0.0] * (len(states) - 2)
        for frame in probabilities[1:]:
            before = forward
            forward = [frame[state] * (before[i] + (before[i - 1] if i > 0 else 0)
                                       + (before[i - 2] if i > 1 and state != 0 and state != states[i - 2] else 0))
                       for i, state in enumerate(states)]
        terms.append(-math.log(forward[-1] + forward[-2]) / len(word))
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_every_parameter_gets_a_gradient(name):
    model = Supervised(recognizer(name))
    losses = model(batch_of(model.recognizer, noise(len(WORDS)), WORDS))
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses.named == {"recognition_loss": losses.total.detach()}
    assert not losses.named["recognition_loss"].requires_grad


def test_the_view_is_the_recipes():
    assert Supervised(recognizer("crnn_tiny")).views == {"labeled": ("strong",)}
    assert Supervised(recognizer("crnn_tiny"), view="none").views == {"labeled": ("none",)}


def test_overfits_64_words():
    generator = torch.Generator().manual_seed(0)
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    lengths = torch.randint(2, 7, (64,), generator=generator).tolist()
    words = ["".join(letters[i] for i in torch.randint(0, 36, (length,), generator=generator)) for length in lengths]
    model = Supervised(recognizer("crnn_tiny"))
    images = drawn(words)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(48):
        for chosen in torch.randperm(64, generator=generator).split(8):
            optimizer.zero_grad()
            model(batch_of(model.recognizer, images[chosen], [words[i] for i in chosen])).total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
            optimizer.step()
    model.eval()
    with torch.no_grad():
        texts = model.recognizer.read(images).texts
    right = sum(text == word for text, word in zip(texts, words, strict=True))
    assert right / len(words) > 0.95
