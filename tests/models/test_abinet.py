"""ABINet: the recorded outputs, the published state dicts, and what its decoder makes of its parts."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.parity.records import compare, load_formula
from models.charset import Charset
from models.decoders.abinet import ABINetDecoder, abinet_tokens
from models.families.abinet import CHARSET, abinet
from models.published.abinet import ABINET

HUB, HUBS = Charset.named("94"), {"tokens": "parseq", "normalisation": "half", "no_null_length": "full"}
WORDS = ["hello", "42", "scenetext", "a", "ooze", "1234567890", "textray", "zz"]


def images(count, *, channels=3, width=128):
    return torch.rand(count, channels, 32, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def narrow(charset=CHARSET, **options):
    """An eighth as wide as the paper's, in eval mode."""
    torch.manual_seed(0)
    return abinet(charset, **({"hidden": 64} | options)).eval()


@pytest.fixture(scope="module", params=["large", "small"])
def recognizer(request):
    return narrow(vision=request.param)


def train_without_dropout(recognizer):
    for module in recognizer.modules():
        module.training = not isinstance(module, nn.Dropout)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_large_model_and_of_its_parts():
    with torch.device("meta"):
        large = abinet(CHARSET)
    decoder = large.decoder
    assert count(large) == 36_738_703
    assert (count(large.encoder.resnet), count(large.encoder.transformer)) == (12_994_784, 9_457_152)
    assert (count(decoder.vision.attention), count(decoder.vision.classifier)) == (1_076_544, 18_981)
    assert count(large.encoder) + count(decoder.vision) == 23_547_461
    assert (count(decoder.language), count(decoder.gate) + count(decoder.classifier)) == (12_647_461, 543_781)


def test_parameters_of_the_small_model_and_of_the_hubs():
    with torch.device("meta"):
        small, hub = abinet(CHARSET, vision="small"), abinet(HUB, **HUBS)
    assert (count(small), count(small.encoder) + count(small.decoder.vision)) == (32_805_993, 19_614_751)
    assert (count(hub), hub.decoder.tokens.classes) == (36_857_661, 95)


def test_reproduces_the_recorded_outputs(parity_data):
    files = sorted(parity_data.glob("abinet*_formula.pt"))
    rows = [row for file in files for row in compare(file, draws=1)]
    found = {row.quantity for row in rows}
    assert {"vision_attn", "lm_logits_from_onehot", "align_logits_it1", "case 2: lang", "case 2: align_lengths"} < found
    assert [row for row in rows if not row.found <= row.limit] == []


def own_record(formula):
    """Of a small model of ours with the hub's classes, on narrower images."""
    model = narrow(HUB, **HUBS, vision="small", iterations=1, width=64, max_length=12, language_layers=2)
    names = {ABINET.published_name(model, name): parameter for name, parameter in model.named_parameters()}
    buffers = {name: tensor.clone() for name, tensor in ABINET.save(model).items() if name not in names}
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(formula.formula_param(name, parameter.shape))
        decoded = model(images(2, width=64))
    train_without_dropout(model)
    labels = ["Hello42", "Scene!"]
    loss = model.decoder.loss(model(images(2, width=64)), model.decoder.encode(labels))
    loss.backward()
    output = {"align_logits": decoded.logits, "vision_logits": decoded.branches["vision"],
              "vision_lengths": model.decoder.lengths(decoded.branches["vision"]), "train_loss": loss.detach(),
              "train_grad_norm": {name: parameter.grad.norm() for name, parameter in names.items()}}
    return {"config": {"max_length": 12, "iter_size": 1, "vision_layers": 2, "lang_layers": 2, "num_classes": 95}, "labels": labels,
            "param_shapes": {name: tuple(parameter.shape) for name, parameter in names.items()}, "buffers": buffers,
            "input": images(2, width=64), "output": output}


