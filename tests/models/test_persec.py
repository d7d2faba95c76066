"""PerSec and its parts: what is hidden, how it is quantized, and what it is compared with."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import PerSec, quantizer
from models.objectives.masking import hidden_positions, others_of
from models.objectives.persec import contrast_with
from models.objectives.quantizer import Quantizer, diversity, perplexities
from models.objectives.taps import early_module, tapped
from models.objectives.windowed_attention import WindowedAttention
from models.recognizers import build


@pytest.fixture(scope="module")
def record(parity_data):
    return torch.load(parity_data / "ssl_losses.pt", weights_only=True)["fairseq"]


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- masking --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("case", ["persec_low_32x16", "persec_high_26", "persec_high_96", "w2v_base", "small_8_len3"])
def test_the_share_of_hidden_positions_is_theirs(record, case):
    kept = record["masks"][case]
    shares = [hidden_positions(draw(seed), 4, kept["T"], kept["mask_prob"], kept["mask_length"]).shape[1] / kept["T"] for seed in range(200)]
    error = kept["masked_fraction_std"] * 3 / math.sqrt(200) + 0.02  # their last position is never hidden
    assert np.mean(shares) == pytest.approx(kept["masked_fraction_mean"], abs=error)


def test_spans_stay_whole_or_are_shown_again_and_none_is_hidden_twice():
    hidden = hidden_positions(draw(), 64, 26, 0.15)
    assert hidden.shape[1] in (3, 4) and all(len(set(row)) == len(row) for row in hidden.tolist())
    assert {position for row in hidden.tolist() for position in row} == set(range(26))  # the last one too
    spans = hidden_positions(draw(), 8, 40, 0.3, span=4)
    assert (np.diff(spans, axis=1) > 0).all() and spans.max() < 40


def test_others_are_of_the_same_image_and_never_itself():
    others = others_of(draw(), 3, 5, 400)
    for hidden in range(5):
        assert set(others[:, hidden].flatten().tolist()) == set(range(5)) - {hidden}


# --- quantizer ------------------------------------------------------------------------------------------------------

def recorded(case: dict) -> Quantizer:
    options = case["options"]
    made = Quantizer(options["dim"], options["vq_dim"], codebooks=options["groups"], entries=options["num_vars"])
    with torch.no_grad():
        made.entries.copy_(case["parameters"]["vars"].view_as(made.entries))
        made.logits.weight.copy_(case["parameters"]["weight_proj.weight"])
        made.logits.bias.copy_(case["parameters"]["weight_proj.bias"])
    return made


def test_in_eval_mode_it_takes_their_entries(record):
    case = record["quantizer"]["linear"]
    made, kept = recorded(case).eval(), case["eval"]
    rows = case["input"].flatten(0, 1).clone().requires_grad_()
    found = made(rows)
    torch.testing.assert_close(found.vectors, kept["x"].flatten(0, 1), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.codes, kept["targets"].flatten(0, 1))
    perplexity = perplexities(found.probabilities).sum()
    torch.testing.assert_close(perplexity, kept["prob_perplexity"], rtol=1e-5, atol=1e-5)
    perplexity.backward()
    torch.testing.assert_close(rows.grad, kept["grad_prob_perplexity_input"].flatten(0, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("updates", [0, 100000, 1000000])
def test_in_training_it_is_their_straight_through_gumbel_softmax(record, updates, monkeypatch):
    case = record["quantizer"]["linear"]
    made, kept = recorded(case).train(), case[f"train_update{updates}"]
    made.updates += updates
    assert made.temperature().item() == pytest.approx(kept["temperature"], rel=1e-12)
    monkeypatch.setattr(quantizer, "gumbel_noise", lambda like: kept["gumbel_noise"].view_as(like))
    rows = case["input"].flatten(0, 1).clone().requires_grad_()
    found = made(rows)
    torch.testing.assert_close(found.vectors, kept["x"].flatten(0, 1), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.codes, kept["targets"].flatten(0, 1))
    (found.vectors * case["upstream"].flatten(0, 1)).sum().backward()
    torch.testing.assert_close(rows.grad, kept["grad_input"].flatten(0, 1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made.entries.grad.flatten(), kept["grad"]["vars"].flatten(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made.logits.weight.grad, kept["grad"]["weight_proj.weight"], rtol=1e-4, atol=1e-6)


def test_the_temperature_falls_as_theirs(record):
    made = Quantizer(4, 4)
    for updates, value in zip(record["temperature_schedule"]["updates"], record["temperature_schedule"]["value"], strict=True):
        made.updates.fill_(updates)
        assert made.temperature().item() == pytest.approx(value, rel=1e-12)


def test_the_noise_is_gumbels():
    torch.manual_seed(0)
    noise = quantizer.gumbel_noise(torch.empty(200_000))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01) and noise.var().item() == pytest.approx(math.pi ** 2 / 6, abs=0.03)


def test_diversity_is_largest_where_one_entry_takes_all_and_least_for_uniform_use():
    one = torch.zeros(2, 8, dtype=torch.float64)
    one[:, 3] = 1
    uniform = torch.full((2, 8), 1 / 8, dtype=torch.float64)
    assert diversity(one).item() == pytest.approx(1 - 1 / 8, abs=1e-5) and diversity(uniform).item() == pytest.approx(0, abs=1e-5)
    assert diversity(one, "entropy").item() == pytest.approx(0, abs=1e-5) and diversity(uniform, "entropy").item() == pytest.approx(-1, abs=1e-5)


# --- the contrast ---------------------------------------------------------------------------------------------------

def test_the_contrast_is_theirs(record):
    """Their negatives are given; here they stand behind the own targets. A negative that equals the positive does not count."""
    kept = record["contrastive"]
    guesses, own = kept["x"].clone().requires_grad_(), kept["y"].clone().requires_grad_()
    negatives = kept["negatives"].clone().requires_grad_()  # (5, 3, 6, 4)
    targets = torch.cat([own, negatives.permute(1, 2, 0, 3).flatten(1, 2)], 1)  # (3, 6 + 6 * 5, 4)
    _, codes = targets.detach().flatten(0, 1).unique(dim=0, return_inverse=True)
    others = (6 + torch.arange(30).view(6, 5)).expand(3, -1, -1)
    loss, _ = contrast_with(guesses, targets, codes.view(3, 36, 1), others, kept["temperature"])
    loss.backward()
    torch.testing.assert_close(loss, kept["loss_mean"], rtol=5e-6, atol=5e-6)
    for leaf, name in ((guesses, "grad_x"), (own, "grad_y"), (negatives, "grad_negatives")):
        torch.testing.assert_close(leaf.grad * 18, kept[name], rtol=1e-4, atol=1e-5)  # theirs is of the sum


# --- windows --------------------------------------------------------------------------------------------------------

def test_windowed_attention_is_attention_inside_each_window():
    torch.manual_seed(0)
    layer = WindowedAttention(8, 2, (2, 3)).double()
    nn.init.normal_(layer.places)
    cells = torch.randn(2, 3, 7, 8, dtype=torch.float64)  # two windows down, three across, the last ones not full
    found = layer(cells)
    for image in range(2):
        for row in range(3):
            for column in range(7):
                window = [(r, c) for r in range(row // 2 * 2, min(3, row // 2 * 2 + 2)) for c in range(column // 3 * 3, min(7, column // 3 * 3 + 3))]
                expected = []
                for head in range(2):
                    part = slice(4 * head, 4 * head + 4)
                    query = layer.qkv(cells[image, row, column])[:8][part]
                    keys = [layer.qkv(cells[image, r, c])[8:16][part] for r, c in window]
                    values = [layer.qkv(cells[image, r, c])[16:][part] for r, c in window]
                    scores = torch.stack([query @ key / 2 + layer.places[head, row % 2 - r % 2 + 1, column % 3 - c % 3 + 2]
                                          for key, (r, c) in zip(keys, window, strict=True)])
                    expected.append(sum(share * value for share, value in zip(scores.softmax(0), values, strict=True)))
                torch.testing.assert_close(found[image, row, column], layer.out(torch.cat(expected)))


# --- taps and the whole ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "options", "shape"), [
    ("trba", {}, (8, 25, 256)), ("crnn", {}, (8, 25, 256)), ("crnn_tiny", {}, (8, 25, 32)), ("svtr", {"rectifier": False}, (8, 25, 64)),
    ("vitstr", {"size": "tiny"}, (8, 16, 192)), ("abinet", {"hidden": 64, "width": 64}, (8, 16, 16)), ("hga", {"height": 32, "width": 64}, (8, 16, 128))])
def test_strokes_are_seen_at_a_quarter_of_the_images_rows(name, options, shape):
    recognizer = build(name, Charset.named("36"), **options).eval()
    with tapped(recognizer, early_module(recognizer, None)) as maps, torch.no_grad():
        recognizer.encode(torch.zeros(2, 3, recognizer.height, recognizer.width))
    (found,) = maps
    assert found.shape == (2, *shape)


def test_a_tapped_map_is_what_the_next_module_sees():
    """Behind the ReLU that overwrites a normalisation's result in place, and with its gradient."""
    torch.manual_seed(0)
    recognizer = build("trba", Charset.named("36")).eval()
    seen, module = [], early_module(recognizer, None)
    recognizer.encoder.layer3.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    with tapped(recognizer, module) as maps:
        recognizer.visual(torch.randn(1, 3, 32, 100).clamp(-1, 1))
    torch.testing.assert_close(F.max_pool2d(maps[0].permute(0, 3, 1, 2), 2, stride=(2, 1), padding=(0, 1)), seen[0])
    maps[0].sum().backward()
    assert recognizer.encoder.conv2.weight.grad.abs().sum() > 0 and recognizer.encoder.conv3.weight.grad is None


