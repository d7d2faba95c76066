"""ViTSTR and PARSeq against their definitions, step by step and one image at a time."""

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmarks.parity import vit
from benchmarks.parity.records import compare, load_formula
from learning import learn
from models.charset import Charset
from models.decoders.parseq import PARSeqDecoder, draw_orders, left_to_right, permutation_masks
from models.decoders.vitstr import ViTSTRDecoder
from models.encoders.vit import ViT
from models.published.parseq_hub import PARSEQ, VITSTR
from models.recognizer import Recognizer

LETTERS = Charset("abcdef")
WORDS = ["hello", "42", "scenetext", "a", "ooze", "1234567890", "textray", "zz"]


def images(count, height=32, width=128, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small(name, charset=LETTERS, image=(32, 128), **settings):
    """The same parts with a transformer of two thin layers."""
    torch.manual_seed(0)
    encoder = ViT(image=image, width=32, heads=2, depth=2, class_token=name == "vitstr")
    decoder = PARSeqDecoder(charset, 32, heads=4, **settings) if name == "parseq" else ViTSTRDecoder(charset, 32, **settings)
    return Recognizer(charset, None, encoder, nn.Identity(), decoder, channels=3, height=image[0], width=image[1],
                      max_length=decoder.max_length)


def lively(recognizer, seed=1):
    """The recognizer in float64 and eval mode with weights so large that it writes different symbols, and ends some words."""
    generator = torch.Generator().manual_seed(seed)
    recognizer = recognizer.double().eval()
    with torch.no_grad():
        for parameter in recognizer.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 30
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * fan_in**-0.5
            parameter.copy_(noise * 2 if parameter.ndim > 1 else parameter + noise)
    return recognizer


# The published modules in plain steps, one image and one head at a time, from a published state dict.

def plain_norm(state, name, x, epsilon):
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + epsilon).sqrt() * state[name + ".weight"] + state[name + ".bias"]


def plain_linear(state, name, x):
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def plain_attention(queries, keys, values, heads, blocked=None):
    """(steps, width), (frames, width) twice, blocked (steps, frames) bool -> (steps, width)."""
    mixed = []
    for query, key, value in zip(queries.chunk(heads, 1), keys.chunk(heads, 1), values.chunk(heads, 1), strict=True):
        scores = query @ key.T / math.sqrt(query.shape[1])
        mixed.append((scores if blocked is None else scores.masked_fill(blocked, -math.inf)).softmax(1) @ value)
    return torch.cat(mixed, 1)


def plain_vit(state, prefix, image, heads, depth):
    kernel, bias = state[prefix + "patch_embed.proj.weight"], state[prefix + "patch_embed.proj.bias"]
    height, width = kernel.shape[2:]
    x = torch.stack([(kernel * image[:, row:row + height, column:column + width]).sum((1, 2, 3)) + bias
                     for row in range(0, image.shape[1], height) for column in range(0, image.shape[2], width)])
    if prefix + "cls_token" in state:
        x = torch.cat([state[prefix + "cls_token"][0], x])
    x = x + state[prefix + "pos_embed"][0]
    for block in (f"{prefix}blocks.{i}." for i in range(depth)):
        queries, keys, values = plain_linear(state, block + "attn.qkv", plain_norm(state, block + "norm1", x, 1e-6)).chunk(3, 1)
        x = x + plain_linear(state, block + "attn.proj", plain_attention(queries, keys, values, heads))
        hidden = F.gelu(plain_linear(state, block + "mlp.fc1", plain_norm(state, block + "norm2", x, 1e-6)))
        x = x + plain_linear(state, block + "mlp.fc2", hidden)
    return plain_norm(state, prefix + "norm", x, 1e-6)


def plain_multihead(state, name, x, memory, heads, blocked=None):
    query, key, value = (x @ weight.T + bias for x, weight, bias in zip(
        (x, memory, memory), state[name + ".in_proj_weight"].chunk(3), state[name + ".in_proj_bias"].chunk(3), strict=True))
    return plain_linear(state, name + ".out_proj", plain_attention(query, key, value, heads, blocked))


