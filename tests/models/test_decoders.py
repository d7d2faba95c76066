"""The CTC and attention decoders against their definitions."""

from itertools import groupby, product
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.charset import Charset
from models.decoders import Decoded
from models.decoders.attention import AttentionDecoder
from models.decoders.ctc import CTCDecoder
from models.decoders.ctc_loss import ctc_loss

LETTERS = Charset("ab")


def certain(rows, classes):
    """Logits whose softmax gives each step's probabilities; a row maps classes to probabilities, the rest share."""
    table = torch.empty(len(rows), classes)
    for step, row in enumerate(rows):
        rest = (1 - sum(row.values())) / (classes - len(row))
        table[step] = torch.tensor([row.get(token, rest) for token in range(classes)]).log()
    return table.unsqueeze(0)


def textbook_attention(decoder, memory, tokens):
    """Step by step with nn.LSTMCell and one-hot symbols, nothing hoisted: logits, contexts, weights."""
    hidden = cell = memory.new_zeros(memory.shape[0], decoder.hidden)
    rows = []
    for symbol in tokens.t():
        energy = torch.tanh(decoder.memory_projection(memory) + decoder.state_projection(hidden).unsqueeze(1))
        weights = decoder.score(energy).softmax(1)  # (n, frames, 1)
        context = (weights * memory).sum(1)
        one_hot = F.one_hot(symbol, decoder.tokens.classes).to(memory)
        hidden, cell = decoder.cell(torch.cat([context, one_hot], 1), (hidden, cell))
        rows.append((decoder.classifier(hidden), context, weights.squeeze(2)))
    return [torch.stack(each, 1) for each in zip(*rows, strict=True)]


@pytest.fixture
def attention():
    """A small attention decoder in float64, and a memory for three images."""
    torch.manual_seed(0)
    return AttentionDecoder(LETTERS, 6, hidden=8, max_length=5).double(), torch.randn(3, 7, 6, dtype=torch.float64)


def test_what_is_hoisted_changes_nothing(attention):
    decoder, memory = attention
    tokens = decoder.inputs(decoder.encode(["ab", "", "babab"]))
    decoded = decoder(memory, tokens)
    for found, expected in zip((decoded.logits, decoded.glimpses, decoded.attention),
                               textbook_attention(decoder, memory, tokens), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_is_hoisted_keeps_the_gradients(attention):
    decoder, memory = attention
    targets = decoder.encode(["ab", "", "babab"])
    parameters = list(decoder.parameters())
    decoder.train()
    hoisted = torch.autograd.grad(decoder.loss(decoder(memory, targets[:, :-1]), targets), parameters)
    logits = textbook_attention(decoder, memory, targets[:, :-1])[0]
    textbook = torch.autograd.grad(decoder.loss(Decoded(logits, memory), targets), parameters)
    torch.testing.assert_close(hoisted, textbook)


def test_greedy_decoding_is_teacher_forcing_with_its_own_symbols(attention):
    decoder, memory = attention
    greedy = decoder.train()(memory)
    own = torch.cat([torch.zeros(3, 1, dtype=torch.int64), greedy.logits.argmax(2)[:, :-1]], 1)
    torch.testing.assert_close(decoder(memory, own).logits, greedy.logits)


def test_greedy_decoding_stops_when_every_sequence_has_ended_but_not_in_training(attention):
    decoder, memory = attention
    with torch.no_grad():
        decoder.classifier.weight.zero_()
        decoder.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))  # always the end symbol
    assert decoder.eval()(memory).logits.shape == (3, 1, 4)
    assert decoder.train()(memory).logits.shape == (3, 6, 4)
    decoder.classifier.bias.data[2] = 2.0  # always an a: never ends
    assert decoder.eval()(memory).logits.shape == (3, 6, 4)
    assert decoder.read(decoder(memory)).texts == ["aaaaaa"] * 3


def test_the_projection_stands_just_before_the_classifier(attention):
    decoder, memory = attention
    projection = nn.Linear(8, 8).double()
    tokens = decoder.inputs(decoder.encode(["ab", "", "babab"]))
    plain, projected = decoder(memory, tokens), decoder(memory, tokens, projection)
    torch.testing.assert_close(projected.glimpses, plain.glimpses)
    assert not torch.allclose(projected.logits, plain.logits)
    identity = nn.Linear(8, 8).double()
    with torch.no_grad():
        identity.weight.copy_(torch.eye(8))
        identity.bias.zero_()
    torch.testing.assert_close(decoder(memory, tokens, identity).logits, plain.logits)
    torch.testing.assert_close(decoder(memory, None, identity).logits, decoder(memory).logits)


def test_attention_targets_and_inputs():
    decoder = AttentionDecoder(LETTERS, 6, max_length=4)
    targets = decoder.encode(["ab", "", "baba"])
    assert targets.tolist() == [[0, 2, 3, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 3, 2, 3, 2, 1]]
    assert decoder.inputs(targets).tolist() == [row[:-1] for row in targets.tolist()]


def test_attention_loss_is_the_mean_over_what_is_not_padding():
    decoder = AttentionDecoder(LETTERS, 6, max_length=3)
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = decoder.loss(Decoded(logits, logits), decoder.encode(["a", "bab"]))
    log = logits.log_softmax(2)
    written = [log[0, 0, 2], log[0, 1, 1], log[1, 0, 3], log[1, 1, 2], log[1, 2, 3], log[1, 3, 1]]
    torch.testing.assert_close(loss, -torch.stack(written).mean())