def objective(**constants) -> PerSec:
    torch.manual_seed(0)
    return PerSec(build("crnn_tiny", Charset.named("36")), **({"entries": 16, "context_width": 32} | constants)).double()


def batch_of(n: int = 6) -> Batch:
    coarse = torch.rand(n, 3, 8, 25, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    view = F.interpolate(coarse, (32, 100), mode="bilinear") * 2 - 1
    return Batch(unlabeled=Part(torch.empty(0), [str(number) for number in range(n)], views=(view,)))


def test_the_loss_is_the_sum_over_both_levels():
    model = objective(diversity_weight=0.3, feature_weight=0.7).train()
    losses = model(batch_of())
    expected = sum(losses.named[f"{level}_contrastive_loss"] + 0.3 * losses.named[f"{level}_diversity_loss"]
                   + 0.7 * losses.named[f"{level}_feature_penalty"] for level in ("stroke", "semantic"))
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-12)


def gradient(model: PerSec) -> Tensor:
    torch.manual_seed(5)
    model.zero_grad()
    model(batch_of()).total.backward()
    return next(model.recognizer.encoder.parameters()).grad.clone()


def test_the_stroke_perceivers_gradient_is_scaled_on_its_way_into_the_encoder():
    """What reaches the encoder is linear in the factor; the perceiver itself gets all of it."""
    nothing, fifth, whole = (gradient(objective(stroke_gradient=factor).eval()) for factor in (0.0, 0.2, 1.0))
    torch.testing.assert_close(fifth, nothing + 0.2 * (whole - nothing))
    assert (whole - nothing).abs().max() > 0


