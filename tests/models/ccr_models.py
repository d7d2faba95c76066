"""What the tests of CCR and its relatives share: a small recognizer that reads something, its batches, and strings the plain way."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.batch import Batch, Part
from models.charset import Charset
from models.decoders.attention import AttentionDecoder
from models.decoders.ctc import CTCDecoder
from models.encoders.tiny import Tiny
from models.objectives import CCR, OBJECTIVES, Supervised
from models.objectives.readings import GreedyReading
from models.recognizer import Recognizer
from models.sequence import bilstm_stage

WORDS = ["ray", "book", "7up", "aa"]
BOTH = pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])


def images(n: int, seed: int) -> Tensor:
    """(n, 3, 32, 100) float64 of smooth noise in [-1, 1]."""
    coarse = torch.rand(n, 3, 8, 25, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (32, 100), mode="bilinear") * 2 - 1


def recognizer(name: str) -> Recognizer:
    """A small float64 recognizer with wild weights: the images' readings differ in length and confidence."""
    torch.manual_seed(18)
    charset, visual = Charset("aboy7kpru"), Tiny()
    decoder = CTCDecoder(charset, 64, max_length=8) if name == "crnn_tiny" else AttentionDecoder(charset, 64, hidden=64, max_length=8)
    made = Recognizer(charset, None, visual, bilstm_stage(visual.out_channels, 64, layers=1), decoder, channels=1, height=32, width=100,
                      max_length=8).double()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # this one batch sets the statistics
    with torch.no_grad():
        for parameter in [*made.sequence.parameters(), *made.decoder.parameters()]:
            if parameter.ndim > 1:
                parameter.mul_(8)
        torch.nn.init.normal_(made.decoder.classifier.weight)
        made.encode(images(16, seed=9))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    return made


def ccr(name: str, **constants) -> CCR:
    """On that recognizer, in eval mode: batch statistics would make the online branch differ from the target."""
    return CCR(recognizer(name), **constants).double().eval()


def objective(kind: str, name: str, **constants) -> torch.nn.Module:
    """Of a kind in OBJECTIVES, on that recognizer, in eval mode."""
    return OBJECTIVES[kind](recognizer(name), **constants).double().eval()


def full_batch(model: torch.nn.Module, seed: int = 2, unlabeled: int = 6) -> Batch:
    """Four labeled words and some unlabeled, in as many views as the objective wants, each a little different."""
    def part(n: int, first: int, views: tuple[str, ...], **fields) -> Part:
        same = images(n, seed=first)
        return Part(same, [str(i) for i in range(n)], views=tuple(same + 0.3 * v * images(n, seed=first + 50) for v in range(len(views))), **fields)

    decoder = model.recognizer.decoder
    return Batch(part(len(WORDS), seed + 100, model.views.get("labeled", ()), texts=WORDS, targets=decoder.encode(WORDS)),
                 part(unlabeled, seed, model.views.get("unlabeled", ())))


def single_labels(logits: Tensor) -> tuple[GreedyReading, Tensor]:
    """Single-label classification as words of one step: what is read in logits (n, classes), and the same as (n, 1, classes)."""
    scores, symbols = logits.detach().softmax(1).max(1)
    everything = torch.ones(len(logits), 1, dtype=torch.bool)
    return GreedyReading(symbols[:, None], symbols[:, None], everything, everything, scores, everything[:, 0]), logits.unsqueeze(1)


def batch_of(model: CCR | Supervised, weak: Tensor, strong: Tensor) -> Batch:
    targets = model.recognizer.decoder.encode(WORDS, "cpu")
    return Batch(labeled=Part(torch.empty(0), WORDS, WORDS, targets, views=(images(len(WORDS), seed=1),)),
                 unlabeled=Part(torch.empty(0), [str(i) for i in range(len(weak))], views=(weak, strong)))


def different_views(model: CCR | Supervised) -> Batch:
    weak = images(6, seed=2)
    return batch_of(model, weak, weak + 0.3 * images(6, seed=3))


HALF = {"confidence_threshold": 0.1, "labeled_confidence_threshold": 0.3}  # some of those images pass, some do not


def plain_string(frames: list[int]) -> list[int]:
    """Classes of frames, repeats collapsed and blanks dropped."""
    return [symbol for place, symbol in enumerate(frames) if symbol != 0 and (place == 0 or frames[place - 1] != symbol)]


def plain_string_distance(string: list[int], logits: Tensor) -> float:
    """-log p(string | logits) / length: the probabilities of all paths that collapse to the string, added one after the other."""
    probabilities = logits.softmax(1).tolist()
    ends = {((), None): 1.0}  # (what is written, class of the last frame) -> probability
    for frame in probabilities:
        following: dict[tuple, float] = {}
        for (written, last), before in ends.items():
            for symbol, probability in enumerate(frame):
                longer = written if symbol in (0, last) else (*written, symbol)
                if longer == tuple(string[:len(longer)]):
                    following[longer, symbol] = following.get((longer, symbol), 0.0) + before * probability
        ends = following
    return -math.log(sum(probability for (written, _), probability in ends.items() if written == tuple(string))) / len(string)


class NoWaiting(TorchDispatchMode):
    """Fails where a value or a data-dependent shape would have to come back from the device."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        assert not any(name in str(function) for name in ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique")), function
        return function(*arguments, **(keywords or {}))


def assert_ranks_are_one(ranks: list[dict], model: torch.nn.Module, batch_at: Callable[[int], Batch]) -> None:
    """What each rank found in steps 1 and 2 with its part of a batch, and what it holds afterwards, is what one process finds with the whole batch."""
    for number in (1, 2):
        model.zero_grad()
        losses = model(batch_at(number))
        losses.total.backward()
        model.after_step(number)
        assert sum(rank["steps"][number][0].item() for rank in ranks) / len(ranks) == pytest.approx(losses.total.item(), rel=1e-9)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                for rank in ranks:
                    torch.testing.assert_close(rank["steps"][number][1][key], parameter.grad, rtol=1e-6, atol=1e-10)
    for key, value in model.state_dict().items():
        for rank in ranks:
            torch.testing.assert_close(rank["state"][key], value, rtol=1e-9, atol=1e-12)