def plain_parseq(state, memory, tokens, blocked, heads, steps):
    """One image: memory (frames, width), tokens (symbols,) ints, blocked (26, symbols) -> logits of those steps (a slice)."""
    table, places, layer = state["text_embed.embedding.weight"], state["pos_queries"][0], "decoder.layers.0."
    content = torch.stack([table[token] * math.sqrt(table.shape[1]) + (places[i - 1] if i else 0) for i, token in enumerate(tokens)])
    x = places[steps]
    x = x + plain_multihead(state, layer + "self_attn", plain_norm(state, layer + "norm_q", x, 1e-5),
                            plain_norm(state, layer + "norm_c", content, 1e-5), heads, blocked[steps, :len(tokens)])
    x = x + plain_multihead(state, layer + "cross_attn", plain_norm(state, layer + "norm1", x, 1e-5), memory, heads)
    hidden = F.gelu(plain_linear(state, layer + "linear1", plain_norm(state, layer + "norm2", x, 1e-5)))
    x = x + plain_linear(state, layer + "linear2", hidden)
    return plain_linear(state, "head", plain_norm(state, "decoder.norm", x, 1e-5))


def plain_reading(state, memory, heads, start, refinements, autoregressive):
    """The published decoding of one image, step by step with nothing kept: logits (26, classes)."""
    causal = torch.ones(26, 26, dtype=torch.bool).triu(1)
    cloze = torch.tensor([[key == query + 1 for key in range(26)] for query in range(26)])
    tokens = [start]
    if autoregressive:
        rows = []
        for step in range(26):
            rows.append(plain_parseq(state, memory, tokens, causal, heads, slice(step, step + 1)))
            tokens.append(int(rows[-1].argmax()))
        logits = torch.cat(rows)
    else:
        logits = plain_parseq(state, memory, tokens, torch.zeros(26, 1, dtype=torch.bool), heads, slice(0, 26))
    for _ in range(refinements):
        tokens = [start, *logits[:-1].argmax(1).tolist()]
        ended = torch.tensor([0 in tokens[:i + 1] for i in range(26)])
        logits = plain_parseq(state, memory, tokens, cloze | ended, heads, slice(0, 26))
    return logits


def test_vitstr_is_the_published_transformer():
    recognizer = lively(small("vitstr"))
    state, picture = VITSTR.save(recognizer), images(1).double()
    expected = plain_linear(state, "head", plain_vit(state, "", picture[0], 2, 2)[1:27])
    torch.testing.assert_close(recognizer(picture).logits[0], expected)


@pytest.mark.parametrize(("decode", "refinements"), [("autoregressive", 0), ("autoregressive", 2), ("one_shot", 0), ("one_shot", 2)])
def test_parseq_reads_as_published(decode, refinements):
    recognizer = lively(small("parseq", decode=decode, refinements=refinements))
    recognizer.decoder.stops_early = False
    state, pictures = PARSEQ.save(recognizer), images(2).double()
    with torch.no_grad():
        found = recognizer(pictures)
        for logits, attention, picture in zip(found.logits, found.attention, pictures, strict=True):
            memory = plain_vit(state, "encoder.", picture, 2, 2)
            expected = plain_reading(state, memory, 4, recognizer.decoder.tokens.start, refinements, decode == "autoregressive")
            torch.testing.assert_close(logits, expected)
            torch.testing.assert_close(attention.sum(1), torch.ones(26, dtype=attention.dtype))
    assert found.glimpses.shape == (2, 26, 32)


