"""MAE and DiG: what is hidden, what is asked for, and what is compared, against plain re-implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import MAE, DiG
from models.objectives.patches import drawn_order, hidden_in, images_of, patches_of, sinusoidal_map
from models.recognizers import build

SMALL = {"projection_width": 16, "hidden_width": 32, "pixel_width": 16}


def recognizer(name: str = "vitstr"):
    torch.manual_seed(0)
    return build(name, Charset.named("36"), size="tiny", patch=[8, 16]).double()  # 4 x 8 patches


def images(n: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(n, 3, 8, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(coarse, (32, 128), mode="bilinear") * 2 - 1


def batch_of(*views: Tensor) -> Batch:
    return Batch(unlabeled=Part(torch.empty(0), ["x"] * len(views[0]), views=views))


# --- patches --------------------------------------------------------------------------------------------------------

def test_patches_are_cut_row_by_row_and_put_together_again():
    picture = torch.arange(2 * 3 * 8 * 6).view(2, 3, 8, 6)
    cut = patches_of(picture, (4, 3))
    assert cut.shape == (2, 4, 12, 3)
    assert torch.equal(cut[1, 1, :, 2].view(4, 3), picture[1, 2, :4, 3:])  # the upper right one
    assert torch.equal(cut[1, 2, :, 0].view(4, 3), picture[1, 0, 4:, :3])  # the lower left one
    assert torch.equal(images_of(cut, (4, 3), rows=2), picture)


def test_hidden_are_the_last_of_each_order():
    torch.manual_seed(0)
    order = drawn_order(50, 12, torch.device("cpu"))
    hidden = hidden_in(order, 5)
    assert (hidden.sum(1) == 5).all()
    for row, mask in zip(order.tolist(), hidden.tolist(), strict=True):
        assert sorted(row) == list(range(12)) and {place for place, is_hidden in enumerate(mask) if is_hidden} == set(row[7:])
    assert hidden.double().mean(0).min() > 0.2  # every place has its turn


def test_places_of_a_map_are_sines_and_cosines_of_column_and_row():
    table = sinusoidal_map(3, 5, 8)
    row, column = 2, 3
    expected = [part(place / 10000 ** (number / 2)) for place in (column, row) for part in (math.sin, math.cos) for number in range(2)]
    assert table[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-12)


def test_a_vision_transformer_reads_the_patches_that_it_is_shown():
    """All of them, in their order, are the image; behind a token nothing of what is hidden is seen."""
    encoder = recognizer().encoder.eval()
    view = images(2)
    everything = torch.arange(32).expand(2, -1)
    torch.testing.assert_close(encoder(view, kept=everything), encoder(view))
    hidden = torch.zeros(2, 32, dtype=torch.bool)
    hidden[:, [3, 17]] = True
    other = view.clone()
    other[:, :, :8, 48:64] = 0.7  # patch 3
    other[:, :, 16:24, 16:32] = -0.2  # patch 17
    token = torch.ones(192, dtype=torch.float64)
    assert torch.equal(encoder.features(view, hidden=hidden, stand_in=token), encoder.features(other, hidden=hidden, stand_in=token))
    assert not torch.equal(encoder.features(view, hidden=~hidden, stand_in=token), encoder.features(other, hidden=~hidden, stand_in=token))


# --- MAE ------------------------------------------------------------------------------------------------------------

def mae(name: str = "vitstr", **constants) -> MAE:
    return MAE(recognizer(name), decoder_width=32, decoder_depth=1, decoder_heads=2, **constants).double().eval()


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_of_mae_is_that_of_the_hidden_patches(normalise, monkeypatch):
    model, view = mae(normalise_pixels=normalise), images(3)
    torch.manual_seed(7)
    order = drawn_order(3, 32, torch.device("cpu"))
    decoded, hidden = model.reconstruct(view, order)
    assert hidden.sum(1).tolist() == [24, 24, 24]
    expected, count = 0.0, 0
    for image in range(3):
        for patch in range(32):
            if hidden[image, patch]:
                row, column = divmod(patch, 8)
                pixels = view[image, :, 8 * row:8 * row + 8, 16 * column:16 * column + 16].permute(1, 2, 0).flatten()
                wanted = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt() if normalise else pixels
                expected, count = expected + (decoded[image, patch] - wanted).square().mean().item(), count + 1
    torch.manual_seed(7)
    assert model(batch_of(view)).total.item() == pytest.approx(expected / count, rel=1e-9)


@pytest.mark.parametrize("name", ["vitstr", "parseq"])
def test_mae_knows_nothing_of_what_is_hidden(name):
    model, view = mae(name), images(1)
    torch.manual_seed(1)
    order = drawn_order(1, 32, torch.device("cpu"))
    other = view.clone()
    for patch in order[0, 8:].tolist():
        row, column = divmod(patch, 8)
        other[:, :, 8 * row:8 * row + 8, 16 * column:16 * column + 16] += 0.3
    assert torch.equal(model.reconstruct(view, order)[0], model.reconstruct(other, order)[0])


def test_mae_puts_each_patch_at_its_place():
    """The order in which patches are shown does not matter."""
    model, view = mae(), images(1)
    order = torch.arange(31, -1, -1).unsqueeze(0)
    shuffled = torch.cat([order[:, :8].flip(1), order[:, 8:]], 1)
    torch.testing.assert_close(model.reconstruct(view, order)[0], model.reconstruct(view, shuffled)[0])


@pytest.mark.parametrize(("constants", "message"), [({"mask_ratio": 0.99}, "leaves some of 32 patches"), ({"mask_ratio": 0.0}, "hides some, found 0.0")])
def test_mae_refuses_ratios_that_hide_nothing_or_all(constants, message):
    with pytest.raises(ValueError, match=message):
        mae(**constants)


# --- DiG ------------------------------------------------------------------------------------------------------------

def plain_contrast(queries: Tensor, keys: Tensor, temperature: float) -> float:
    total = 0.0
    for row, query in enumerate(queries):
        similar = [math.exp((query @ key / (query.norm() * key.norm())).item() / temperature) for key in keys]
        total -= math.log(similar[row] / sum(similar))
    return 2 * temperature * total / len(queries)


def test_the_losses_of_dig(monkeypatch):
    model = DiG(recognizer(), **SMALL).double().eval()
    with torch.no_grad():
        for parameter in model.average.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # another than the online model
    view, augmented = images(3), images(3, seed=1)
    torch.manual_seed(7)
    hidden = hidden_in(drawn_order(3, 32, torch.device("cpu")), 22)  # int(0.7 * 32)

    def plain(encoder, masked_projection, projection, token):
        masked = encoder.features(view, hidden=hidden, stand_in=token)[:, 1:]  # no norm, no class token
        whole = encoder.features(augmented)[:, 1:]
        moved = torch.stack([masked_projection(each) for each in masked])
        return masked, [projection(torch.stack([grid.view(4, 8, -1)[:, 2 * window:2 * window + 2].mean((0, 1)) for grid in features for window in range(4)]))
                        for features in (moved, whole)]
    masked, projected = plain(model.recognizer.encoder, model.masked_projection, model.projection, model.stand_in)
    _, keys = plain(*model.average, model.average_stand_in)
    contrast = plain_contrast(model.predictor(projected[0]), keys[1], 0.2) + plain_contrast(model.predictor(projected[1]), keys[0], 0.2)
    pixels = patches_of(view, (8, 16)) * 0.5 + 0.5
    errors = []
    for image, patch in hidden.nonzero().tolist():
        wanted = pixels[image, patch]  # (pixels, channels)
        wanted = torch.stack([(channel - channel.mean()) / (channel.std() + 1e-6) for channel in wanted.t()], 1).flatten()
        errors.append((model.pixels(masked[image, patch]) - wanted).square().mean().item())

    torch.manual_seed(7)
    losses = model(batch_of(view, augmented))
    assert losses.named["contrastive_loss"].item() == pytest.approx(contrast, rel=1e-9)
    assert losses.named["reconstruction_loss"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-9)
    assert losses.total.item() == pytest.approx(sum(errors) / len(errors) + 0.1 * contrast, rel=1e-9)


def test_digs_average_follows_and_gets_no_gradient():
    model = DiG(recognizer(), **SMALL, ramp_steps=3).double().train()
    before = [parameter.clone() for parameter in model.average.parameters()]
    with torch.no_grad():
        for parameter in model._averaged()[0].parameters():
            parameter.add_(1)
    model.after_step(1)
    moved = list(model.average.parameters())
    online = [parameter for part in model._averaged() for parameter in part.parameters()]
    for old, new, followed in zip(before, moved, online, strict=True):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * followed)
    model(batch_of(images(3), images(3, seed=1))).total.backward()
    assert all(parameter.grad is None for parameter in model.average.parameters())
    model.after_step(3)  # the last of the schedule: it stays
    assert all(torch.equal(old, new) for old, new in zip([parameter.clone() for parameter in moved], model.average.parameters(), strict=True))


@pytest.mark.parametrize("make", [lambda: MAE(recognizer(), decoder_width=32, decoder_depth=1, decoder_heads=2), lambda: DiG(recognizer(), **SMALL)])
def test_they_learn_to_draw(make):
    """Slopes, whose normalised patches all look alike inside an image: one that draws the mean has a loss of 1."""
    model = make().float().train()
    optimizer, losses = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3), []
    down, across = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 128), indexing="ij")
    slopes = torch.rand(2, 8, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    view = (slopes[0] * down + slopes[1] * across) / 2
    for step in range(1, 41):
        torch.manual_seed(step)
        optimizer.zero_grad()
        found = model(batch_of(view, view.flip(1)) if isinstance(model, DiG) else batch_of(view))
        found.total.backward()
        optimizer.step()
        model.after_step(step)
        losses.append(found.named["reconstruction_loss"].item())
    assert sum(losses[-5:]) / 5 < 0.98


def test_dig_refuses_more_windows_than_columns():
    with pytest.raises(ValueError, match="at most 8 windows, found a mask_ratio of 0.7 and 9 windows"):
        DiG(recognizer(), windows=9)
