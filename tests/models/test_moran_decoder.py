"""MORAN's decoder: two directions of attention, which of them is read, and fractional pickup."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.charset import Charset
from models.decoders import Decoded
from models.decoders.moran import BidirectionalDecoder, exchange, exchanged, moran_tokens
from models.decoders.symbols import reversed_rows

CHARSET, LETTERS = Charset.named("36"), Charset("ab")
WORDS = ["hello", "42", "scenetext", "a", "ooze", "1234567890", "textray", "zz"]


@pytest.fixture
def decoder():
    """A small decoder in float64, in eval mode."""
    torch.manual_seed(0)
    return BidirectionalDecoder(LETTERS, 6, hidden=8, embedding=5, max_length=5).double().eval()


@pytest.fixture
def memory():
    return torch.randn(3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def textbook(direction, memory, rows):
    """Step by step with nn.GRUCell, nothing hoisted: logits, contexts, weights."""
    hidden = memory.new_zeros(memory.shape[0], direction.cell.hidden_size)
    steps = []
    for symbol in rows.t():
        energy = torch.tanh(direction.memory_projection(memory) + direction.state_projection(hidden).unsqueeze(1))
        weights = direction.score(energy).softmax(1)  # (n, frames, 1)
        context = (weights * memory).sum(1)
        hidden = direction.cell(torch.cat([context, direction.embedding(symbol)], 1), hidden)
        steps.append((direction.classifier(hidden), context, weights.squeeze(2)))
    return [torch.stack(each, 1) for each in zip(*steps, strict=True)]


def textbook_loss(decoder, memory, words):
    """The mean over every character and end symbol, in both directions, one by one."""
    losses = []
    for image, word in enumerate(words):
        for direction, text in ((decoder.left_to_right, word), (decoder.right_to_left, word[::-1])):
            ids = [*("ab".index(character) for character in text), 2]
            logits = textbook(direction, memory[image:image + 1], torch.tensor([[3, *ids[:-1]]]))[0][0]
            losses += [-row.log_softmax(0)[token] for row, token in zip(logits, ids, strict=True)]
    return torch.stack(losses).mean()


def test_the_table_of_ids():
    tokens = moran_tokens(CHARSET)
    assert (tokens.classes, tokens.symbols, tokens.start, tokens.pad, tokens.end) == (37, 38, 37, 37, 36)
    assert tokens.ids("0z", 2) == [0, 35]


def test_targets_and_their_reverse(decoder):
    targets = decoder.encode(["abb", "", "babab"])
    assert targets.tolist() == [[3, 0, 1, 1, 2, 3, 3], [3, 2, 3, 3, 3, 3, 3], [3, 1, 0, 1, 0, 1, 2]]
    assert reversed_rows(targets, decoder.tokens).tolist() == decoder.encode(["bba", "", "babab"]).tolist()
    assert torch.equal(reversed_rows(decoder.inputs(targets), decoder.tokens), decoder.inputs(decoder.encode(["bba", "", "babab"])))
    with pytest.raises(ValueError, match="at most 5 characters, found 6"):
        decoder.encode(["ababab"])
    with pytest.raises(ValueError, match="found 'c' in 'abc'"):
        decoder.encode(["abc"])


def test_what_is_hoisted_changes_nothing(decoder, memory):
    words = ["ab", "", "babaa"]
    tokens = decoder.inputs(decoder.encode(words))
    mirrored = decoder.inputs(decoder.encode([word[::-1] for word in words]))
    decoded = decoder(memory, tokens)
    for found, expected in zip((decoded.logits, decoded.glimpses, decoded.attention),
                               textbook(decoder.left_to_right, memory, tokens), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(decoded.branches["right_to_left"], textbook(decoder.right_to_left, memory, mirrored)[0])


def test_the_loss_and_its_gradients_are_those_of_both_directions(decoder, memory):
    words, weights = ["ab", "", "babaa"], list(decoder.parameters())
    targets = decoder.encode(words)
    loss = decoder.loss(decoder(memory, decoder.inputs(targets)), targets)
    expected = textbook_loss(decoder, memory, words)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights))


def test_greedy_decoding_is_teacher_forcing_with_its_own_symbols(decoder, memory):
    decoder.stops_early = False
    greedy = decoder(memory)
    for direction, logits in ((decoder.left_to_right, greedy.logits), (decoder.right_to_left, greedy.branches["right_to_left"])):
        own = torch.cat([torch.full((3, 1), 3), logits.argmax(2)[:, :-1]], 1)
        torch.testing.assert_close(logits, textbook(direction, memory, own)[0])


def test_greedy_decoding_stops_when_every_sequence_of_both_directions_has_ended(decoder, memory):
    def always(direction, symbol):
        with torch.no_grad():
            direction.classifier.weight.zero_()
            direction.classifier.bias.copy_(F.one_hot(torch.tensor(symbol), 3))

    always(decoder.left_to_right, 2)
    always(decoder.right_to_left, 2)
    assert decoder(memory).logits.shape == decoder(memory).branches["right_to_left"].shape == (3, 1, 3)
    always(decoder.right_to_left, 0)  # always an a: never ends
    assert decoder(memory).logits.shape == (3, 6, 3)
    always(decoder.right_to_left, 2)
    decoder.stops_early = False
    assert decoder(memory).logits.shape == (3, 6, 3)
    decoder.stops_early = True
    assert decoder.train()(memory).logits.shape == (3, 6, 3)


def test_the_projection_stands_before_the_classifiers_of_both_directions(decoder, memory):
    tokens = decoder.inputs(decoder.encode(["ab", "", "babaa"]))
    double = nn.Linear(8, 8, bias=False).double()
    with torch.no_grad():
        double.weight.copy_(2 * torch.eye(8))
    plain, projected = decoder(memory, tokens), decoder(memory, tokens, double)
    torch.testing.assert_close(projected.glimpses, plain.glimpses)
    assert decoder.classifier is decoder.left_to_right.classifier
    for direction, before, after in ((decoder.left_to_right, plain.logits, projected.logits),
                                     (decoder.right_to_left, plain.branches["right_to_left"], projected.branches["right_to_left"])):
        torch.testing.assert_close(after, 2 * before - direction.classifier.bias)
    with torch.no_grad():
        double.weight.copy_(torch.eye(8))
    torch.testing.assert_close(decoder(memory, None, double).branches["right_to_left"], decoder(memory).branches["right_to_left"])


def logits_of(*rows):
    """Logits of one image, from rows of three."""
    return torch.tensor([rows], dtype=torch.float32)


def test_the_direction_with_the_higher_mean_of_raw_logits_is_read(decoder):
    # Left to right: "ab" then the end, largest logits 4, 3, 2 (mean 3). What follows the end does not count.
    forward = logits_of([4, 0, 0], [0, 3, 0], [0, 0, 2], [90, 0, 0])
    # Right to left: "a", "b", "b" then the end, so "bba"; all logits are high, and the distributions almost flat.
    backward = logits_of([5, 4.9, 4.9], [4.9, 5, 4.9], [4.9, 5, 4.9], [4.9, 4.9, 5])
    reading = decoder.read(Decoded(forward, None, branches={"right_to_left": backward}))
    assert reading.texts == ["bba"]
    step = backward.softmax(2).max(2).values[0]
    assert reading.characters == [pytest.approx(step[[2, 1, 0]].tolist())]
    assert reading.confidences.tolist() == pytest.approx([step.prod().item()])
    assert decoder.read(Decoded(forward, None, branches={"right_to_left": backward - 2.1})).texts == ["ab"]
    assert decoder.read(Decoded(forward, None, branches={"right_to_left": forward})).texts == ["ab"]  # equal: left to right
    both = Decoded(torch.cat([forward, forward]), None, branches={"right_to_left": torch.cat([backward - 2.1, backward])})
    assert decoder.read(both).texts == ["ab", "bba"]


def test_without_an_end_every_step_is_read(decoder):
    forward, backward = logits_of([4, 0, 0], [0, 4, 0]), logits_of([5, 0, 0], [0, 2, 0])
    assert decoder.read(Decoded(forward, None, branches={"right_to_left": backward})).texts == ["ab"]
    assert decoder.read(Decoded(forward, None, branches={"right_to_left": backward + 1})).texts == ["ba"]


def test_one_direction_alone(memory):
    torch.manual_seed(0)
    decoder = BidirectionalDecoder(LETTERS, 6, hidden=8, max_length=5, bidirectional=False).double().eval()
    targets = decoder.encode(["ab", "", "babaa"])
    decoded = decoder(memory, decoder.inputs(targets))
    assert decoded.branches == {}
    torch.testing.assert_close(decoded.logits, textbook(decoder.left_to_right, memory, decoder.inputs(targets))[0])
    expected = F.cross_entropy(decoded.logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=3)
    torch.testing.assert_close(decoder.loss(decoded, targets), expected)
    assert decoder.read(Decoded(logits_of([4, 0, 0], [0, 0, 4]), None)).texts == ["a"]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_decoder_learns_eight_words_in_both_directions(precision):
    torch.manual_seed(0)
    decoder, memory = BidirectionalDecoder(CHARSET, 32, hidden=64, embedding=32, max_length=10), torch.randn(8, 12, 32)
    targets, optimizer = decoder.encode(WORDS), torch.optim.AdamW(decoder.parameters(), lr=2e-2)
    for _ in range(40):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            decoded = decoder(memory, decoder.inputs(targets))
        loss = decoder.loss(decoded, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        decoded = decoder.eval()(memory)
    assert decoder.read(decoded).texts == WORDS
    assert decoder.read(Decoded(decoded.branches["right_to_left"], None)).texts == [word[::-1] for word in WORDS]


# ---- fractional pickup ----


def test_fractional_pickup_exchanges_a_portion_of_two_neighbours():
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = exchanged(weights, exchange(torch.tensor(2), torch.tensor(0.25), 4))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.75 * 0.2 + 0.25 * 0.3, 0.75 * 0.3 + 0.25 * 0.2, 0.4]))
    for unchanged in (0, 3):
        assert torch.equal(exchanged(weights, exchange(torch.tensor(unchanged), torch.tensor(0.25), 4)), weights)


def test_fractional_pickup_is_for_training_and_alike_for_the_batch(decoder, memory):
    twins = memory[:1].expand(2, -1, -1)
    tokens = decoder.inputs(decoder.encode(["ab", "ab"]))
    plain = decoder(twins, tokens)
    assert torch.equal(plain.attention, decoder(twins, tokens).attention)
    decoder.train()
    drawn = [decoder(twins, tokens) for _ in range(40)]
    for each in drawn:
        torch.testing.assert_close(*each.attention)
    torch.testing.assert_close(drawn[0].attention.sum(2), torch.ones(2, 6, dtype=torch.float64))
    # At the first step nothing else differs: two neighbours change by less than a quarter of their difference, or none does.
    weights = plain.attention[0, 0]
    seen = set()
    for change in (each.attention[0, 0] - weights for each in drawn):
        places = (change.abs() > 1e-12).nonzero().flatten().tolist()
        if places:
            left, right = places
            assert right == left + 1 <= 5  # never the last of the seven frames
            portion = change[left] / (weights[right] - weights[left])
            assert 0 < portion < 0.25
            torch.testing.assert_close(change[left], -change[right])
        seen.add(tuple(places))
    assert {(0, 1), (2, 3), (4, 5), ()} <= seen
    decoder.fractional_pickup = False
    assert torch.equal(decoder(twins, tokens).attention, plain.attention)