def plain_masks(order):
    """The rule, item by item: what is blocked for the content (keys) and for the queries of the indices 1 …"""
    steps = len(order) - 1
    content, query = torch.ones(2, steps, steps, dtype=torch.bool)
    for place, index in enumerate(order):
        for earlier in order[:place + 1]:
            if index < steps and earlier < steps:
                content[index, earlier] = False
            if index > 0 and earlier < steps and earlier != index:
                query[index - 1, earlier] = False
    return content, query


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 4, 3, 2, 1], [0, 2, 3, 1, 4], [0, 3, 1, 2, 4], [0, 1], [0, 1, 2]])
def test_an_order_lets_every_symbol_see_those_written_before_it(order):
    content, query = permutation_masks(torch.tensor([order]))
    blocked_content, blocked_query = plain_masks(order)
    assert torch.equal(~content[0], blocked_content)
    assert torch.equal(~query[0], blocked_query)


def test_left_to_right_is_the_causal_mask():
    assert torch.equal(permutation_masks(left_to_right(4))[1][0], torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 1), (2, 2), (3, 6), (4, 6), (5, 6), (25, 6)])
def test_how_many_orders_a_length_has(length, count):
    torch.manual_seed(0)
    for _ in range(20):
        orders = draw_orders(length, 6)
        assert orders.shape == (count, length + 2)
        assert torch.equal(orders.sort(1).values, torch.arange(length + 2).expand(count, -1))
        assert orders[0].tolist() == list(range(length + 2))
        if count > 1:
            assert orders[1].tolist() == [0, *range(length + 1, 0, -1)]
        assert (orders[2:, -1] == length + 1).all()
        assert torch.equal(orders[2::2, 1:-1], orders[3::2, 1:-1].flip(1))


def test_short_words_are_spared_the_same_order_twice():
    every = {tuple(order) for order in permutations(range(1, 4))}
    assert {tuple(order) for order in draw_orders(3, 6)[2:, 1:-1].tolist()} == every - {(1, 2, 3), (3, 2, 1)}
    torch.manual_seed(0)
    drawn = [tuple(tuple(order) for order in draw_orders(4, 6)[2:, 1:-1].tolist()) for _ in range(300)]
    assert all(len({*orders, (1, 2, 3, 4), (4, 3, 2, 1)}) == 6 for orders in drawn)
    assert len({order for orders in drawn for order in orders}) == 22  # all 24 but the first pair


def test_other_numbers_of_orders():
    assert draw_orders(6, 2).tolist() == [left_to_right(6)[0].tolist(), [0, 7, 6, 5, 4, 3, 2, 1]]
    assert draw_orders(6, 1).tolist() == left_to_right(6).tolist()
    assert draw_orders(6, 12).shape == (12, 8)
    torch.manual_seed(3)
    first = draw_orders(6, 6)
    torch.manual_seed(3)
    assert torch.equal(draw_orders(6, 6), first)


def test_training_is_the_token_weighted_mean_over_the_orders():
    recognizer = lively(small("parseq", dropout=0.0))
    decoder, state, pictures = recognizer.decoder, PARSEQ.save(recognizer), images(2).double()
    targets = decoder.encode(["abcde", "fa"])
    memory = recognizer.encode(pictures)
    torch.manual_seed(5)
    decoded = decoder.train()(memory, decoder.inputs(targets))
    torch.manual_seed(5)
    orders = draw_orders(5, 6)
    total, counted = 0, 0
    for k, order in enumerate(orders.tolist()):
        for image, row in enumerate(targets.tolist()):
            unwritten = torch.tensor([token in (decoder.tokens.end, decoder.tokens.pad) for token in row[:-1]])
            blocked = plain_masks(order)[1] | unwritten
            logits = plain_parseq(state, memory[image], row[:-1], blocked, 4, slice(0, 6))
            torch.testing.assert_close(decoded.branches["permutations"][k, image], logits)
            for step, token in enumerate(row[1:]):
                if token != decoder.tokens.pad and (k < 2 or token != decoder.tokens.end):
                    total, counted = total - logits[step].log_softmax(0)[token], counted + 1
    assert counted == 2 * (7 + 2) + 4 * 7
    torch.testing.assert_close(decoder.loss(decoded, targets), total / counted)
    torch.testing.assert_close(decoded.logits, decoded.branches["permutations"][0])
    with torch.no_grad():
        forced = decoder.eval()(memory, decoder.inputs(targets))
    assert forced.branches == {}
    torch.testing.assert_close(forced.logits, decoded.logits)
    torch.testing.assert_close(forced.glimpses, decoded.glimpses)
    torch.testing.assert_close(forced.attention.sum(2), torch.ones(2, 6, dtype=torch.float64))


