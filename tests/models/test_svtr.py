"""SVTR: its sizes, the window of its local blocks, dropped paths, the rectifier it shares with ASTER, and MMOCR's names."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from learning import learn
from models.charset import Charset
from models.decoders.ctc import CTCDecoder
from models.encoders.stn import SpatialTransformer
from models.encoders.svtr import SVTR, DropPath, Size, Stage, neighbours
from models.families.svtr import SIZES, initialise, svtr
from models.published.svtr import PUBLISHED_SVTR, UNKNOWN
from models.recognizer import Recognizer
from models.recognizers import build

CHARSET = Charset.named("36")
WORDS = ["hello", "42", "textray", "a", "ooze", "1984", "svtr", "zz"]
SMALL = Size(widths=(32, 48, 64), depths=(1, 2, 1), heads=(2, 2, 4), local_blocks=2, out_width=64)


@pytest.fixture(scope="module")
def tiny():
    """SVTR-T with its rectifier, in eval mode; a test that changes it must change it back."""
    torch.manual_seed(0)
    return svtr(CHARSET).eval()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small(height=16, width=64):
    """A recognizer like those of the family, but small enough to be trained here."""
    torch.manual_seed(0)
    recognizer = Recognizer(CHARSET, None, SVTR(3, height, width, SMALL), nn.Identity(), CTCDecoder(CHARSET, SMALL.out_width),
                            channels=3, height=height, width=width, max_length=25)
    initialise(recognizer)
    return recognizer


@pytest.mark.parametrize(("size", "encoder", "whole"), [
    ("tiny", 4_160_608, 6_021_710), ("small", 8_464_784, 10_325_886), ("base", 22_721_472, 24_585_006), ("large", 38_897_056, 40_765_454),
])
def test_parameters_of_the_four_sizes(size, encoder, whole):
    with torch.device("meta"):
        recognizer = svtr(Charset(CHARSET.characters + UNKNOWN), size=size)  # 38 classes, as published
        without = svtr(CHARSET, size=size, rectifier=False)  # 37
    assert (parameters(recognizer.encoder), parameters(recognizer.rectifier), parameters(recognizer)) == (encoder, 1_853_768, whole)
    assert parameters(without) == whole - 1_853_768 - (SIZES[size].out_width + 1)


@pytest.mark.parametrize(("size", "images", "frames"), [
    ({"size": "tiny"}, (64, 256), 25), ({"size": "large"}, (64, 256), 40), ({"size": "base", "rectifier": False}, (48, 160), 40),
    ({"size": "small", "rectifier": False, "width": 320}, (32, 320), 80),
    ({"size": "tiny", "rectifier": False, "height": 20}, (20, 100), 25),
])
def test_one_frame_for_every_four_columns(size, images, frames):
    with FakeTensorMode():
        recognizer = svtr(CHARSET, **size)
        assert (recognizer.height, recognizer.width) == images
        assert recognizer.encode(torch.empty(2, 3, *images)).shape == (2, frames, SIZES[size["size"]].out_width)


@pytest.mark.parametrize("size", SIZES)
def test_first_the_local_blocks_then_the_global_ones(size):
    with torch.device("meta"):
        stages = svtr(CHARSET, size=size, rectifier=False).encoder.stages
    local = [number < stage.local_blocks for stage in stages for number in range(len(stage.blocks))]
    assert local == [True] * SIZES[size].local_blocks + [False] * (sum(SIZES[size].depths) - SIZES[size].local_blocks)


def test_the_window_is_7_rows_by_11_columns_around_each_token():
    rows, columns = 9, 14
    seen = neighbours(rows, columns).view(rows, columns, rows, columns)
    for row, column in [(0, 0), (4, 7), (8, 13), (2, 5)]:
        near = [(r, c) for r in range(rows) for c in range(columns) if abs(r - row) <= 3 and abs(c - column) <= 5]
        assert seen[row, column].nonzero().tolist() == [list(place) for place in near]
    assert seen[4, 7].sum() == 7 * 11 and seen[0, 0].sum() == 4 * 6


@pytest.mark.parametrize(("local_blocks", "touched"), [(1, 4 * 6), (0, 9 * 14)])
def test_a_change_reaches_as_far_as_a_block_sees(local_blocks, touched):
    torch.manual_seed(0)
    stage = Stage(16, 2, 9, 14, local_blocks=local_blocks, drop_paths=[0.0])
    tokens = noise(1, 9 * 14, 16)
    changed = tokens.clone()
    changed[0, 0] = 1 - changed[0, 0]  # the corner, which the 4 x 6 tokens next to it see
    difference = (stage(changed) - stage(tokens)).abs().amax(2)
    assert (difference > 0).sum() == touched


def plain_norm(tokens, state, name, eps):
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def plain_linear(tokens, state, name):
    return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def plain_attention(tokens, state, name, heads, local):
    """One query after the other over a (rows, columns, width) grid."""
    rows, columns, width = tokens.shape
    query, key, value = plain_linear(tokens, state, f"{name}.qkv").view(rows, columns, 3, heads, width // heads).unbind(2)
    mixed = torch.empty(rows, columns, heads, width // heads, dtype=tokens.dtype)
    for row in range(rows):
        for column in range(columns):
            seen = (slice(max(0, row - 3), row + 4), slice(max(0, column - 5), column + 6)) if local else (slice(None), slice(None))
            weights = torch.einsum("hd,rchd->rch", query[row, column], key[seen]).div(math.sqrt(width // heads)).exp()
            mixed[row, column] = torch.einsum("rch,rchd->hd", weights, value[seen]) / weights.sum((0, 1)).unsqueeze(1)
    return plain_linear(mixed.flatten(2), state, f"{name}.out")


def plain_encoder(state, image, size):
    """(channels, height, width) float64 -> (columns, out_width), in eval mode."""
    grid = image[None]
    for number in (0, 3):
        grid = F.conv2d(grid, state[f"patches.{number}.weight"], stride=2, padding=1)
        norm = {part: state[f"patches.{number + 1}.{part}"].view(-1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")}
        grid = F.gelu((grid - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"])
    tokens = grid[0].permute(1, 2, 0)
    tokens = tokens + state["positions"][0].view_as(tokens)
    number = 0
    for stage, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
        if stage:
            merging = f"mergings.{stage - 1}"
            grid = F.conv2d(tokens.permute(2, 0, 1)[None], state[f"{merging}.convolution.weight"], state[f"{merging}.convolution.bias"],
                            stride=(2, 1), padding=1)
            tokens = plain_norm(grid[0].permute(1, 2, 0), state, f"{merging}.norm", 1e-5)
        for block in (f"stages.{stage}.blocks.{block}" for block in range(depth)):
            normed = plain_norm(tokens, state, f"{block}.mixing_norm", 1e-6)
            tokens = tokens + plain_attention(normed, state, f"{block}.mixing", heads, local=number < size.local_blocks)
            hidden = F.gelu(plain_linear(plain_norm(tokens, state, f"{block}.perceptron_norm", 1e-6), state, f"{block}.perceptron.0"))
            tokens = tokens + plain_linear(hidden, state, f"{block}.perceptron.2")
            number += 1
    row = plain_norm(tokens, state, "norm", 1e-6).mean(0)  # (columns, width)
    combined = row @ state["combine.weight"][:, :, 0, 0].T
    return combined * (combined + 3).clamp(0, 6) / 6


def test_the_encoder_is_what_a_slow_one_computes():
    torch.manual_seed(0)
    encoder = SVTR(3, 40, 64, SMALL).double().eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    for part in (encoder.patches[1], encoder.patches[4]):
        part.running_mean.normal_()
        part.running_var.uniform_(0.5, 2)
    image = noise(1, 3, 40, 64).double()  # 10, 5, then 3 rows of tokens
    with torch.no_grad():
        torch.testing.assert_close(encoder(image)[0], plain_encoder(encoder.state_dict(), image[0], SMALL))


def test_a_dropped_path_is_dropped_for_a_whole_sample_and_scaled_up_for_the_others():
    torch.manual_seed(0)
    branch = torch.ones(4000, 2, 3)
    dropped = DropPath(0.25).train()(branch)
    assert (dropped == dropped[:, :1, :1]).all()  # one draw for each sample
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert DropPath(0.25).eval()(branch) is branch and DropPath(0.0).train()(branch) is branch


@pytest.mark.parametrize("size", SIZES)
def test_paths_are_dropped_more_often_the_later_their_block(size):
    with torch.device("meta"):
        rates = [block.drop_path.rate for stage in svtr(CHARSET, size=size, rectifier=False).encoder.stages for block in stage.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.1, sum(SIZES[size].depths)).tolist())


def ramps(height=24, width=80):
    """An image whose three channels are x, y and 1, in [0, 1]: what is sampled from it says where."""
    x, y = torch.linspace(0, 1, width).expand(height, -1), torch.linspace(0, 1, height)[:, None].expand(-1, width)
    return torch.stack([x, y, torch.ones(height, width)])[None]


def base_points():
    """Ten along the top edge, then ten along the bottom edge, 5 % inside."""
    x = [0.05 + 0.9 * i / 9 for i in range(10)]
    return torch.tensor([[each, 0.05] for each in x] + [[each, 0.95] for each in x])


def rectifier_with(points, height=8, width=20):
    """A rectifier that places these points on every image."""
    torch.manual_seed(0)
    rectifier = SpatialTransformer(3, height, width).eval()
    with torch.no_grad():
        rectifier.localization_points.bias.copy_(points.flatten())
    return rectifier


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_points_on_the_base_points_change_nothing():
    image = noise(2, 3, 8, 20)
    torch.testing.assert_close(rectifier_with(base_points())(image), image, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_an_affine_map_of_the_points_is_one_of_the_image_and_places_outside_show_the_edge():
    matrix, shift = torch.tensor([[0.8, 0.1], [-0.2, 0.7]]), torch.tensor([0.35, 0.05])
    found = rectifier_with(base_points() @ matrix.T + shift)(ramps())
    wanted = torch.einsum("pq,nqhw->nphw", matrix, ramps(8, 20)[:, :2]) + shift[:, None, None]
    assert wanted.max() > 1 and wanted.min() < 0
    torch.testing.assert_close(found, torch.cat([wanted.clamp(0, 1), torch.ones(1, 1, 8, 20)], 1), atol=1e-12, rtol=0)


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_an_untrained_rectifier_shows_the_whole_image_with_its_edges_drawn_out():
    torch.manual_seed(0)
    rectifier = SpatialTransformer(3, 8, 20).eval()
    assert torch.equal(rectifier.points(noise(1, 3, 24, 80)), rectifier.points(noise(1, 3, 30, 90, seed=1)))
    wanted = ((ramps(8, 20) - 0.5) * 0.98 / 0.9 + 0.5).clamp(0, 1)  # points 1 % inside stand for base points 5 % inside
    torch.testing.assert_close(rectifier(ramps())[:, :2], wanted[:, :2], atol=1e-12, rtol=0)


def bend(r_squared):
    return 0.5 * r_squared * math.log(r_squared) if r_squared else 0.0


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_the_spline_is_what_a_slow_one_computes():
    base = base_points()
    points = base + 0.04 * noise(20, 2)
    square = [[bend((a - b).square().sum().item()) for b in base] for a in base]
    straight = torch.cat([torch.ones(20, 1), base], 1)
    system = torch.cat([torch.cat([torch.tensor(square), straight], 1), torch.cat([straight.T, torch.zeros(3, 3)], 1)])
    coefficients = torch.linalg.solve(system, torch.cat([points, torch.zeros(3, 2)]))
    wanted = torch.empty(2, 8, 20)
    for row in range(8):
        for column in range(20):
            place = torch.tensor([column / 19, row / 7])
            terms = [*(bend((place - b).square().sum().item()) for b in base), 1.0, *place.tolist()]
            wanted[:, row, column] = (torch.tensor(terms) @ coefficients).clamp(0, 1)
    torch.testing.assert_close(rectifier_with(points)(ramps())[0, :2], wanted, atol=1e-12, rtol=0)


def test_a_single_image_can_be_trained_on():
    torch.manual_seed(0)
    rectifier = SpatialTransformer().train()
    nn.init.normal_(rectifier.localization_points.weight, std=0.01)
    (rectifier(noise(1, 3, 32, 100)) * noise(1, 3, 32, 100, seed=1)).sum().backward()
    assert rectifier.localization[0].weight.grad.abs().sum() > 0
    assert rectifier.localization_norm.num_batches_tracked == 0


def test_the_papers_initialisation(tiny):
    deviations = {name: parameter.std().item() for name, parameter in tiny.named_parameters()}
    assert deviations["encoder.stages.2.blocks.0.perceptron.0.weight"] == pytest.approx(0.02, rel=0.01)
    assert deviations["encoder.positions"] == pytest.approx(0.02, rel=0.02)
    assert deviations["encoder.mergings.1.convolution.weight"] == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)  # 3 x 3 to 256 channels
    assert deviations["encoder.combine.weight"] == pytest.approx(math.sqrt(2 / 192), rel=0.02)
    assert deviations["rectifier.localization_points.weight"] == deviations["encoder.stages.0.blocks.0.mixing.qkv.bias"] == 0


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_seven_images_read_the_same_together_and_alone(tiny):
    tiny, images = copy.deepcopy(tiny).double(), noise(7, 3, 64, 256)
    together = tiny(images).logits
    torch.testing.assert_close(together, torch.cat([tiny(image[None]).logits for image in images]), atol=1e-10, rtol=0)
    assert torch.equal(together, tiny(images).logits)


def test_a_training_step_never_waits_for_the_device_and_the_rectifier_takes_images_of_any_width():
    """Fake tensors have no values: whatever would have to fetch one from the device fails."""
    with FakeTensorMode():
        recognizer = svtr(CHARSET).train()
        for width in (256, 90):
            assert recognizer(torch.empty(2, 3, 64, width)).logits.shape == (2, 25, 37)


def test_it_learns_in_mixed_precision():
    recognizer, images = small(), noise(8, 3, 16, 64)
    learn(recognizer, images, WORDS, steps=300, rate=2e-3, mixed=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert recognizer.read(images).texts == WORDS


def test_every_parameter_gets_a_finite_gradient_in_mixed_precision():
    recognizer = svtr(CHARSET).train()
    nn.init.normal_(recognizer.rectifier.localization_points.weight, std=0.01)
    targets = recognizer.decoder.encode(WORDS[:2])
    with torch.autocast("cpu", torch.bfloat16):
        recognizer.decoder.loss(recognizer(noise(2, 3, 64, 256)), targets).backward()
    gradients = {name: parameter.grad for name, parameter in recognizer.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_another_size_than_the_positions_were_learned_for_is_refused():
    with pytest.raises(ValueError, match="expected images of 16 x 64, for which this SVTR has learned its positions, found 16 x 128"):
        small()(noise(1, 3, 16, 128))


@pytest.mark.parametrize(("options", "message"), [
    ({"width": 98}, "multiples of 4, found 32 x 98: take 32 x 96"),
    ({"height": 0}, "multiples of 4, found 0 x 100: take 4 x 100"),
    ({"size": "huge"}, r"size of SVTR \(tiny, small, base, large\), found 'huge'"),
])
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        svtr(CHARSET, rectifier=False, **options)


@pytest.fixture(scope="module")
def published():
    """The state dict of a file with 38 classes, as MMOCR writes it, and the recognizer whose weights it holds."""
    torch.manual_seed(1)
    recognizer = svtr(Charset(CHARSET.characters + UNKNOWN)).eval()
    return recognizer, PUBLISHED_SVTR.save(recognizer)


def test_published_names(published):
    _, state = published
    assert {"preprocessor.stn_convnet.10.bn.running_var", "preprocessor.stn_fc1.1.weight", "preprocessor.stn_fc2.bias",
            "encoder.patch_embed.net.ConvModule1.conv.weight", "encoder.absolute_pos_embed", "encoder.blocks2.5.mixer.qkv.bias",
            "encoder.blocks3.2.mlp.fc2.weight", "encoder.downsample2.conv.bias", "encoder.downsample1.norm.weight",
            "encoder.layer_norm.weight", "encoder.last_conv.weight", "decoder.decoder.weight"} < state.keys()
    assert PUBLISHED_SVTR.matches(state)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_there_and_back_with_and_without_module_and_tables(published, wrapper):
    recognizer, state = published
    tables = {"preprocessor.tps.inverse_kernel": torch.zeros(23, 23), "encoder.blocks1.0.mixer.mask": torch.zeros(1, 1, 200, 200)}
    loaded = PUBLISHED_SVTR.load(recognizer, {wrapper + name: tensor for name, tensor in (state | tables).items()})
    assert loaded.keys() == recognizer.state_dict().keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in recognizer.state_dict().items())


def test_classes_and_colours_are_put_in_our_order(published):
    recognizer, state = published
    loaded = PUBLISHED_SVTR.load(recognizer, state | {"decoder.decoder.bias": torch.arange(38.0)})
    # There: 0 … z, blank, unknown. Here: blank, 0 … z, unknown.
    assert loaded["decoder.classifier.bias"].tolist() == [36, *range(36), 37]
    first = state["encoder.patch_embed.net.ConvModule0.conv.weight"]  # sees blue, green, red
    assert torch.equal(loaded["encoder.patches.0.weight"], first[:, [2, 1, 0]])


def test_a_missing_and_an_unexpected_tensor_are_named(published):
    recognizer, state = published
    spoiled = state | {"encoder.blocks4.0.norm1.bias": torch.zeros(1)}
    del spoiled["encoder.layer_norm.bias"]
    with pytest.raises(ValueError, match="missing: encoder.layer_norm.bias; unexpected: encoder.blocks4.0.norm1.bias"):
        PUBLISHED_SVTR.load(recognizer, spoiled)


@pytest.mark.parametrize(("options", "charset", "overrides"), [
    ({}, CHARSET.characters + UNKNOWN, {}),
    ({"size": "small"}, CHARSET.characters, {"size": "small"}),
    ({"rectifier": False, "channels": 1, "width": 128}, CHARSET.characters, {"rectifier": False, "channels": 1, "width": 128}),
    ({"size": "large", "rectifier": False}, Charset.named("62").characters + UNKNOWN, {"size": "large", "rectifier": False}),
])
def test_a_file_says_what_it_is(options, charset, overrides):
    with torch.device("meta"):
        recognizer = svtr(Charset(charset), **options)
        state = {PUBLISHED_SVTR.published_name(recognizer, name): tensor for name, tensor in recognizer.state_dict().items()}
    description = PUBLISHED_SVTR.describe(state, None)
    assert (description.name, description.charset.characters, description.overrides) == ("svtr", charset, overrides)
    assert PUBLISHED_SVTR.describe(state, Charset(charset)).charset.characters == charset


def test_characters_that_a_file_does_not_have_are_refused(published):
    _, state = published
    assert PUBLISHED_SVTR.describe(state, CHARSET).charset.characters == CHARSET.characters + UNKNOWN
    with pytest.raises(ValueError, match="expected a charset of 37 characters for these weights, found 3"):
        PUBLISHED_SVTR.describe(state, Charset("abc"))
    with pytest.raises(ValueError, match="expected an SVTR, found crnn_tiny"):
        PUBLISHED_SVTR.save(build("crnn_tiny", CHARSET))