def test_attention_reads_up_to_the_end_and_counts_it_in_the_confidence():
    decoder = AttentionDecoder(LETTERS, 6, max_length=3)
    reading = decoder.read(Decoded(certain([{2: 0.9}, {3: 0.8}, {1: 0.7}, {2: 0.99}], classes=4), None))
    assert reading.texts == ["ab"]
    assert reading.characters == [pytest.approx([0.9, 0.8])]
    assert reading.confidences.tolist() == pytest.approx([0.9 * 0.8 * 0.7])


def test_attention_without_an_end_reads_every_step_and_a_start_symbol_writes_nothing():
    decoder = AttentionDecoder(LETTERS, 6, max_length=2)
    reading = decoder.read(Decoded(certain([{2: 0.9}, {0: 0.8}, {3: 0.7}], classes=4), None))
    assert (reading.texts, reading.characters) == (["ab"], [pytest.approx([0.9, 0.7])])
    assert reading.confidences.tolist() == pytest.approx([0.9 * 0.8 * 0.7])


def test_ctc_targets_and_inputs():
    decoder = CTCDecoder(LETTERS, 6, max_length=4)
    targets = decoder.encode(["ab", "", "baba"])
    assert targets.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [2, 1, 2, 1]]
    assert decoder.inputs(targets) is None


def test_ctc_collapses_repeats_and_drops_blanks():
    decoder = CTCDecoder(LETTERS, 6)
    reading = decoder.read(Decoded(certain([{1: 0.6}, {1: 0.9}, {0: 0.8}, {1: 0.7}, {2: 0.5}], classes=3), None))
    assert reading.texts == ["aab"]
    assert reading.characters == [pytest.approx([0.9, 0.7, 0.5])]
    frames = [{1: 0.6}, {1: 0.9}, {0: 0.8}, {1: 0.7}, {2: 0.5}]
    paths = [path for path in product(range(3), repeat=5) if written(path) == [1, 1, 2]]
    rest = [(1 - sum(frame.values())) / 2 for frame in frames]  # of the two other classes each
    expected = sum(prod(frame.get(symbol, other) for frame, other, symbol in zip(frames, rest, path, strict=True)) for path in paths)
    assert reading.confidences.tolist() == pytest.approx([expected]) and expected > 0.6 * 0.9 * 0.8 * 0.7 * 0.5  # the best of them alone


def written(path: tuple[int, ...]) -> list[int]:
    return [symbol for symbol, _ in groupby(path) if symbol]


def test_ctc_reads_blanks_alone_as_nothing_with_their_probability():
    reading = CTCDecoder(LETTERS, 6).read(Decoded(certain([{0: 0.9}, {0: 0.8}], classes=3), None))
    assert (reading.texts, reading.characters) == ([""], [[]])
    assert reading.confidences.tolist() == pytest.approx([0.9 * 0.8])


@pytest.mark.parametrize("text", ["", "a", "ab", "aa", "aba"])
def test_ctc_loss_sums_over_every_alignment(text):
    decoder = CTCDecoder(LETTERS, 6, max_length=3)
    logits = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(1))
    probabilities = logits[0].softmax(1)
    total = sum(torch.stack([probabilities[frame, token] for frame, token in enumerate(path)]).prod()
                for path in product(range(3), repeat=5)
                if "".join(" ab"[token] for token, _ in groupby(path)).replace(" ", "") == text)
    expected = -torch.as_tensor(total).log() / max(len(text), 1)
    torch.testing.assert_close(decoder.loss(Decoded(logits, logits), decoder.encode([text])), expected)


def test_ctc_takes_a_text_that_does_not_fit_its_frames_as_no_loss():
    decoder = CTCDecoder(LETTERS, 6, max_length=3)
    logits = torch.randn(1, 3, 3, requires_grad=True)  # "aaa" needs five frames: two blanks between
    loss = decoder.loss(Decoded(logits, logits), decoder.encode(["aaa"]))
    loss.backward()
    assert (loss.item(), logits.grad.abs().max().item()) == (0, 0)


def test_ctc_projects_the_memory_before_the_classifier():
    torch.manual_seed(0)
    decoder, projection, memory = CTCDecoder(LETTERS, 6), nn.Linear(6, 6), torch.randn(2, 4, 6)
    decoded = decoder(memory, None, projection)
    torch.testing.assert_close(decoded.logits, decoder.classifier(projection(memory)))
    assert decoded.glimpses is memory


@pytest.mark.parametrize("decoder", [CTCDecoder(LETTERS, 6, max_length=3), AttentionDecoder(LETTERS, 6, max_length=3)])
def test_texts_that_cannot_be_written_are_refused(decoder):
    with pytest.raises(ValueError, match="at most 3 characters, found 4"):
        decoder.encode(["a", "abab"])
    with pytest.raises(ValueError, match="found 'c' in 'abc'"):
        decoder.encode(["abc"])


def test_the_ctc_loss_that_stays_on_the_device_is_pytorchs():
    """Targets of 0 to 23 characters, one with so many repeats that 24 frames cannot write it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(24, 24, 37, generator=generator, dtype=torch.float64, requires_grad=True)  # (frames, n, classes)
    targets = torch.zeros(24, 25, dtype=torch.int64)
    for length, row in enumerate(targets):
        row[:length] = torch.randint(1, 37, (length,), generator=generator)
    targets[20] = torch.tensor([5] * 20 + [0] * 5)
    ours = ctc_loss(logits.log_softmax(2), targets)
    theirs = F.ctc_loss(logits.log_softmax(2), targets, torch.full((24,), 24), (targets != 0).sum(1), zero_infinity=True)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_the_ctc_loss_never_waits_for_the_device():
    with FakeTensorMode():
        assert ctc_loss(torch.empty(24, 2, 37).log_softmax(2), torch.ones(2, 25, dtype=torch.int64)).shape == ()