def test_dropout_draws_for_every_order_and_image():
    decoder = small("parseq", permutations=2).decoder.train()
    memory = torch.ones(1, 5, 32).expand(3, -1, -1)
    logits = decoder(memory, decoder.inputs(decoder.encode(["ab"] * 3))).branches["permutations"]
    assert not torch.equal(logits[0, 0], logits[0, 1]) and logits.shape == (2, 3, 3, 7)


@pytest.mark.parametrize("name", ["parseq", "vitstr"])
def test_seven_images_read_the_same_together_and_alone(name):
    recognizer = lively(small(name), seed=4)
    if name == "parseq":
        with torch.no_grad():
            recognizer.decoder.classifier.bias[0] += 4  # so that words end at several steps
    with torch.no_grad():
        together = recognizer.read(images(7).double())
        alone = [recognizer.read(images(7)[i:i + 1].double()) for i in range(7)]
    assert together.texts == [reading.texts[0] for reading in alone]
    assert len({len(text) for text in together.texts}) > 1
    torch.testing.assert_close(together.confidences, torch.cat([reading.confidences for reading in alone]))


def test_reading_stops_when_every_word_has_ended_and_refines_all_steps():
    decoder = small("parseq", refinements=0, max_length=5).decoder.eval()
    memory = torch.randn(3, 5, 32)
    with torch.no_grad():
        decoder.classifier.weight.zero_()
        decoder.classifier.bias.copy_(torch.eye(7)[0])  # always the end symbol
    assert decoder(memory).logits.shape == decoder(memory).attention.shape[:2] + (7,) == (3, 1, 7)
    assert decoder.train()(memory).logits.shape == (3, 6, 7)
    decoder.eval().refinements = 1
    assert decoder(memory).logits.shape == (3, 6, 7)
    decoder.refinements, decoder.stops_early = 0, False
    assert decoder(memory).logits.shape == (3, 6, 7)


@pytest.mark.parametrize("decode", ["autoregressive", "one_shot"])
def test_a_training_step_never_waits_for_the_device(decode):
    with FakeTensorMode():
        recognizer = small("parseq", decode=decode, max_length=8).train()
        memory = recognizer.encode(torch.empty(2, 3, 32, 128))
        targets = torch.zeros(2, 10, dtype=torch.int64)
        decoded = recognizer.decoder(memory, recognizer.decoder.inputs(targets))
        assert decoded.branches["permutations"].shape == (6, 2, 9, 7)
        recognizer.decoder.loss(decoded, targets).backward()
        assert recognizer.decoder(memory).logits.shape == (2, 9, 7)
        if decode == "autoregressive":
            with pytest.raises(DataDependentOutputException):
                recognizer.eval().decoder(memory)
        recognizer.decoder.stops_early = False
        assert recognizer.eval().decoder(memory).logits.shape == (2, 9, 7)


@pytest.mark.parametrize("words", [["abc"], ["", "a"], ["abcdef", "fed", ""]])
@pytest.mark.parametrize("name", ["parseq", "vitstr"])
def test_every_parameter_gets_a_finite_gradient(name, words):
    recognizer = small(name).train()
    targets = recognizer.decoder.encode(words)
    recognizer.decoder.loss(recognizer(images(len(words)), recognizer.decoder.inputs(targets)), targets).backward()
    gradients = {name: parameter.grad for name, parameter in recognizer.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_free_running_training_reaches_every_part_and_the_projection():
    recognizer, projection = small("parseq").train(), nn.Linear(32, 32)
    decoder = recognizer.decoder
    decoder(recognizer.encode(images(2)), None, projection).logits.square().sum().backward()
    assert [name for name, parameter in recognizer.named_parameters() if parameter.grad is None] == []
    assert projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["parseq", "vitstr"])