def test_a_hidden_position_does_not_see_itself():
    """Changing the features at the hidden positions changes targets, not guesses."""
    model = objective().eval()
    perceiver = model.semantic
    features = torch.randn(2, 1, 25, 128, dtype=torch.float64)
    hidden = hidden_positions(draw(3), 2, 25, perceiver.probability)
    other = features.clone()
    other[torch.arange(2).unsqueeze(1), 0, torch.from_numpy(hidden)] += torch.randn(2, hidden.shape[1], 128, dtype=torch.float64)
    seen = []
    perceiver.project.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    found = [perceiver(part, draw(3)) for part in (features, other)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(found[0].contrast, found[1].contrast)


def test_the_parts_of_words_are_told_apart_better():
    model = objective(temperature_factor=0.9).float().train()
    batch = batch_of(8)
    batch.unlabeled.views = (batch.unlabeled.views[0].float(),)
    optimizer, losses = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=3e-3), []
    for step in range(1, 91):
        torch.manual_seed(step)
        optimizer.zero_grad()
        found = model(batch)
        found.total.backward()
        optimizer.step()
        model.after_step(step)
        losses.append(found.named["semantic_contrastive_loss"].item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize(("constants", "message"), [
    ({"stroke": "nowhere"}, "expected the name of a module in the encoder of crnn_tiny, found 'nowhere'"), ({"kappa": 0.0}, "kappa above 0, found 0.0"),
    ({"span": 25}, "persec expects a semantic map with more positions than a span of 25 takes, found 25"),
    ({"semantic_probability": 1.5}, "semantic_probability from 0 to 1, found 1.5"), ({"context_width": 30}, "a width that 8 heads divide, found 30"),
])
def test_refuses_constants_that_make_no_sense(constants, message):
    with pytest.raises(ValueError, match=message):
        objective(**constants)


def test_a_module_without_a_map_is_refused():
    with pytest.raises(ValueError, match="persec expects a module with one map as stroke, found patch_embed"):
        PerSec(build("vitstr", Charset.named("36"), size="tiny"), stroke="patch_embed")