def test_a_record_of_any_size_is_compared(parity_data, tmp_path):
    formula, file = load_formula(parity_data), tmp_path / "abinet_own_formula.pt"
    record = own_record(formula)
    torch.save(record, file)
    rows = compare(file, formula)
    assert len(rows) == 2 * 5 and [row for row in rows if not row.found <= row.limit] == []
    torch.save(record | {"output": {"vision_logits": record["output"]["vision_logits"] + 0.01}}, file)
    assert [row.found > row.limit for row in compare(file, formula) if row.precision == "float64"] == [True]
    torch.save(record | {"output": {"vision_logit": record["output"]["vision_logits"]}}, file)
    assert [(row.quantity, row.found <= row.limit) for row in compare(file, formula)] == [("vision_logit", False)]


@pytest.mark.parametrize("wrapper", ["", "module.", "model."])
def test_there_and_back_with_and_without_wrappers_and_tables(recognizer, wrapper):
    published = {wrapper + name: tensor for name, tensor in ABINET.save(recognizer).items()}
    tables = {f"{wrapper}{name}.pe": torch.zeros(26, 1, 64) for name in ("language.token_encoder", "vision.attention.pos_encoder")}
    state = ABINET.load(recognizer, published | tables)
    assert state.keys() == recognizer.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in recognizer.state_dict().items())


def test_what_does_not_fit_is_refused_by_name():
    recognizer = narrow()
    published = ABINET.save(recognizer)
    del published["alignment.w_att.bias"]
    published["vision.attention.w0.weight"] = torch.zeros(256, 26)
    published["language.proj.weight"] = torch.zeros(64, 95)
    with pytest.raises(ValueError) as refusal:
        ABINET.load(recognizer, published)
    assert "missing: alignment.w_att.bias" in str(refusal.value)
    assert "unexpected: vision.attention.w0.weight" in str(refusal.value)
    assert "of another shape: language.proj.weight (64, 95) instead of (64, 37)" in str(refusal.value)


@pytest.mark.parametrize(("charset", "given", "options"), [
    (CHARSET, None, {"hidden": 64}),
    (CHARSET, CHARSET, {"hidden": 64, "vision": "small", "vision_layers": 3, "max_length": 20, "width": 64}),
    (CHARSET, None, {"hidden": 32, "vision": "small", "language_layers": 2}),
    (HUB, None, HUBS),
    (Charset.named("36"), Charset.named("36"), {"hidden": 64} | HUBS),
    (Charset("abç"), Charset("abç"), {"hidden": 64, "channels": 1, "normalisation": "half"}),
])
def test_a_state_dict_tells_which_recognizer_it_is(charset, given, options):
    with torch.device("meta"):
        published = ABINET.save(abinet(charset, **options))
    assert ABINET.matches(published)
    description = ABINET.describe(published, given)
    assert (description.name, description.charset, description.overrides) == ("abinet", charset, options)


def test_tables_tell_the_sizes_of_the_large_model():
    published = ABINET.save(narrow(width=256, max_length=30))
    published |= {"vision.backbone.pos_encoder.pe": torch.zeros(512, 1, 64), "language.token_encoder.pe": torch.zeros(31, 1, 64)}
    assert ABINET.describe(published, None).overrides == {"width": 256, "max_length": 30, "hidden": 64}
    published["alignment.cls.weight"] = torch.zeros(51, 64)
    with pytest.raises(ValueError, match="expected a charset of 50 characters"):
        ABINET.describe(published, None)


@pytest.mark.parametrize(("rule", "without_end"), [("original", 2), ("full", 26)])
def test_the_length_of_a_word(rule, without_end):
    decoder = narrow(no_null_length=rule).decoder
    symbols = torch.ones(4, 26, dtype=torch.int64)
    symbols[0, 7] = symbols[0, 9] = symbols[1, 0] = symbols[2, 25] = 0
    assert decoder.lengths(F.one_hot(symbols, 37).float()).tolist() == [8, 2, 26, without_end]


