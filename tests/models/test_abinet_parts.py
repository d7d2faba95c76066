"""ABINet's layers, beside plain versions of them: its encoder, both vision heads, its language model."""

import math

import pytest
import torch
from torch import nn

from models.decoders.language import LanguageModel
from models.decoders.position import PlainAttention, PositionAttention
from models.encoders.resnet45 import ResNet45
from models.encoders.transformer import AttentionLayer, MapEncoder, MultiHeadAttention, sinusoids
from models.families.abinet import ImageNetNormalisation

pytestmark = pytest.mark.usefixtures("float64")


def test_positions_are_sines_and_cosines():
    table = sinusoids(26, 512)
    for position, place in [(0, 0), (1, 0), (7, 10), (25, 510)]:
        angle = position / 10000 ** (place / 512)
        assert table[position, place:place + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-14)


def test_attention_and_layer_agree_with_torchs_own():
    torch.manual_seed(0)
    ours, theirs = AttentionLayer(16, 4, 32).eval(), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    taken, given = ours.attention.input_projection, ours.attention.output_projection
    theirs.self_attn.load_state_dict({"in_proj_weight": taken.weight, "in_proj_bias": taken.bias,
                                      "out_proj.weight": given.weight, "out_proj.bias": given.bias})
    theirs.linear1, theirs.linear2 = ours.feed_forward[0], ours.feed_forward[3]
    queries, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    visible = torch.rand(2, 1, 5, 7) < 0.7
    visible[..., 0] = True
    expected = theirs.self_attn(queries, memory, memory, attn_mask=~visible.repeat_interleave(4, 1).flatten(0, 1))[0]
    torch.testing.assert_close(ours.attention(queries, memory, visible), expected)
    torch.testing.assert_close(ours(memory, memory), theirs(memory))
    torch.testing.assert_close(ours.attention(queries[:1], memory), ours.attention(queries[:1].expand(2, -1, -1), memory))


def test_frames_are_the_maps_cells_row_by_row_and_keep_their_positions():
    encoder, features = MapEncoder(16, 8, 32, layers=0).eval(), torch.randn(2, 16, 8, 25)
    frames, table = encoder(features), sinusoids(256, 16)
    torch.testing.assert_close(frames[:, 3 * 25 + 7], features[:, :, 3, 7] + table[3 * 32 + 7])
    with pytest.raises(ValueError, match="8 rows and at most 32 columns, found 8 and 33"):
        encoder(torch.randn(1, 16, 8, 33))


def test_the_resnets_maps_and_initialisation():
    torch.manual_seed(0)
    resnet = ResNet45(3)
    assert [len(stage) for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4, resnet.layer5)] == [3, 4, 6, 6, 3]
    kernel = resnet.layer5[1].conv2.weight
    assert kernel.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    with torch.device("meta"):
        assert ResNet45(3)(torch.empty(1, 3, 32, 100)).shape == (1, 512, 8, 25)
        strides = ((2, 2), (2, 2), (2, 1), (2, 1), (2, 1))
        assert ResNet45(3, strides=strides)(torch.empty(1, 3, 32, 100)).shape == (1, 512, 1, 25)


def test_imagenets_normalisation():
    pixels = torch.rand(2, 3, 4, 4)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(ImageNetNormalisation()(pixels * 2 - 1), (pixels - mean) / deviation)


def test_position_attention_of_the_large_model():
    torch.manual_seed(0)
    attention = PositionAttention(16, 8, 5).eval()
    memory = torch.randn(2, 256, 16)
    glimpses, weights = attention(memory)
    encoded, skips = memory.transpose(1, 2).view(2, 16, 8, 32), []
    for convolution in attention.down:
        encoded = convolution(encoded)
        skips.append(encoded)
    assert [tuple(skip.shape[2:]) for skip in skips] == [(8, 16), (4, 8), (2, 4), (1, 2)]
    for convolution, skip in zip(attention.up, [*skips[2::-1], None]):
        encoded = convolution(nn.Upsample(scale_factor=2 if skip is not None else (1, 2))(encoded))
        encoded = encoded if skip is None else encoded + skip
    queries = sinusoids(5, 16) @ attention.project.weight.t() + attention.project.bias
    expected = (torch.einsum("sc,ncrw->nsrw", queries, encoded) / 4).flatten(2).softmax(2)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(glimpses, torch.einsum("nsf,nfc->nsc", weights, memory))


def test_plain_attention_of_the_small_model():
    torch.manual_seed(0)
    attention, memory = PlainAttention(6, 4, 3), torch.randn(2, 4, 6)
    glimpses, weights = attention(memory)
    for image in range(2):
        scores = torch.empty(4, 3)
        for frame in range(4):
            mixed = sum(attention.mix.weight[frame, step] * attention.queries.weight[step] for step in range(3)) + attention.mix.bias[frame]
            hidden = torch.tanh(mixed + attention.key.weight @ memory[image, frame] + attention.key.bias)
            scores[frame] = attention.score.weight @ hidden + attention.score.bias
        torch.testing.assert_close(weights[image], scores.softmax(0).t())
        torch.testing.assert_close(glimpses[image], scores.softmax(0).t() @ memory[image])


@pytest.fixture(scope="module")
def language():
    torch.manual_seed(0)
    return LanguageModel(37, 32, steps=26, layers=3, feed_forward=64).double().eval()


def test_no_place_sees_its_own_character_or_what_is_behind_the_word(language):
    words = torch.randn(1, 26, 37).softmax(2)
    lengths = torch.tensor([9])
    features, _ = language(words, lengths)
    for changed in (0, 4, 8):
        other = words.clone()
        other[:, changed] = words[:, changed].flip(1)
        differs = (language(other, lengths)[0] - features).abs().amax(2)[0] > 1e-12
        assert differs.tolist() == [place != changed for place in range(26)]
    beyond = words.clone()
    beyond[:, 9:] = 1 / 37
    assert torch.equal(language(beyond, lengths)[0], features)


def test_no_gradient_flows_back_into_what_the_language_model_reads(language):
    words = torch.randn(2, 26, 37, requires_grad=True)
    language(words.softmax(2), torch.tensor([3, 26]))[1].sum().backward()
    assert words.grad is None and language.embedding.weight.grad.any()


def test_a_language_model_refuses_other_shapes(language):
    with pytest.raises(ValueError, match=r"probabilities of shape \(n, 26, 37\), found \(2, 25, 37\)"):
        language(torch.zeros(2, 25, 37), torch.tensor([3, 4]))


def test_sizes_that_are_refused():
    with pytest.raises(ValueError, match="8 heads divide, found 20"):
        MultiHeadAttention(20, 8)
    with pytest.raises(ValueError, match="even width"):
        sinusoids(3, 5)
