"""The loop: plain PyTorch, exact about when it logs, keeps and stops."""

import copy
import io

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import CCR, SeqCLR, Supervised
from models.recognizers import build
from pipelines.training import loop
from pipelines.training.loop import Hooks, NonFinite, Numerics, Schedule, build_optimizer, fit, one_cycle, seed_of, step_decay, step_unless

CHARSET = Charset.named("36")


def words(step: int, count: int = 6, spoil: bool = False) -> Part:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (count, 3, 32, 100), dtype=torch.uint8, generator=generator)
    return Part(images, [f"made/{step}-{number}" for number in range(count)], ["word"] * count)


def stream(first: int, last: int):
    for number in range(first, last + 1):
        yield Batch(labeled=words(number), unlabeled=words(number + 1000))


def learner(kind=CCR, seed: int = 0):
    torch.manual_seed(seed)
    objective = kind(build("crnn_tiny", CHARSET))
    optimizer = build_optimizer([p for p in objective.parameters() if p.requires_grad], name="adamw", learning_rate=1e-3, weight_decay=0.01)
    rates = one_cycle(optimizer, steps=8, learning_rate=1e-3, warmup_fraction=0.3, initial_division=20, final_division=1000)
    return objective, optimizer, rates


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_stopped_at_any_step_and_continued_it_ends_with_the_same_bits():
    whole, optimizer, rates = learner()
    fit(whole, whole, optimizer, rates, stream(1, 8), schedule=Schedule(8), seed=4)
    for stop in (1, 5):
        kept = {}
        objective, optimizer, rates = learner()

        def keep(step, checkpoint):
            kept[step] = copy.deepcopy((objective.state_dict(), optimizer.state_dict(), rates.state_dict()))
        fit(objective, objective, optimizer, rates, stream(1, 8), schedule=Schedule(8, checkpoint_every=stop), hooks=Hooks(keep=keep), seed=4)
        again, optimizer, rates = learner(seed=99)
        for part, state in zip((again, optimizer, rates), kept[stop]):
            part.load_state_dict(state)
        torch.manual_seed(12345)  # whatever the process did before
        fit(again, again, optimizer, rates, stream(stop + 1, 8), schedule=Schedule(8), seed=4, done=stop)
        assert same(again, whole)


def test_hooks_are_called_when_the_schedule_says():
    calls = []
    objective, optimizer, rates = learner(Supervised)
    hooks = Hooks(log=lambda step, numbers: calls.append(("log", step, "loss" in numbers)),
                  validate=lambda step: calls.append(("validate", step)),
                  keep=lambda step, checkpoint: calls.append(("keep", step, checkpoint)))
    fit(objective, objective, optimizer, rates, stream(1, 7), schedule=Schedule(7, log_every=3, validate_every=2, checkpoint_every=4), hooks=hooks)
    assert calls == [("log", 1, True), ("validate", 2), ("keep", 2, False), ("log", 3, True), ("validate", 4), ("keep", 4, True),
                     ("log", 6, True), ("validate", 6), ("keep", 6, False), ("log", 7, True), ("validate", 7), ("keep", 7, True)]


def spoiled(objective, steps: set[int], spoil) -> None:
    """From now on `spoil(losses, parameter)` changes what the objective gives for the batches of these steps."""
    forward, first = objective.forward, next(p for p in objective.parameters() if p.requires_grad)

    def changed(batch):
        losses = forward(batch)
        if int(batch.labeled.keys[0].split("/")[1].split("-")[0]) in steps:
            losses.total = spoil(losses.total, first)
        return losses
    objective.forward = changed