@pytest.mark.usefixtures("float64")
def test_iterations_correct_what_vision_saw():
    decoder, memory = narrow().decoder, torch.randn(2, 256, 64)
    with torch.no_grad():
        decoded = decoder(memory)
        glimpses, logits, weights = decoder.vision(memory)
        assert torch.equal(decoded.branches["vision"], logits) and torch.equal(decoded.attention, weights)
        for iteration in range(3):
            features, spelled = decoder.language(logits.softmax(2), decoder.lengths(logits))
            gate = decoder.gate(torch.cat([features, glimpses], 2)).sigmoid()
            logits = decoder.classifier(gate * glimpses + (1 - gate) * features)
            torch.testing.assert_close(decoded.branches["language"][iteration], spelled)
            torch.testing.assert_close(decoded.branches["fusion"][iteration], logits)
    assert torch.equal(decoded.logits, decoded.branches["fusion"][-1])


@pytest.mark.usefixtures("float64")
def test_a_projection_is_applied_before_the_last_classifier():
    decoder, memory = narrow().decoder, torch.randn(1, 256, 64)
    zero = nn.Linear(64, 64)
    nn.init.zeros_(zero.weight), nn.init.zeros_(zero.bias)
    decoded = decoder(memory, projection=zero)
    torch.testing.assert_close(decoded.branches["fusion"], decoder.classifier.bias.expand(3, 1, 26, 37))


def test_the_language_loss_teaches_the_language_model_alone():
    decoder = narrow(vision_weight=0.0, fusion_weight=0.0).decoder
    memory = torch.randn(2, 256, 64, requires_grad=True)
    decoder.loss(decoder(memory), decoder.encode(WORDS[:2])).backward()
    assert not memory.grad.any() and not decoder.vision.classifier.weight.grad.any()
    assert decoder.language.classifier.weight.grad.any()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("table", ["original", "parseq"])
def test_the_loss_counts_characters_and_end_symbols(table):
    recognizer = narrow(tokens=table, vision_weight=1.0, language_weight=2.0, fusion_weight=3.0)
    decoder, words = recognizer.decoder, ["ab", "", "a" * 25]
    with torch.no_grad():
        decoded = recognizer(images(3))
        found = decoder.loss(decoded, decoder.encode(words)).item()
    expected = 0.0
    for weight, name in [(1, "vision"), (2, "language"), (3, "fusion")]:
        branch = decoded.branches[name].log_softmax(-1).view(-1, 3, 26, 37)
        losses = [-branch[iteration, word, step, CHARSET.index[text[step]] + 1 if step < len(text) else 0].item()
                  for iteration in range(len(branch)) for word, text in enumerate(words) for step in range(len(text) + 1)]
        expected += weight * sum(losses) / len(losses)
    assert found == pytest.approx(expected, rel=1e-12)


def test_ids_of_both_tables():
    assert narrow().decoder.encode(["b0"])[0, :5].tolist() == [0, 2, 36, 0, 0]
    hub = abinet_tokens(HUB, "parseq")
    assert (hub.classes, hub.end, hub.start, hub.pad, hub.ids("0a~", 25)) == (95, 0, 95, 96, [1, 11, 94])


def test_reading_ends_at_the_first_end_symbol():
    recognizer = narrow()
    ids = recognizer.decoder.encode(["hello"])[:, 1:]
    ids[0, 7] = 3
    decoded = recognizer(images(1))
    decoded.logits = F.one_hot(ids, 37) * 5.0
    reading = recognizer.decoder.read(decoded)
    probability = math.exp(5) / (math.exp(5) + 36)
    assert reading.texts == ["hello"] and len(reading.characters[0]) == 5
    assert reading.confidences.item() == pytest.approx(probability**6, rel=1e-5)


def test_shapes_of_the_contract(recognizer):
    decoder = recognizer.decoder
    with torch.no_grad():
        memory = recognizer.encode(images(3))
        decoded = decoder(memory, torch.zeros(3, 26, dtype=torch.int64))
    assert (decoder.kind, decoder.stops_early, decoder.max_length, decoder.inputs(decoder.encode(WORDS))) == ("parallel", False, 25, None)
    assert memory.shape == (3, 256, 64) and decoded.glimpses.shape == (3, 26, 64)
    assert decoded.logits.shape == decoded.branches["vision"].shape == (3, 26, 37)
    assert decoded.branches["language"].shape == decoded.branches["fusion"].shape == (3, 3, 26, 37)
    assert decoded.attention.shape == (3, 26, 256)
    torch.testing.assert_close(decoded.attention.sum(2), torch.ones(3, 26))


