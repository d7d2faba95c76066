"""The training loop. Plain PyTorch: takes batches, an objective, an optimizer; knows no Ray, no files.

Every random number of a step is drawn from a seed that is a function of (seed, step, rank): dropout, augmentation, sampling. A run that
continues from a checkpoint therefore needs no saved generator states to end with the same bits as one that was never stopped.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from models.batch import Batch, Losses, Part
from pipelines.augmentation.views import augment


class NonFiniteLoss(Exception):
    """The loss of a step is not a finite number; training cannot go on."""

    def __init__(self, step: int, keys: list[str], named: dict[str, float]):
        parts = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        super().__init__(f"the loss of step {step} is not finite ({parts}); the batch held {shown}; lower optimizer.learning_rate, or look at "
                         "these images")
        self.step, self.keys = step, keys


@dataclass
class Hooks:
    """What the outside world does while the loop runs; each is called on every rank.

    `validate` returns named numbers, which are logged; `keep` follows it, and says whether a checkpoint is due.
    """

    log: Callable[[int, dict[str, float]], None] = lambda step, numbers: None
    validate: Callable[[int], dict[str, float]] = lambda step: {}
    keep: Callable[[int, bool], None] = lambda step, checkpoint: None


@dataclass(frozen=True)
class Schedule:
    """When the hooks are called, in steps; the last step always validates and keeps a checkpoint."""

    steps: int
    log_every: int = 20
    validate_every: int | None = None
    checkpoint_every: int = 500


@dataclass(frozen=True)
class Numerics:
    """How a step computes."""

    device: torch.device = torch.device("cpu")
    bf16: bool = False
    gradient_clip: float = 5.0
    accumulate: int = 1


def fit(objective: nn.Module, trained: nn.Module, optimizer: torch.optim.Optimizer, rates: LRScheduler | None, batches: Iterator[Batch], *,
        schedule: Schedule, numerics: Numerics = Numerics(), hooks: Hooks | None = None, seed: int = 0, rank: int = 0, done: int = 0) -> None:
    """Train from step done + 1 to schedule.steps.

    Args:
        objective: turns a batch into losses; has `views`, `after_step` and `recognizer`.
        trained: what is called in its place: the objective itself, or it inside DistributedDataParallel, or compiled.
        batches: numerics.accumulate batches for every step, images uint8 on any device.
        done: steps already taken.
    Raises:
        NonFiniteLoss: names the step and the keys of its batch. It is looked at after the next forward pass, when a GPU has long
            computed it, and always before anything is logged or kept.
    """
    hooks = hooks or Hooks()
    trained.train()
    watch, images, started = _Watch(), 0, time.perf_counter()
    for step in range(done + 1, schedule.steps + 1):
        torch.manual_seed(seed_of(seed, step, rank))
        optimizer.zero_grad(set_to_none=True)
        for number in range(numerics.accumulate):
            batch = prepare(next(batches), objective, numerics.device, seed_of(seed, step * numerics.accumulate + number, rank))
            last = number == numerics.accumulate - 1
            with contextlib.nullcontext() if last or not hasattr(trained, "no_sync") else trained.no_sync():
                with torch.autocast(numerics.device.type, torch.bfloat16, enabled=numerics.bf16):
                    losses = trained(batch)
                watch.check()
                (losses.total / numerics.accumulate).backward()
            watch.note(step, batch, losses)
            images += sum(len(part.keys) for part in (batch.labeled, batch.unlabeled) if part is not None)
        norm = nn.utils.clip_grad_norm_([p for p in trained.parameters() if p.requires_grad], numerics.gradient_clip)
        optimizer.step()
        rate = optimizer.param_groups[0]["lr"]
        if rates is not None:
            rates.step()
        objective.after_step(step)
        if step % schedule.log_every == 0 or step in (done + 1, schedule.steps):
            watch.check()
            elapsed = time.perf_counter() - started
            hooks.log(step, {"loss": losses.total.item(), **{name: value.item() for name, value in losses.named.items()},
                             "gradient_norm": norm.item(), "learning_rate": rate, "images_per_second": images / elapsed})
            images, started = 0, time.perf_counter()
        _keep(step, schedule, hooks, watch, trained)


def _keep(step: int, schedule: Schedule, hooks: Hooks, watch: "_Watch", trained: nn.Module) -> None:
    last = step == schedule.steps
    validate = last or bool(schedule.validate_every and step % schedule.validate_every == 0)
    checkpoint = last or step % schedule.checkpoint_every == 0
    if not (validate or checkpoint):
        return
    watch.check()
    if validate and (numbers := hooks.validate(step)):
        hooks.log(step, numbers)
    trained.train()
    hooks.keep(step, checkpoint)


class _Watch:
    """Remembers the last loss, and raises NonFiniteLoss for it when it is looked at."""

    def __init__(self):
        self._last: tuple[int, Batch, Losses] | None = None

    def note(self, step: int, batch: Batch, losses: Losses) -> None:
        detached = Losses(losses.total.detach(), losses.named)
        self._last = step, batch, detached

    def check(self) -> None:
        if self._last is None:
            return
        step, batch, losses = self._last
        if not torch.isfinite(losses.total):
            keys = [key for part in (batch.labeled, batch.unlabeled) if part is not None for key in part.keys]
            raise NonFiniteLoss(step, keys, {"loss": losses.total.item(), **{name: value.item() for name, value in losses.named.items()}})
        self._last = None


def seed_of(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for one step of one rank."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB + 1) % 2**64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
    return (mixed ^ (mixed >> 31)) >> 1


def prepare(batch: Batch, objective: nn.Module, device: torch.device, seed: int) -> Batch:
    """Move a batch to the device, encode its labels, and make the views that the objective wants."""
    generator = torch.Generator().manual_seed(seed)
    for name, views in objective.views.items():
        part: Part = getattr(batch, name)
        part.images = part.images.to(device, non_blocking=True)
        if part.texts is not None:
            part.targets = objective.recognizer.decoder.encode(part.texts, device)
        part.views = tuple(augment(part.images, view, generator) for view in views)  # each (n, 3, H, W) in [-1, 1]
    return batch


def build_optimizer(parameters: list[Tensor], *, name: str, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The update rules that the papers use. Adadelta has rho 0.95 and eps 1e-8 (recognizers.md §2.7), SGD momentum 0.9."""
    if name == "adadelta":
        return torch.optim.Adadelta(parameters, lr=learning_rate, rho=0.95, eps=1e-8, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr=learning_rate, weight_decay=weight_decay)


def one_cycle(optimizer: torch.optim.Optimizer, *, steps: int, learning_rate: float, warmup_fraction: float, initial_division: float,
              final_division: float) -> LRScheduler:
    """Cosine up to `learning_rate` and down again over the run, momentum left alone (recognizers.md §3, §4)."""
    return OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps, pct_start=warmup_fraction, div_factor=initial_division,
                      final_div_factor=final_division, cycle_momentum=False)
