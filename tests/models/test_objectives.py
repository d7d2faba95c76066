"""What every objective keeps, whatever paper it comes from: it trains every kind of recognizer, and needs nothing but the contract."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from ccr_models import BOTH, NoWaiting, assert_ranks_are_one, full_batch, objective
from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import OBJECTIVES
from models.recognizers import build

WORDS = ["hello", "wor1d"]
KINDS = {"crnn_tiny": {}, "trba_tiny": {}, "moran": {"height": 32, "width": 100}, "abinet": {"hidden": 64}, "vitstr": {"size": "tiny"},
         "parseq": {"size": "tiny"}, "svtr": {}}


def part(recognizer, views: int, labeled: bool) -> Part:
    images = torch.rand(2, 3, recognizer.height, recognizer.width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    targets = recognizer.decoder.encode(WORDS) if labeled else None
    return Part(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), ["a", "b"], WORDS if labeled else None, targets, (images,) * views)


SERVED = {"semimtr": ("abinet",), "mae": ("vitstr", "parseq"), "dig": ("vitstr", "parseq")}  # recognizers of the objectives that do not serve every one


@pytest.mark.parametrize(("objective", "name"), [(objective, name) for objective in OBJECTIVES for name in SERVED.get(objective, KINDS)
                                                 if objective != "bcn"])  # which learns from texts: tests of its own
def test_a_step_gives_every_trained_parameter_a_finite_gradient(name, objective):
    torch.manual_seed(0)
    recognizer = build(name, Charset.named("36"), **KINDS[name])
    trained = OBJECTIVES[objective](recognizer).train()
    batch = Batch(**{stream: part(recognizer, len(views), stream == "labeled") for stream, views in trained.views.items()})
    losses = trained(batch)
    losses.total.backward()
    trained.after_step(1)
    gradients = {name: parameter.grad for name, parameter in trained.named_parameters() if parameter.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert losses.total.isfinite()


# --- objectives with labeled and unlabeled words ----------------------------------------------------------------------

SEMI = ("ccr", "visu", "fixmatch", "uda", "mean_teacher", "pseudo_label", "flexmatch", "freematch", "softmatch")  # others have tests of their own
EACH = pytest.mark.parametrize("kind", SEMI)
SCHEDULES = {"uda": {"annealing": "linear", "annealing_steps": 10}, "mean_teacher": {"ramp_steps": 10}}
SIGNALS = {"recognition_loss", "consistency_loss", "kept_fraction", "mean_score", "agreement", "character_entropy", "length_entropy"}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int, trained: torch.nn.Module | None = None) -> torch.Tensor:
    """One training step on a batch of its own."""
    torch.manual_seed(number)
    optimizer.zero_grad()
    losses = (trained or model)(full_batch(model, seed=number))
    losses.total.backward()
    optimizer.step()
    model.after_step(number)
    return losses.total.detach()


@EACH
@BOTH
def test_every_objective_reports_its_signals_as_detached_scalars(kind, name):
    model = objective(kind, name, **SCHEDULES.get(kind, {})).train()
    losses = model(full_batch(model))
    assert SIGNALS <= losses.named.keys()
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in losses.named.values())
    assert losses.named["character_entropy"] > 0 and losses.named["length_entropy"] > 0


@EACH
@BOTH
def test_without_its_weight_the_supervised_loss_is_left(kind, name):
    """And every trained parameter has a gradient still, which data-parallel training needs."""
    off = {"ccr": {"domain_adaptation_weight": 0.0}, "freematch": {"fairness_weight": 0.0},
           "visu": {"base_recognition_weight": 0.0, "base_consistency_weight": 0.0, "alignment_weight": 0.0}}
    model, supervised = objective(kind, name, consistency_weight=0.0, **off.get(kind, {})), objective("supervised", name)
    batch = full_batch(model)
    losses = model(batch)
    batch.labeled.views = batch.labeled.views[:1]
    expected = supervised(batch)
    losses.total.backward()
    expected.total.backward()
    assert losses.total.item() == pytest.approx(expected.total.item(), rel=1e-12)
    for parameter, other in zip(model.recognizer.parameters(), supervised.recognizer.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-12)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@EACH
@BOTH
def test_a_continued_run_is_the_run_that_was_not_stopped(kind, name):
    """Bit for bit: averages, labelers, counters and thresholds are part of the state."""
    model = objective(kind, name, **SCHEDULES.get(kind, {})).train()
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)
    for number in (1, 2):
        step(model, optimizer, number)
    kept = copy.deepcopy([model.state_dict(), optimizer.state_dict()])

    continued = objective(kind, name, **SCHEDULES.get(kind, {})).train()
    with torch.no_grad():
        for parameter in continued.parameters():
            parameter.add_(1)  # nothing but the state may matter
    other = torch.optim.Adam([parameter for parameter in continued.parameters() if parameter.requires_grad], lr=1e-3)
    continued.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    assert step(model, optimizer, 3) == step(continued, other, 3)
    for (key, value), again in zip(model.state_dict().items(), continued.state_dict().values(), strict=True):
        assert torch.equal(value, again), key


@EACH
@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny", "vitstr"])
def test_a_step_never_waits_for_the_device(kind, name):
    options = SCHEDULES.get(kind, {})
    if name == "vitstr":
        model = OBJECTIVES[kind](build(name, Charset.named("36"), **KINDS[name]), **options).train()
        batch = Batch(**{stream: part(model.recognizer, len(views), stream == "labeled") for stream, views in model.views.items()})
    else:
        model = objective(kind, name, **options).train()
        batch = full_batch(model)
    with NoWaiting():
        losses = model(batch)
        losses.total.backward()
        model.after_step(1)
    assert losses.total.isfinite()


@EACH
@BOTH
def test_float32_is_near_float64(kind, name):
    models = [objective(kind, name, **SCHEDULES.get(kind, {})).to(dtype) for dtype in (torch.float64, torch.float32)]
    losses = []
    for model, dtype in zip(models, (torch.float64, torch.float32), strict=True):
        batch = full_batch(model)
        for words in (batch.labeled, batch.unlabeled):
            words.views = tuple(view.to(dtype) for view in words.views)
        losses.append(model(batch).total)
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-3)  # no reading is so near a tie that it changes


LINEAR = {kind: {"domain_adaptation": False, "confidence_threshold": 0.3} if kind == "ccr" else SCHEDULES.get(kind, {}) for kind in SEMI}


def parts_of(batch: Batch, rank: int) -> Batch:
    """Half of the words of a batch."""
    def half(whole: Part) -> Part:
        mine = slice(len(whole.keys) // 2 * rank, len(whole.keys) // 2 * (rank + 1))
        targets = None if whole.targets is None else whole.targets[mine]
        return Part(whole.images[mine], whole.keys[mine], targets=targets, views=tuple(view[mine] for view in whole.views))
    return Batch(half(batch.labeled), half(batch.unlabeled))


def _one_of_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for kind, constants in LINEAR.items():
        model = objective(kind, "crnn_tiny", **constants)
        parallel, found = DistributedDataParallel(model), {}
        for number in (1, 2):  # the second sees what the first left behind
            model.zero_grad()
            losses = parallel(parts_of(full_batch(model, seed=number), rank))
            losses.total.backward()
            model.after_step(number)
            found[number] = losses.total.detach(), {key: p.grad.clone() for key, p in model.named_parameters() if p.requires_grad}
        torch.save({"steps": found, "state": model.state_dict()}, f"{folder}/{kind}{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder in which two processes, with half the words each, left what they found for every objective."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_one_of_two_ranks, (str(folder),), nprocs=2)
    return folder


@EACH
def test_two_ranks_with_half_the_words_each_are_one_with_all(kind, two_ranks):
    """In eval mode, where no image depends on the others of its batch; of CTC, whose losses are means over words."""
    ranks = [torch.load(two_ranks / f"{kind}{rank}.pt") for rank in range(2)]
    model = objective(kind, "crnn_tiny", **LINEAR[kind])
    assert_ranks_are_one(ranks, model, lambda number: full_batch(model, seed=number))