def test_the_projection_stands_just_before_the_classifier(name):
    decoder, memory = lively(small(name)).decoder, torch.randn(2, 30, 32, dtype=torch.float64)
    identity, zero = nn.Linear(32, 32).double(), nn.Linear(32, 32).double()
    with torch.no_grad():
        nn.init.eye_(identity.weight), nn.init.zeros_(identity.bias), nn.init.zeros_(zero.weight), nn.init.zeros_(zero.bias)
        tokens = decoder.inputs(decoder.encode(["ab", "c"]))
        for fed in (tokens, None):
            torch.testing.assert_close(decoder(memory, fed, identity).logits, decoder(memory, fed).logits)
            projected = decoder(memory, fed, zero).logits
            torch.testing.assert_close(projected, decoder.classifier.bias.expand_as(projected))


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["parseq", "vitstr"])
def test_overfits_eight_words(name, mixed):
    recognizer = small(name, Charset.named("36"), image=(16, 64), max_length=12)
    learn(recognizer, images(8, 16, 64), WORDS, steps=300, rate=5e-3, mixed=mixed)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        assert recognizer.read(images(8, 16, 64)).texts == WORDS


def written_record(folder, formula):
    """A record in the form of the recorded ones, of a small PARSeq in the plain steps above."""
    recognizer = small("parseq", Charset.named("36"))
    shapes = {name: tuple(tensor.shape) for name, tensor in PARSEQ.save(recognizer).items()}
    state = {name: formula.formula_param(name, shape) for name, shape in shapes.items()}
    picture, tokens = images(1), [37, *recognizer.decoder.tokens.ids("abc", 25), 0]
    memory = plain_vit(state, "encoder.", picture[0], 2, 2)
    orders, masks, logits = torch.tensor([[0, 1, 2, 3, 4], [0, 3, 1, 2, 4]]), [], []
    for order in orders.tolist():
        masks.append(plain_masks(order)[1])
        logits.append(plain_parseq(state, memory, tokens[:-1], masks[-1], 4, slice(0, 4))[None])
    output = {"memory": memory[None], "perms": orders, "perm_query_masks": torch.stack(masks), "perm_logits": torch.stack(logits)}
    output |= {f"perm_ce_{k}": F.cross_entropy(each[0], torch.tensor(tokens[1:])) for k, each in enumerate(logits)}
    output |= {f"logits_{name}_refine{count}": plain_reading(state, memory, 4, 37, count, name == "ar")[None]
               for name in ("ar", "nar") for count in (0, 1, 2)}
    record = {"config": {"enc_num_heads": 2, "dec_num_heads": 4}, "n_params": sum(map(math.prod, shapes.values())), "param_shapes": shapes}
    torch.save(record | {"labels": ["abc"], "input": picture, "output": output}, folder / "parseq_small_formula.pt")
    return folder / "parseq_small_formula.pt"


def test_a_record_is_compared_in_all_it_holds(parity_data, tmp_path, monkeypatch):
    formula = load_formula(parity_data)
    file = written_record(tmp_path, formula)
    rows = compare(file, formula)
    assert [row for row in rows if not row.found <= row.limit] == []
    assert len(rows) == 2 * (1 + 4 + 2 + 6)
    monkeypatch.setattr(vit, "rebuild", lambda recorded, formula, right=vit.rebuild: spoiled(right(recorded, formula)))
    wrong = {row.quantity for row in compare(file, formula) if row.precision == "float64" and not row.found <= row.limit}
    assert wrong == {row.quantity for row in rows} - {"parameters", "memory", "perms", "perm_query_masks"}
    record = torch.load(file, weights_only=True)
    record["output"]["something_else"] = torch.zeros(3)
    torch.save(record, file)
    assert [row.quantity for row in compare(file, formula) if math.isnan(row.found)] == ["something_else"]


def spoiled(recognizer):
    with torch.no_grad():
        recognizer.decoder.classifier.bias[0] += 0.01
    return recognizer
