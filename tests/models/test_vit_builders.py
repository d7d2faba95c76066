"""What the builders of ViTSTR, PARSeq and the parseq hub's CRNN make: sizes, initialisation, published names, and what they refuse."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.charset import Charset
from models.decoders import Decoded
from models.decoders.parseq import PARSeqDecoder
from models.decoders.vitstr import ViTSTRDecoder
from models.encoders.vit import ViT
from models.families.four_stage import four_stage
from models.families.hub_crnn import hub_crnn
from models.families.vit import parseq, vitstr
from models.published.four_stage import FOUR_STAGE
from models.published.parseq_hub import HUB_CRNN, PARSEQ, VITSTR

FULL, LETTERS = Charset.named("94"), Charset("abcdef")
PATCH_16 = {"height": 224, "width": 224, "patch": (16, 16)}
TRB = {"rectifier": "tps", "encoder": "resnet", "channels": 3, "width": 128, "tokens": "parseq"}
HUB = [(HUB_CRNN, hub_crnn, {}), (VITSTR, vitstr, {"size": "tiny"}), (PARSEQ, parseq, {"size": "tiny"})]


def images(count, width=128):
    return torch.rand(count, 3, 32, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("builder", "settings", "count"), [
    (vitstr, {"size": "tiny"}, 5_400_671), (vitstr, {"size": "small"}, 21_418_079), (vitstr, {"size": "base"}, 85_303_391),
    (vitstr, {"size": "tiny"} | PATCH_16, 5_542_751), (vitstr, {"size": "small"} | PATCH_16, 21_702_239),
    (vitstr, {"size": "base"} | PATCH_16, 85_871_711), (vitstr, {"size": "tiny", "tokens": "benchmark"}, 5_400_671 + 193),
    (parseq, {"size": "tiny"}, 6_018_143), (parseq, {"size": "base"}, 23_832_671), (parseq, {"size": "large"}, 94_851_167),
    (parseq, PATCH_16, 24_116_831), (hub_crnn, {}, 8_360_927),
    (four_stage, TRB | {"decoder": "attention"}, 49_820_137), (four_stage, TRB | {"decoder": "ctc"}, 48_874_727),
])
def test_parameters(builder, settings, count):
    with torch.device("meta"):
        assert parameters(builder(FULL, **settings)) == count


def test_the_parts_of_parseq():
    with torch.device("meta"):
        recognizer = parseq(FULL, size="tiny")
    decoder = recognizer.decoder
    assert parameters(recognizer.encoder) == 5_381_952
    assert parameters(decoder.layer) + parameters(decoder.norm) == 594_240
    assert (parameters(decoder.classifier), parameters(decoder.embedding)) == (18_335, 18_624)
    tokens = decoder.tokens
    assert (tokens.classes, tokens.symbols, tokens.end, tokens.start, tokens.pad) == (95, 97, 0, 95, 96)
    assert (recognizer.encoder.blocks[0].attn.heads, decoder.layer.self_attn.heads) == (3, 6)


def test_the_crnn_of_the_hub_has_33_frames():
    with FakeTensorMode():
        recognizer = hub_crnn(FULL)
        assert recognizer.encode(torch.empty(2, 3, 32, 128)).shape == (2, 33, 512)
        assert recognizer.encode(torch.empty(2, 3, 32, 100)).shape == (2, 26, 512)
        assert recognizer(torch.empty(2, 3, 32, 128)).logits.shape == (2, 33, 95)


@pytest.mark.usefixtures("float64")
def test_narrow_images_use_the_left_of_the_position_table():
    encoder = ViT(width=32, heads=2, depth=1).eval()
    narrow = encoder(images(2, width=64))
    assert narrow.shape == (2, 1 + 8 * 8, 32)
    twin = ViT(image=(32, 64), width=32, heads=2, depth=1).eval()
    state = encoder.state_dict()
    table = state["pos_embed"]
    state["pos_embed"] = torch.cat([table[:, :1], table[:, 1:].view(1, 8, 16, 32)[:, :, :8].reshape(1, 64, 32)], 1)
    twin.load_state_dict(state)
    torch.testing.assert_close(twin(images(2, width=64)), narrow)


def test_initialisation():
    torch.manual_seed(0)
    recognizer = parseq(FULL, size="tiny")
    encoder, decoder = recognizer.encoder, recognizer.decoder
    for weight in (encoder.blocks[3].mlp.fc1.weight, encoder.pos_embed, decoder.layer.linear1.weight, decoder.embedding.weight,
                   decoder.pos_queries, decoder.classifier.weight, decoder.layer.cross_attn.out_proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    xavier = (6 / (192 + 3 * 192))**0.5  # uniform
    assert decoder.layer.self_attn.in_proj_weight.abs().max().item() == pytest.approx(xavier, rel=0.01)
    biases = {name: parameter for name, parameter in recognizer.named_parameters() if name.endswith("bias")}
    assert [name for name, bias in biases.items() if bias.any()] == ["encoder.patch_embed.proj.bias"]
    crnn = hub_crnn(FULL)
    assert crnn.encoder.conv5.weight.std().item() == pytest.approx((2 / (9 * 512))**0.5, rel=0.05)
    assert not crnn.encoder.conv5.bias.any() and crnn.sequence[0].rnn.bias_hh_l0.any()


def test_targets_are_as_wide_as_the_longest_label():
    decoder = PARSeqDecoder(LETTERS, 12, max_length=6)
    assert decoder.encode(["ab", "", "cba"]).tolist() == [[7, 1, 2, 0, 8], [7, 0, 8, 8, 8], [7, 3, 2, 1, 0]]
    assert decoder.encode([""]).tolist() == [[7, 0]]
    assert decoder.encode([]).shape == (0, 2)


def test_vitstr_targets_and_loss():
    decoder = ViTSTRDecoder(LETTERS, 4, max_length=3)
    targets = decoder.encode(["ab", ""])
    assert targets.tolist() == [[7, 1, 2, 0, 8], [7, 0, 8, 8, 8]]
    assert decoder.inputs(targets) is None
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    log = logits.log_softmax(2)
    written = [log[0, 0, 1], log[0, 1, 2], log[0, 2, 0], log[1, 0, 0]]
    torch.testing.assert_close(decoder.loss(Decoded(logits, logits), targets), -torch.stack(written).mean())
    assert ViTSTRDecoder(LETTERS, 4, max_length=3, table="benchmark").encode(["ab"]).tolist() == [[0, 2, 3, 1, 0]]


@pytest.mark.parametrize(("layout", "builder", "settings"), HUB, ids=["crnn", "vitstr", "parseq"])
def test_published_there_and_back(layout, builder, settings):
    recognizer = builder(FULL, **settings)
    published = layout.save(recognizer)
    state = layout.load(recognizer, {"module.model." + name: tensor for name, tensor in published.items()})
    assert all(torch.equal(tensor, state[name]) for name, tensor in recognizer.state_dict().items())
    assert [other.source for other in (FOUR_STAGE, HUB_CRNN, VITSTR, PARSEQ) if other.matches(published)] == [layout.source]
    missing = next(name for name in published if name.endswith("weight"))
    with pytest.raises(ValueError, match=f"missing: {missing}; unexpected: extra.weight"):
        layout.load(recognizer, {name: tensor for name, tensor in published.items() if name != missing} | {"extra.weight": torch.zeros(1)})


@pytest.mark.parametrize(("layout", "builder", "settings"), [
    *HUB, (HUB_CRNN, hub_crnn, {"channels": 1}), (VITSTR, vitstr, {}), (PARSEQ, parseq, {}), (PARSEQ, parseq, {"max_length": 30}),
    (VITSTR, vitstr, {"size": "tiny", "channels": 1, "tokens": "benchmark"} | PATCH_16), (PARSEQ, parseq, {"size": "large"} | PATCH_16)])
@pytest.mark.parametrize("charset", [FULL, Charset.named("36"), LETTERS])
def test_a_published_file_tells_what_it_is(layout, builder, settings, charset):
    with torch.device("meta"):
        recognizer = builder(charset, **settings)
    described = layout.describe(layout.save(recognizer), charset if charset is LETTERS else None)
    assert (described.name, described.charset, described.overrides) == (builder.__name__, charset, settings)


def test_published_names():
    with torch.device("meta"):
        assert {"cnn.conv0.bias", "cnn.batchnorm6.running_var", "rnn.0.rnn.weight_ih_l0_reverse", "rnn.0.linear.bias",
                "rnn.1.rnn.bias_hh_l0", "rnn.1.linear.weight"} < HUB_CRNN.save(hub_crnn(FULL)).keys()
        assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.11.norm1.weight", "blocks.0.attn.qkv.bias",
                "blocks.0.attn.proj.weight", "blocks.0.mlp.fc2.weight", "norm.bias", "head.weight"} < VITSTR.save(vitstr(FULL)).keys()
        assert {"encoder.pos_embed", "encoder.norm.weight", "text_embed.embedding.weight", "pos_queries", "decoder.norm.weight",
                "decoder.layers.0.self_attn.in_proj_weight", "decoder.layers.0.cross_attn.out_proj.bias", "decoder.layers.0.norm_q.weight",
                "decoder.layers.0.linear2.weight", "head.bias"} < PARSEQ.save(parseq(FULL)).keys()
        with pytest.raises(ValueError, match="parseq hub with a ViTSTRDecoder, found PARSeqDecoder"):
            VITSTR.save(parseq(FULL))


@pytest.mark.parametrize(("attempt", "message"), [
    (lambda: vitstr(FULL, size="huge"), r"expected a size \(tiny, small, base\), found 'huge'"),
    (lambda: vitstr(FULL, width=100), "patches of 4x8 tile, found 32x100"),
    (lambda: vitstr(FULL, size="tiny", height=32, width=64, patch=(16, 16)), "at least 27 tokens to write 25 characters, found 9"),
    (lambda: vitstr(FULL, size="tiny", tokens="fewer_labels"), "the token table parseq or benchmark, found 'fewer_labels'"),
    (lambda: parseq(FULL, size="tiny", permutations=5), "1 permutation or an even number, found 5"),
    (lambda: parseq(FULL, size="tiny", decode="beam"), "autoregressive or one_shot, found 'beam'"),
    (lambda: parseq(FULL, size="tiny", refinements=-1), "refinements from 0, found -1"),
    (lambda: parseq(FULL, size="tiny")(images(1, width=100)), "a width in steps of 8 up to 128, found 32x100"),
    (lambda: parseq(FULL, size="tiny")(images(1, width=136)), "up to 128, found 32x136"),
    (lambda: PARSeqDecoder(LETTERS, 12)(torch.zeros(1, 4, 12), torch.zeros(1, 27).long()), "1 to 26 symbols to feed, found 27"),
    (lambda: ViTSTRDecoder(LETTERS, 12)(torch.zeros(1, 26, 12)), "at least 27 tokens"),
    (lambda: PARSeqDecoder(LETTERS, 12, max_length=3).encode(["abca"]), "at most 3 characters, found 4"),
    (lambda: ViTSTRDecoder(LETTERS, 12).encode(["xyz"]), "found 'xyz' in 'xyz'"),
])
def test_what_does_not_fit_is_refused(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()