class Explodes(torch.autograd.Function):
    """Finite, with a gradient that is not."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("inf")


def nan_loss(total, parameter):
    return total * float("nan")


def infinite_loss_without_a_gradient(total, parameter):
    return total + float("inf")


def infinite_gradient(total, parameter):
    return total + Explodes.apply(parameter.sum())


@pytest.mark.parametrize("spoil, said", [(nan_loss, r"the loss of step 3 is not finite \(loss nan, "), (infinite_loss_without_a_gradient, r"the loss .*\(loss inf, "),
                                         (infinite_gradient, r"the gradient of step 3 is not finite \(loss \d.*, gradient_norm (inf|nan)\)")])
@pytest.mark.parametrize("last", [3, 8])
def test_what_is_not_finite_stops_the_run_with_its_step_and_keys_and_nothing_is_kept_of_it(spoil, said, last):
    objective, optimizer, rates = learner(Supervised)
    spoiled(objective, {3}, spoil)
    kept, weights = [], {}

    def keep(step, checkpoint):
        kept.append(step)
        weights.update(copy.deepcopy(dict(objective.named_parameters())))
    with pytest.raises(NonFinite, match=said + r".*; the batch held made/3-0, made/3-1, made/3-2, made/3-3, made/3-4, made/3-5, "):
        fit(objective, objective, optimizer, rates, stream(1, 8), schedule=Schedule(last, checkpoint_every=2), hooks=Hooks(keep=keep))
    assert kept == [2]
    assert all(torch.equal(parameter, weights[name]) for name, parameter in objective.named_parameters())  # no step was taken on it


def test_a_step_that_is_not_finite_can_be_skipped_and_is_counted():
    objective, optimizer, rates = learner(Supervised)
    spoiled(objective, {2, 5}, infinite_gradient)
    numbers, kept = {}, []
    fit(objective, objective, optimizer, rates, stream(1, 8), schedule=Schedule(8, log_every=1), numerics=Numerics(skip_non_finite=True),
        hooks=Hooks(log=lambda step, values: numbers.update({step: values["skipped_steps"]}), keep=lambda step, checkpoint: kept.append(step)), skipped=3)
    assert list(numbers.values()) == [3, 4, 4, 4, 5, 5, 5, 5] and kept == [8]
    assert {int(state["step"]) for state in optimizer.state.values()} == {6}


def test_a_run_that_skips_every_step_ends(monkeypatch):
    monkeypatch.setattr(loop, "SKIPPED_IN_A_ROW", 4)
    objective, optimizer, rates = learner(Supervised)
    spoiled(objective, {1, 3, 4, 5, 6, 7}, nan_loss)
    with pytest.raises(NonFinite, match="the loss of step 6 is not finite"):
        fit(objective, objective, optimizer, rates, stream(1, 8), schedule=Schedule(8), numerics=Numerics(skip_non_finite=True))


def test_weights_and_statistics_that_are_not_finite_are_never_kept():
    objective, optimizer, rates = learner(Supervised)
    name, statistics = next((name, buffer) for name, buffer in objective.named_buffers() if "running_var" in name)
    statistics.fill_(float("inf"))
    kept = []
    with pytest.raises(NonFinite, match=f"after step 1 weights are not finite .{name}.*nothing is kept of them"):
        fit(objective, objective, optimizer, rates, stream(1, 2), schedule=Schedule(2, checkpoint_every=1), hooks=Hooks(keep=lambda *step: kept.append(step)))
    assert kept == []


@pytest.mark.parametrize("name, fused", [("adam", False), ("adam", True), ("adamw", False), ("adamw", True), ("sgd", False), ("sgd", True), ("adadelta", False)])
def test_a_skipped_step_leaves_no_trace(name, fused):
    """Fused optimizers decide on the device; the others are told by the host."""
    ends = []
    for flags in ((False, False), (True, False, True, False)):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(7, 5)), torch.nn.Parameter(torch.randn(3))]
        optimizer = build_optimizer(parameters, name=name, learning_rate=0.1, weight_decay=0.01, fused=fused)
        torch.manual_seed(1)
        for bad in flags:
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, float("inf")) if bad else torch.randn_like(parameter)
            step_unless(optimizer, torch.tensor(bad))
        ends.append([*parameters, *(value for state in optimizer.state.values() for value in state.values())])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_fused_optimizer_does_not_make_the_host_wait(name):
    with FakeTensorMode():  # raises where the host asks for a value
        parameters = [torch.nn.Parameter(torch.empty(7, 5))]
        optimizer = build_optimizer(parameters, name=name, learning_rate=0.1, weight_decay=0.01, fused=True)
        parameters[0].grad = torch.empty(7, 5)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        step_unless(optimizer, ~torch.isfinite(norm))
        with pytest.raises(DataDependentOutputException):
            step_unless(build_optimizer(parameters, name="adadelta", learning_rate=1, weight_decay=0), ~torch.isfinite(norm))


def test_two_accumulated_batches_step_once_on_their_mean_gradient():
    objective, optimizer, _ = learner(Supervised)
    objective.views = {"labeled": ("none",)}
    twin = copy.deepcopy(objective)
    gradients = []
    optimizer.step = lambda: gradients.append([p.grad.clone() for p in objective.parameters()])
    fit(objective, objective, optimizer, None, stream(1, 2), schedule=Schedule(1), numerics=Numerics(accumulate=2, gradient_clip=1e9))
    losses = []
    for batch in stream(1, 2):
        part = batch.labeled
        part.views, part.targets = (part.images.float() / 127.5 - 1,), twin.recognizer.decoder.encode(part.texts, part.images.device)
        losses.append(twin.train()(batch).total)
    expected = torch.autograd.grad(sum(losses) / 2, list(twin.parameters()))
    for found, wanted in zip(gradients[0], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [Supervised, SeqCLR, CCR])
def test_compiled_it_learns_the_same_and_is_compiled_once(kind):
    losses = []
    torch._dynamo.reset()
    for compiled in (False, True):
        objective, optimizer, rates = learner(kind)
        trained = torch.compile(objective, backend="aot_eager") if compiled else objective
        counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        numbers, graphs = [], []

        def log(step, values):
            numbers.append(values["loss"])
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - counted)
        fit(objective, trained, optimizer, rates, stream(1, 4), schedule=Schedule(4, log_every=1), hooks=Hooks(log=log), seed=4)
        losses.append(numbers)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert graphs[0] > 0 and graphs == [graphs[0]] * 4  # other keys and other images need no other graph


def test_seeds_of_steps_and_ranks_differ():
    seeds = {seed_of(seed, step, rank) for seed in range(3) for step in range(100) for rank in range(8)}
    assert len(seeds) == 2400 and all(0 <= seed < 2**63 for seed in seeds)


def test_one_cycle_rises_to_the_rate_and_falls_to_almost_nothing():
    _, optimizer, rates = learner(Supervised)
    seen = []
    for _ in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    assert seen[0] == pytest.approx(1e-3 / 20)
    assert max(seen) <= 1e-3 and seen.index(max(seen)) in (1, 2)
    assert seen[-1] == pytest.approx(1e-3 / 20 / 1000)


def test_step_decay_falls_at_its_shares_of_the_run_and_goes_on_where_it_stopped():
    def rates_of():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        return optimizer, step_decay(optimizer, steps=10, at=[0.6, 0.8], factor=0.1)

    def seen(optimizer, rates, steps):
        for _ in range(steps):
            yield optimizer.param_groups[0]["lr"]
            optimizer.step()
            rates.step()
    whole = list(seen(*rates_of(), 10))
    assert whole == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)

    optimizer, rates = rates_of()
    first = list(seen(optimizer, rates, 7))
    kept = io.BytesIO()
    torch.save((optimizer.state_dict(), rates.state_dict()), kept)
    again, continued = rates_of()
    kept.seek(0)
    for part, state in zip((again, continued), torch.load(kept, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert [*first, *seen(again, continued, 3)] == whole
