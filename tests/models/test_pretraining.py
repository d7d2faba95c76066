"""What every objective that learns from images alone keeps, whatever paper it comes from."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ccr_models import NoWaiting, assert_ranks_are_one
from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import MAE, OBJECTIVES, DiG, PerSec
from models.objectives.persec import Level
from models.objectives.quantizer import Quantizer
from models.recognizers import build

SMALL = {"seqclr": {"projection_width": 32}, "simclr": {"projection_width": 32}, "moco": {"projection_width": 32, "queue": 24},
         "byol": {"projection_width": 16, "hidden_width": 32, "ramp_steps": 10}, "simsiam": {"projection_width": 32}, "rotnet": {}, "persec": {"entries": 16, "context_width": 32, "temperature_factor": 0.9}, "mae": {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
         "dig": {"projection_width": 16, "hidden_width": 32, "pixel_width": 16, "ramp_steps": 10}}
VISION = {"name": "vitstr", "size": "tiny", "patch": [8, 16]}  # for methods that hide patches: 4 x 8 of them
EACH = pytest.mark.parametrize("kind", SMALL)


def images(n: int, seed: int = 0, width: int = 100) -> Tensor:
    """(n, 3, 32, width) float64 of smooth noise in [-1, 1]."""
    coarse = torch.rand(n, 3, 8, 25, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (32, width), mode="bilinear") * 2 - 1


def objective(kind: str, **constants) -> torch.nn.Module:
    torch.manual_seed(0)
    recognizer = VISION if kind in ("mae", "dig") else {"name": "crnn_tiny"}
    return OBJECTIVES[kind](build(charset=Charset.named("36"), **recognizer), **(SMALL[kind] | constants)).double()


def batch_of(model: torch.nn.Module, n: int = 6, seed: int = 0) -> Batch:
    """A different image for each view, but near the others."""
    width = model.recognizer.width
    whole = images(n, seed, width)
    views = tuple(0.8 * whole + 0.2 * images(n, seed + 100 + place, width) for place, _ in enumerate(model.views["unlabeled"]))
    return Batch(unlabeled=Part(torch.empty(0), [str(number) for number in range(n)], views=views))


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int, batch: Batch | None = None) -> Tensor:
    torch.manual_seed(number)
    optimizer.zero_grad()
    losses = model(batch or batch_of(model, seed=number))
    losses.total.backward()
    optimizer.step()
    model.after_step(number)
    return losses.total.detach()


def test_all_of_them_are_tested_here():
    served = {"semimtr": "abinet", "mae": "vitstr", "dig": "vitstr"}
    views = {name: kind(build(served.get(name, "crnn_tiny"), Charset.named("36"))).views for name, kind in OBJECTIVES.items()
             if name != "bcn"}  # which learns from texts
    assert set(SMALL) == {name for name, wanted in views.items() if "labeled" not in wanted}


@EACH
def test_the_decoder_takes_no_part(kind):
    model = objective(kind).train()
    losses = model(batch_of(model))
    losses.total.backward()
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in losses.named.values())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not (parameter.requires_grad and ".decoder." in name), name
    assert model.recognizer.encoder.training and any(parameter.requires_grad for parameter in model.recognizer.encoder.parameters())


@EACH
@pytest.mark.parametrize(("name", "options"), [("moran", {"height": 32, "width": 100}), ("vitstr", {"size": "tiny"}), ("abinet", {"hidden": 32}), ("svtr", {}),
                                               ("hga", {"height": 32, "width": 64})])
def test_every_encoder_can_serve(kind, name, options):
    """In float32 and training mode; a map's cells are averaged, a class token left out. Those that hide patches say that they need some."""
    torch.manual_seed(0)
    if kind in ("mae", "dig") and name != "vitstr":
        with pytest.raises(ValueError, match=f"{kind} expects a recognizer whose encoder is a vision transformer, found {name}: use vitstr or parseq"):
            OBJECTIVES[kind](build(name, Charset.named("36"), **options))
        return
    recognizer = build(name, Charset.named("36"), **options)
    model = OBJECTIVES[kind](recognizer, **SMALL[kind]).train()
    view = torch.rand(2, 3, recognizer.height, recognizer.width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = model(Batch(unlabeled=Part(torch.empty(0), ["a", "b"], views=(view,) * len(model.views["unlabeled"]))))
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind not in ("moco", "persec", "mae", "dig")])  # which have tests of their own
def test_it_lowers_its_own_loss(kind):
    """From 8 images, always the same; cosines fall towards -1, cross-entropies towards 0."""
    batch = batch_of(objective(kind), 8)
    losses = learned(kind, lambda number: batch, 60)
    least = -1 if kind in ("byol", "simsiam") else 0
    assert losses[-1] - least < (losses[0] - least) / 2


def test_moco_lowers_its_loss_on_images_that_are_always_new():
    """Its queue is full of them after three steps; the same images again would be negatives of themselves."""
    losses = learned("moco", lambda number: batch_of(objective("moco"), 8, seed=number), 60)
    assert sum(losses[-10:]) < 0.9 * sum(losses[4:14])


