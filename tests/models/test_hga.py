"""HGA: against its recorded reference, against slow plain code, and what its two directions do."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmarks.parity.records import compare
from learning import learn
from models.charset import Charset
from models.decoders.decoded import Decoded
from models.decoders.parallel import HolisticDecoder, hga_tokens
from models.decoders.symbols import reversed_rows
from models.decoding.beam import WordModel, beam_reading
from models.encoders.hga_resnet import HGAResNet
from models.families.four_stage import crnn_tiny, four_stage
from models.families.hga import HGA_CHARSET, hga
from models.published.four_stage import FOUR_STAGE
from models.published.hga import HGA
from models.recognizer import Recognizer

AB = Charset("ab")  # ids: a 0, b 1, start 2, end 3, padding 4, unknown 5
WORDS = ["hello", "42", "scene", "a", "ooze", "12345", "text", "zz"]


def small(charset=AB, *, seed=0, directions=2, layers=1, max_length=6):
    """HGA in miniature: every part is there, of few channels. Its output layer is enlarged, so that it writes something of everything."""
    torch.manual_seed(seed)
    encoder = HGAResNet(1, (8, 8, 16, 32), (1, 1, 1, 1))
    decoder = HolisticDecoder(charset, 32, rows=2, width=64, heads=4, bottlenecks=2, directions=directions, layers=layers,
                              max_length=max_length)
    with torch.no_grad():
        decoder.classifier.weight *= 2
    return Recognizer(charset, None, encoder, nn.Identity(), decoder, channels=1, height=16, width=64, max_length=max_length).eval()


def images(count, *, seed=0):
    return torch.rand(count, 1, 16, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def memories(count, *, seed=0):
    """What an encoder of 32 channels could give of 2 rows and 8 columns, in float64."""
    return torch.randn(count, 16, 32, generator=torch.Generator().manual_seed(seed)).double()


def test_reproduces_the_recorded_outputs(parity_data):
    rows = compare(parity_data / "hga_formula.pt", draws=1)
    assert [row for row in rows if not row.found <= row.limit] == []
    differences = {row.quantity: row.found for row in rows if row.precision == "float64"}
    assert {"parameters", "feature_slice", "global", "tf_l2r", "tf_r2l", "tf_loss", "dec1_out", "beam5_r2l_score"} < differences.keys()
    assert {name: found for name, found in differences.items() if name.endswith("_ids")} == {
        f"beam{width}_{direction}_ids": 0 for width in (1, 5) for direction in ("l2r", "r2l")}


@pytest.mark.parametrize(("options", "trainable", "with_tables"), [
    ({}, 75_285_312, 75_323_200),
    ({"directions": 1}, 62_636_864, 62_655_808),
    ({"decoder_layers": 2}, 100_485_952, 100_523_840),
])
def test_parameters(options, trainable, with_tables):
    with torch.device("meta"):
        recognizer = hga(HGA_CHARSET, **options)
    count = sum(parameter.numel() for parameter in recognizer.parameters())
    tables = [direction.positions() for direction in recognizer.decoder.directions]
    assert all(table.shape == (37, 512) for table in tables)  # frozen parameters in the reference, tables here
    assert (count, count + sum(table.numel() for table in tables)) == (trainable, with_tables)
    parts = (recognizer.encoder, recognizer.decoder.holistic, recognizer.decoder.memory_projection, recognizer.decoder.classifier)
    assert [sum(parameter.numel() for parameter in part.parameters()) for part in parts] == [21_276_992, 28_090_880, 524_288, 96_256]


def test_the_authors_characters_and_ids():
    tokens = hga_tokens(HGA_CHARSET)
    assert len(HGA_CHARSET) == 90 and not set("^{|}") & set(HGA_CHARSET.characters)
    assert (tokens.start, tokens.end, tokens.pad, tokens.classes) == (90, 91, 92, 94)
    assert tokens.ids("09azAZ!\"'#~", 34) == [0, 9, 10, 35, 36, 61, 62, 63, 64, 65, 89]


def test_the_map_is_an_eighth_of_the_image():
    with torch.device("meta"):
        for height, width, rows, columns in [(48, 160, 6, 20), (32, 100, 4, 12), (32, 128, 4, 16)]:
            recognizer = hga(HGA_CHARSET, height=height, width=width).eval()
            memory = recognizer.encode(torch.empty(2, 3, height, width))
            holistic, frames = recognizer.decoder.look(memory)
            assert (recognizer.decoder.rows, memory.shape) == (rows, (2, rows * columns, 512))
            assert (holistic.shape, frames.shape) == ((2, 512), (2, rows * columns, 1024))


def attend(attention, x, seen):
    """The heads of one step, one after the other: x (width,), seen (positions, width)."""
    width = len(x) // attention.heads
    query, keys, values = attention.query(x), attention.key(seen), attention.value(seen)
    parts = [slice(head * width, (head + 1) * width) for head in range(attention.heads)]
    heads = [((keys[:, part] @ query[part]) / math.sqrt(width)).softmax(0) @ values[:, part] for part in parts]
    return attention.norm(x + attention.output(torch.cat(heads)))


def position(step, width):
    """sin and cos in turns, as the paper on transformers has them."""
    angles = [step / 10000 ** (2 * (i // 2) / width) for i in range(width)]
    return torch.tensor([math.cos(angle) if i % 2 else math.sin(angle) for i, angle in enumerate(angles)], dtype=torch.float64)


def plain_hidden(direction, symbols, holistic, frames):
    """The hidden state behind each of one row of symbols: (steps, width)."""
    padding = [symbol == direction.embedding.padding_idx for symbol in symbols]
    embedded = [direction.embedding.weight[symbol] + position(step, len(holistic)) for step, symbol in enumerate(symbols, start=1)]
    states = [torch.cat([holistic, each]) for each in embedded]
    for layer in direction.layers:
        before, states = states, []
        for step in range(len(symbols)):
            x = torch.zeros_like(before[0])
            if not padding[step]:
                x = attend(layer.symbol_attention, before[step], torch.stack([before[i] for i in range(step + 1) if not padding[i]]))
                x = attend(layer.memory_attention, x, frames)
                x = layer.norm(x + layer.contract(F.relu(layer.expand(x))))
            states.append(x)
    return torch.stack(states)


def plain_beam(decoder, direction, holistic, frames, width):
    """The best (symbols, score) of one image: every hypothesis is a list, and everything is computed anew at every step."""
    beams = [([decoder.tokens.start], 0.0)]
    for _ in range(decoder.max_length + 1):
        longer = []
        for fed, score in beams:
            logs = decoder.classifier(plain_hidden(direction, fed, holistic, frames)[-1]).log_softmax(0).tolist()
            longer += [([*fed, symbol], score + log) for symbol, log in enumerate(logs)]
        beams = sorted(longer, key=lambda each: -each[1])[:width]
        if beams[0][0][-1] == decoder.tokens.end:
            break
    return beams[0][0][1:], beams[0][1]


@pytest.mark.parametrize("layers", [1, 2])
def test_teacher_forcing_is_the_formula_step_by_step(layers):
    decoder = small(layers=layers).double().decoder
    memory = memories(2)
    fed = torch.tensor([[2, 0, 1, 1, 3, 4, 4], [2, 1, 4, 0, 5, 0, 0]])  # padding behind a word, and inside a row
    with torch.no_grad():
        holistic, frames = decoder.look(memory)
        decoded = decoder(memory, fed)
        for i, symbols in enumerate(fed.tolist()):
            hidden = plain_hidden(decoder.directions[0], symbols, holistic[i], frames[i])
            torch.testing.assert_close(decoded.logits[i], decoder.classifier(hidden), rtol=0, atol=1e-12)
            backwards = reversed_rows(fed[i:i + 1], decoder.tokens)[0].tolist()
            hidden = plain_hidden(decoder.directions[1], backwards, holistic[i], frames[i])
            torch.testing.assert_close(decoded.branches["right_to_left"][i], decoder.classifier(hidden), rtol=0, atol=1e-12)
    assert not decoded.logits[0, 5:].any()  # padding gives zeros
    torch.testing.assert_close(decoded.attention.sum(2), torch.ones(2, 7).double())
    assert decoded.glimpses.shape == (2, 7, 64)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_beam_search_is_the_plain_one(width):
    decoder = small(seed=7).double().decoder
    memory = memories(8, seed=1)
    found, lengths = [], set()
    with torch.no_grad():
        holistic, frames = decoder.look(memory)
        for direction, spelling in zip(decoder.directions, decoder.beam_search(memory, width), strict=True):
            for i in range(len(memory)):
                ids, score = plain_beam(decoder, direction, holistic[i], frames[i], width)
                rest = [decoder.tokens.end] * (spelling.ids.shape[1] - len(ids))
                assert spelling.ids[i].tolist() == ids + rest
                assert spelling.scores[i].item() == pytest.approx(score, abs=1e-12)
                assert spelling.log_probabilities[i].sum().item() == pytest.approx(score, abs=1e-12)
                found.append(ids)
                lengths.add(len(ids))
    if width == 5:  # the images are no easy ones: some end early, some feed padding, in some the best goes on behind an end symbol
        assert len(lengths) > 2
        assert any(decoder.tokens.pad in ids for ids in found) and any(decoder.tokens.end in ids[:-1] for ids in found)


def test_rows_from_right_to_left():
    tokens = hga_tokens(AB)
    rows = torch.tensor([[2, 0, 0, 1, 3, 4, 4],  # a a b end
                         [2, 3, 4, 4, 4, 4, 4],  # an empty text
                         [2, 0, 1, 1, 0, 0, 1],  # as fed: all characters, and the end is cut off
                         [2, 0, 1, 4, 4, 4, 4]])
    assert reversed_rows(rows, tokens).tolist() == [
        [2, 1, 0, 0, 3, 4, 4], [2, 3, 4, 4, 4, 4, 4], [2, 1, 0, 0, 1, 1, 0], [2, 1, 0, 4, 4, 4, 4]]


@pytest.mark.parametrize("directions", [1, 2])
def test_the_loss_is_the_mean_over_real_targets_and_directions(directions):
    recognizer = small(directions=directions).double()
    decoder, texts = recognizer.decoder, ["ab", "a", "bbaab"]
    targets = decoder.encode(texts)
    with torch.no_grad():
        decoded = recognizer(images(3).double(), decoder.inputs(targets))
        losses = []
        for logits, spelled in zip((decoded.logits, *decoded.branches.values()), (texts, [text[::-1] for text in texts]), strict=False):
            logs = logits.log_softmax(2)
            ids = [[*decoder.tokens.ids(text, 6), decoder.tokens.end] for text in spelled]
            terms = [-logs[i, step, symbol].item() for i, row in enumerate(ids) for step, symbol in enumerate(row)]
            assert len(terms) == 2 + 1 + 5 + 3
            losses.append(sum(terms) / len(terms))
        assert decoder.loss(decoded, targets).item() == pytest.approx(sum(losses) / directions, rel=1e-12)


def read_both(forward, backward):
    """What is read where each step is a pair (symbol, by how much its logit exceeds all others)."""
    decoder = small().decoder
    logits = [torch.tensor([[gap * (symbol == each) for each in range(decoder.tokens.classes)] for symbol, gap in steps]).unsqueeze(0)
              for steps in (forward, backward)]
    return decoder.read(Decoded(logits[0], torch.zeros(1, len(forward), 64), branches={"right_to_left": logits[1]}))


def test_the_likelier_direction_is_read():
    a, b, end = 0, 1, 3
    unsure, sure = [(a, 4.0), (a, 4.0), (b, 4.0), (end, 4.0)], [(b, 6.0), (a, 6.0), (end, 6.0), (a, 6.0)]
    assert read_both(unsure, sure).texts == ["ab"]  # "ba" written from right to left
    assert read_both(sure, unsure).texts == ["ba"]
    probability = 1 / (1 + 5 * math.exp(-6))
    for reading in (read_both(unsure, sure), read_both(sure, unsure)):
        assert reading.confidences.item() == pytest.approx(probability ** 3, rel=1e-5)  # both characters and the end
        assert reading.characters == [pytest.approx([probability] * 2)]
    assert read_both(unsure, unsure).texts == ["baa"]  # where both are alike, the one from right to left
    # What stands behind the end does not count: in sum over all steps the other direction is likelier.
    assert read_both([(a, 5.0), (end, 5.0), (a, 0.0)], [(b, 4.9), (end, 4.9), (a, 4.9)]).texts == ["a"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", [0, 7, 8])
def test_greedy_decoding_is_teacher_forcing_with_its_own_symbols(seed):
    """Keys and values that are kept give what all steps at once give, also where padding is written and fed."""
    decoder = small(seed=seed, layers=2).decoder
    decoder.stops_early = False
    memory = memories(6, seed=seed)
    with torch.no_grad():
        free = decoder(memory)
        forced = decoder(memory, F.pad(free.logits.argmax(2), (1, -1), value=decoder.tokens.start))
    assert free.logits.shape == (6, 7, 6)
    for ours, theirs in ((free.logits, forced.logits), (free.glimpses, forced.glimpses), (free.attention, forced.attention)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_greedy_decoding_reads_what_a_beam_of_one_does():
    decoder, memory = small(seed=8).decoder, memories(9)
    with torch.no_grad():
        greedy, beam = decoder.read(decoder(memory)), decoder.read_beams(memory, 1)
    assert greedy.texts == beam.texts and len(set(greedy.texts)) > 1
    torch.testing.assert_close(greedy.confidences, beam.confidences)


def test_eval_mode_stops_with_the_longest_word_and_reads_the_same():
    recognizer, pictures = small(seed=8).double(), images(5).double()
    with torch.no_grad():
        stopped = recognizer(pictures)
        recognizer.decoder.stops_early = False
        full = recognizer(pictures)
    steps = stopped.branches["right_to_left"].shape[1]
    assert steps < full.branches["right_to_left"].shape[1] == 7
    torch.testing.assert_close(full.branches["right_to_left"][:, :steps], stopped.branches["right_to_left"])
    assert recognizer.decoder.read(full).texts == recognizer.decoder.read(stopped).texts


@pytest.mark.parametrize("read", [lambda recognizer, memory: recognizer.decoder.read(recognizer.decoder(memory)),
                                  lambda recognizer, memory: recognizer.decoder.read_beams(memory)], ids=["greedy", "beam"])
def test_seven_images_read_the_same_together_and_alone(read):
    recognizer = small(seed=11).double()
    with torch.no_grad():
        memory = recognizer.encode(images(7).double())
        together, alone = read(recognizer, memory), [read(recognizer, memory[i:i + 1]) for i in range(7)]
    assert together.texts == [reading.texts[0] for reading in alone]
    torch.testing.assert_close(together.confidences, torch.cat([reading.confidences for reading in alone]))
    assert len(set(together.texts)) > 1
    assert [len(text) for text in together.texts] == [len(each) for each in together.characters]


def test_a_training_step_never_waits_for_the_device():
    """Fake tensors have no values: whatever would have to fetch one from the device fails."""
    with FakeTensorMode():
        recognizer = small(max_length=2).train()
        decoder, memory, targets = recognizer.decoder, torch.empty(2, 16, 32), torch.zeros(2, 4, dtype=torch.int64)
        forced = decoder(recognizer.encode(torch.empty(2, 3, 16, 64)), decoder.inputs(targets))
        decoder.loss(forced, targets).backward()
        assert forced.logits.shape == forced.branches["right_to_left"].shape == (2, 3, 6)
        assert decoder(memory).logits.shape == (2, 3, 6)
        decoder.eval()
        with pytest.raises(DataDependentOutputException):  # it asks, at every step, whether all sequences have ended
            decoder(memory)
        decoder.stops_early = False
        assert decoder(memory).logits.shape == (2, 3, 6)
        assert [found.ids.shape for found in decoder.beam_search(memory)] == [(2, 3), (2, 3)]


def test_every_parameter_gets_a_finite_gradient_but_the_embedding_of_padding():
    recognizer = small().train()
    targets = recognizer.decoder.encode(["ab", "bbaab"])
    recognizer.decoder.loss(recognizer(images(2), recognizer.decoder.inputs(targets)), targets).backward()
    assert [name for name, parameter in recognizer.named_parameters() if parameter.grad is None or not parameter.grad.isfinite().all()] == []
    for direction in recognizer.decoder.directions:
        assert not direction.embedding.weight[4].any() and not direction.embedding.weight.grad[4].any()
        assert direction.embedding.weight.grad[:2].any(1).all()


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
def test_overfits_eight_words(mixed):
    recognizer = small(Charset.named("36"))

    def known() -> bool:
        """Either direction, both together, and the beam."""
        memory = recognizer.encode(images(8))
        decoded, beams = recognizer.decoder(memory), recognizer.decoder.read_beams(memory)
        backwards = recognizer.decoder.read(Decoded(decoded.branches["right_to_left"], decoded.glimpses)).texts
        return (recognizer.decoder.read(decoded).texts == recognizer.decoder.read(Decoded(decoded.logits, decoded.glimpses)).texts == beams.texts == WORDS
                and backwards == [word[::-1] for word in WORDS])

    learn(recognizer, images(8), WORDS, steps=400, rate=3e-3, mixed=mixed, known=known)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        assert known()


def test_the_papers_initialisation():
    torch.manual_seed(0)
    encoder, decoder = HGAResNet(), HolisticDecoder(HGA_CHARSET, 32, rows=6, bottlenecks=1)
    attention = decoder.directions[1].layers[0].memory_attention
    for layer, fans in ((encoder.layer3[1].conv2, 9 * 256), (encoder.layer4[0].downsample[0], 512), (attention.query, 1024 + 64),
                        (attention.value, 1024 + 64), (attention.output, 1024 + 1024), (decoder.classifier, 1024 + 94)):
        assert layer.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.01)


def test_published_names_there_and_back():
    recognizer = small(layers=2)
    published = HGA.save(recognizer)
    assert {"encoder.layer3.0.downsample.1.running_var", "extract_g.layer.1.conv3.weight", "extract_g.fc.bias", "conv1x1.weight",
            "decoder1.tgt_word_emb.weight", "decoder2.layer_stack.1.enc_attn.w_qs.bias", "decoder2.layer_stack.0.pos_ffn.w_2.weight",
            "decoder1.layer_stack.0.slf_attn.layer_norm.weight", "tgt_word_prj.weight"} < published.keys()
    assert published["conv1x1.weight"].shape == (64, 32, 1, 1)
    assert published["decoder2.layer_stack.1.pos_ffn.w_1.weight"].shape == (128, 64, 1)
    twin = small(layers=2, seed=1)
    table = {"module.decoder1.position_enc.weight": torch.zeros(9, 32)}
    twin.load_state_dict(HGA.load(twin, {f"module.{name}": tensor for name, tensor in published.items()} | table))
    with torch.no_grad():
        assert torch.equal(twin(images(2)).logits, recognizer(images(2)).logits)


def test_tensors_that_do_not_fit_are_named():
    recognizer = small()
    published = HGA.save(recognizer)
    del published["decoder2.layer_stack.0.enc_attn.fc.weight"]
    with pytest.raises(ValueError, match=r"missing: decoder2\.layer_stack\.0\.enc_attn\.fc\.weight; unexpected: extract_g\.extra"):
        HGA.load(recognizer, published | {"extract_g.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="unexpected: decoder2"):
        HGA.load(small(directions=1), HGA.save(recognizer))
    with pytest.raises(ValueError, match=r"conv1x1\.weight \(1, 2\) instead of \(64, 32, 1, 1\)"):
        HGA.load(recognizer, HGA.save(recognizer) | {"conv1x1.weight": torch.zeros(1, 2)})


@pytest.mark.parametrize("overrides", [{}, {"directions": 1}, {"decoder_layers": 2, "max_length": 20}, {"channels": 1}])
def test_a_published_file_tells_which_recognizer_it_is(overrides):
    with torch.device("meta"):
        recognizer = hga(HGA_CHARSET, **overrides)
        state = HGA.save(recognizer) | {"decoder1.position_enc.weight": recognizer.decoder.directions[0].positions()}
    assert HGA.matches(state) and not FOUR_STAGE.matches(state)
    found = HGA.describe(state, None)
    assert (found.name, found.charset, found.overrides) == ("hga", HGA_CHARSET, overrides)


def test_a_published_file_with_other_characters():
    with torch.device("meta"):
        state, foreign = HGA.save(hga(Charset.named("36"))), FOUR_STAGE.save(four_stage(AB))
    assert not HGA.matches(foreign)
    assert HGA.describe(state, None).charset == Charset.named("36")
    assert HGA.describe(state, Charset("abcdefghijklmnopqrstuvwxyz0123456789")).charset.characters[0] == "a"
    with pytest.raises(ValueError, match="expected a charset of 36 characters"):
        HGA.describe(state, AB)
    with pytest.raises(ValueError, match="only HGA has these published names"):
        HGA.save(crnn_tiny(AB))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: hga(AB, height=6), "at least 8x8 for the three poolings, found 6x160"),
    (lambda: HolisticDecoder(AB, rows=2, directions=3), "expected 1 or 2 directions and at least 1 decoder layer, found 3 and 1"),
    (lambda: small().decoder(memories(1).float()[:, :15]), "expected a memory of 2 rows of frames, found 15 frames"),
    (lambda: small().decoder(memories(1).float(), torch.zeros(1, 9, dtype=torch.int64)), "expected at most 8 symbols a row, found 9"),
    (lambda: small().decoder.beam_search(memories(1).float(), 7), "expected a beam of 1 to 6 hypotheses, found 7"),
    (lambda: small().decoder.encode(["a b"]), "found ' ' in 'a b'"),
    (lambda: small().decoder.encode(["abababa"]), "at most 6 characters, found 7"),
])
def test_bad_input_is_answered_with_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_its_beam_search_takes_no_language_model():
    with pytest.raises(ValueError, match="the beam search of HolisticDecoder, in two directions, takes none"):
        beam_reading(small().decoder, torch.empty(0), 3, words=WordModel(lambda texts: [0.0] * len(texts), 0.3))