@pytest.mark.usefixtures("float64")
def test_images_read_the_same_together_and_alone(recognizer):
    recognizer = copy.deepcopy(recognizer).double()
    with torch.no_grad():
        together, alone = recognizer(images(7)).logits, [recognizer(image[None]).logits for image in images(7)]
        assert torch.equal(together, recognizer(images(7)).logits)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-10)


def test_every_parameter_gets_a_finite_gradient(recognizer):
    recognizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = recognizer(images(2))
        loss = recognizer.decoder.loss(decoded, recognizer.decoder.encode(WORDS[:2]))
    loss.backward()
    assert loss.dtype == torch.float32
    gradients = {name: parameter.grad for name, parameter in recognizer.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


@pytest.mark.parametrize("vision", ["large", "small"])
def test_neither_training_nor_reading_waits_for_the_device(vision):
    with FakeTensorMode():
        recognizer = abinet(CHARSET, hidden=64, vision=vision, iterations=2)
        for training in (True, False):
            decoded = recognizer.train(training)(torch.empty(2, 3, 32, 128))
            assert recognizer.decoder.loss(decoded, torch.zeros(2, 27, dtype=torch.int64)).shape == ()


@pytest.mark.parametrize(("vision", "precision"), [("large", torch.bfloat16), ("small", torch.float32)], ids=["large", "small"])
def test_learns_eight_words_by_heart(vision, precision):
    recognizer = narrow(vision=vision, width=64, max_length=10, language_layers=1, vision_layers=1, iterations=2)
    pictures, targets = images(8, width=64), recognizer.decoder.encode(WORDS)
    optimizer = torch.optim.Adam(recognizer.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 60)
    train_without_dropout(recognizer)
    for _ in range(60):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            decoded = recognizer(pictures)
        loss = recognizer.decoder.loss(decoded, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(recognizer.parameters(), 20.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        assert recognizer.eval().read(pictures).texts == WORDS


def test_the_hubs_initialisation():
    recognizer = narrow(tokens="parseq")
    assert recognizer.decoder.gate.weight.abs().max() <= 0.04 and not recognizer.decoder.gate.bias.any()
    attention = recognizer.decoder.language.layers[0].attention
    assert attention.output_projection.weight.abs().max() <= 0.04
    assert attention.input_projection.weight.abs().max().item() == pytest.approx((6 / (64 + 192)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("options", "message"), [
    ({"iterations": -1}, "iterations"), ({"vision": "huge"}, "vision large or small"),
    ({"no_null_length": "none"}, "no_null_length original or full"), ({"tokens": "benchmark"}, "token table of ABINet"),
    ({"normalisation": "zero"}, "expected the normalisation imagenet"), ({"channels": 1}, "or half, found 'imagenet' with 1"),
    ({"hidden": 40}, "a width that 16 divides, found 40"),
])
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        narrow(**options)


def test_memories_that_are_refused():
    with pytest.raises(ValueError, match="a map of 8 rows, found 100 frames"):
        narrow().decoder(torch.zeros(1, 100, 64))
    with pytest.raises(ValueError, match="expected 256 frames, found 200"):
        ABINetDecoder(CHARSET, 16, 8, 32, vision="small")(torch.zeros(1, 200, 16))


def test_without_iterations_it_is_the_vision_model_alone_and_goes_on_with_others():
    torch.manual_seed(0)
    sizes = {"vision": "small", "hidden": 32, "width": 64, "max_length": 6, "vision_layers": 1, "language_layers": 1}
    vision, whole = (abinet(CHARSET, **sizes, iterations=iterations).eval() for iterations in (0, 2))
    whole.load_state_dict(vision.state_dict())
    images = torch.rand(2, 3, 32, 64) * 2 - 1
    assert torch.equal(vision(images).logits, whole(images).branches["vision"])
    targets = vision.decoder.encode(["ray", "book"])
    loss = vision.decoder.loss(vision(images), targets)
    assert torch.equal(loss, whole.decoder.losses(whole(images), targets)["vision"])
    loss.backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in vision.parameters())