def learned(kind: str, batch_at: Callable[[int], Batch], steps: int) -> list[float]:
    model = objective(kind).float().train()
    optimizer = optimizer_of(model)
    optimizer.param_groups[0]["lr"] = 3e-3
    losses = []
    for number in range(1, steps + 1):
        batch = batch_at(number)
        batch.unlabeled.views = tuple(view.float() for view in batch.unlabeled.views)
        losses.append(step(model, optimizer, number, batch).item())
    return losses


@EACH
def test_a_continued_run_is_the_run_that_was_not_stopped(kind):
    """Bit for bit: averages, queues and their places are part of the state."""
    model = objective(kind).train()
    optimizer = optimizer_of(model)
    for number in (1, 2):
        step(model, optimizer, number)
    kept = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    continued = objective(kind).train()
    with torch.no_grad():
        for parameter in continued.parameters():
            parameter.add_(1)  # nothing but the state may matter
    other = optimizer_of(continued)
    continued.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    assert step(model, optimizer, 3) == step(continued, other, 3)
    for (key, value), again in zip(model.state_dict().items(), continued.state_dict().values(), strict=True):
        assert torch.equal(value, again), key


@EACH
def test_a_step_never_waits_for_the_device(kind):
    model = objective(kind).train()
    batch = batch_of(model)
    with NoWaiting():
        losses = model(batch)
        losses.total.backward()
        model.after_step(1)
    assert losses.total.isfinite()


def half(batch: Batch, rank: int) -> Batch:
    mine = slice(len(batch.unlabeled.keys) // 2 * rank, len(batch.unlabeled.keys) // 2 * (rank + 1))
    return Batch(unlabeled=Part(torch.empty(0), batch.unlabeled.keys[mine], views=tuple(view[mine] for view in batch.unlabeled.views)))


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for kind in SMALL:
        model = _without_batch_statistics(objective(kind))
        parallel, found = DistributedDataParallel(model), {}
        for number in (1, 2):  # the second sees what the first left behind
            model.zero_grad()
            losses = parallel(half(batch_of(model, seed=number), rank))
            losses.total.backward()
            model.after_step(number)
            found[number] = losses.total.detach(), {key: p.grad.clone() for key, p in model.named_parameters() if p.requires_grad}
        torch.save({"steps": found, "state": model.state_dict()}, f"{folder}/{kind}{rank}.pt")
    dist.destroy_process_group()


def _without_batch_statistics(model: torch.nn.Module) -> torch.nn.Module:
    """In training mode, but for what depends on the others of a batch, or is drawn anew on each rank."""
    for module in model.train().modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm | torch.nn.Dropout | Quantizer):
            module.eval()
    if isinstance(model, MAE | DiG):
        model.order = lambda n, patches, device: (torch.arange(patches) * 7 % patches).expand(n, -1)
    if isinstance(model, PerSec):
        for perceiver in (model.stroke, model.semantic):
            perceiver.forward = partial(_with_the_same_positions, perceiver)
    return model


def _with_the_same_positions(perceiver: torch.nn.Module, features: Tensor, draw: object) -> Level:
    """The same positions of every image are hidden, and compared with the others in their order."""
    class Same:
        def random(self, shape=None):
            return 0.0 if shape is None else np.tile(np.arange(shape[1]) * 7 % 31 / 31, (shape[0], 1))

        def integers(self, low, high, shape):
            return np.broadcast_to(np.arange(shape[2]) % high, shape).copy()
    return type(perceiver).forward(perceiver, features, Same())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder in which two processes, with half the images each, left what they found for every objective."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(folder),), nprocs=2)
    return folder


@EACH
def test_two_ranks_with_half_the_images_each_are_one_with_all(kind, two_ranks):
    ranks = [torch.load(two_ranks / f"{kind}{rank}.pt") for rank in range(2)]
    model = _without_batch_statistics(objective(kind))
    assert_ranks_are_one(ranks, model, lambda number: batch_of(model, seed=number))


@pytest.mark.parametrize(("kind", "constants", "message"), [
    ("simclr", {"temperature": 0.0}, "temperature above 0, found 0.0"), ("simsiam", {"bottleneck": 0}, "bottleneck above 0, found 0"),
    ("moco", {"queue": 0}, "queue above 0, found 0"), ("moco", {"momentum": 1.5}, "momentum from 0 to 1, found 1.5"),
    ("byol", {"ramp_steps": 0}, "ramp_steps of 1 or more, found 0"),
])
def test_refuses_constants_that_make_no_sense(kind, constants, message):
    with pytest.raises(ValueError, match=message):
        objective(kind, **constants)


@pytest.mark.parametrize(("kind", "aspect", "message"), [
    ("mae", "keep", "mae expects images of one width"), ("dig", "keep", "dig expects images of one width"), ("moco", "keep", "moco expects images of one width"),
    ("rotnet", "pad", "rotnet expects images that fill their width, found a recognizer with aspect pad"),
])
def test_images_that_a_method_cannot_have_are_refused(kind, aspect, message):
    options = {**VISION, "patch": [8, 8], "max_length": 10} if kind in ("mae", "dig") else {"name": "crnn_tiny"}
    recognizer = build(**options, charset=Charset.named("36"), aspect=aspect)
    with pytest.raises(ValueError, match=message):
        OBJECTIVES[kind](recognizer, **SMALL[kind])
