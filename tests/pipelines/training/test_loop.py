"""The loop: plain PyTorch, exact about when it logs, keeps and stops."""

import copy

import pytest
import torch

from models.batch import Batch, Part
from models.charset import Charset
from models.objectives import CCR, SeqCLR, Supervised
from models.recognizers import build
from pipelines.training.loop import Hooks, NonFiniteLoss, Numerics, Schedule, build_optimizer, fit, one_cycle, seed_of

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
                  validate=lambda step: {"word_accuracy": 0.5},
                  keep=lambda step, checkpoint: calls.append(("keep", step, checkpoint)))
    fit(objective, objective, optimizer, rates, stream(1, 7), schedule=Schedule(7, log_every=3, validate_every=2, checkpoint_every=4), hooks=hooks)
    assert calls == [("log", 1, True), ("log", 2, False), ("keep", 2, False), ("log", 3, True), ("log", 4, False), ("keep", 4, True),
                     ("log", 6, True), ("log", 6, False), ("keep", 6, False), ("log", 7, True), ("log", 7, False), ("keep", 7, True)]


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_keys():
    objective, optimizer, rates = learner(Supervised)
    forward = objective.forward
    kept = []

    def spoiled(batch):
        losses = forward(batch)
        if batch.labeled.keys[0] == "made/3-0":
            losses.total = losses.total * float("nan")
        return losses
    objective.forward = spoiled
    with pytest.raises(NonFiniteLoss, match=r"the loss of step 3 is not finite \(loss nan, .*\); the batch held made/3-0, made/3-1, made/3-2, ") \
            as caught:
        fit(objective, objective, optimizer, rates, stream(1, 8), schedule=Schedule(8, checkpoint_every=3),
            hooks=Hooks(keep=lambda step, checkpoint: kept.append(step)))
    assert caught.value.step == 3
    assert caught.value.keys[:6] == [f"made/3-{number}" for number in range(6)]
    assert kept == []


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
