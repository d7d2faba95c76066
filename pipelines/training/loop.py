"""The training loop. Plain PyTorch: takes batches, an objective, an optimizer; knows no Ray, no files.

Every random number of a step is drawn from a seed that is a function of (seed, step, rank): dropout, augmentation, sampling. A run that
continues from a checkpoint therefore needs no saved generator states to end with the same bits as one that was never stopped.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from models.batch import Batch, Part
from pipelines.augmentation.drawn import view_of

SKIPPED_IN_A_ROW = 20  # steps without a finite gradient, one after the other, that end a run which skips them
WAITING = 8  # steps that the host may be ahead of the device before it looks at the oldest


class NonFinite(Exception):
    """A loss, a gradient or a weight is not a finite number; training cannot go on."""


def not_finite(step: int, keys: list[str], numbers: dict[str, float]) -> NonFinite:
    """Says what of a step is not finite, and which images it saw. `numbers`: loss, named parts of it, gradient norm."""
    what = "gradient" if math.isfinite(numbers["loss"]) else "loss"
    parts = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    held, looked = (f"; the batch held {shown}", "look at these images, ") if keys else ("", "")
    return NonFinite(f"the {what} of step {step} is not finite ({parts}){held}; lower optimizer.learning_rate, {looked}"
                     "or skip such steps with optimizer.non_finite=skip")


@dataclass
class Hooks:
    """What the outside world does while the loop runs; each is called on every rank.

    `log` gets the numbers of a step. `keep` follows `validate`, where that is due, and is told whether a checkpoint is. Where `validate` returns
    true, which it must on all ranks, that step is the last.
    """

    log: Callable[[int, dict[str, float]], None] = lambda step, numbers: None
    validate: Callable[[int], bool | None] = lambda step: False
    keep: Callable[[int, bool], None] = lambda step, checkpoint: None


@dataclass(frozen=True)
class Schedule:
    """When the hooks are called, in steps; the last step, whichever becomes that, always validates and keeps a checkpoint."""

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
    skip_non_finite: bool = False  # count steps whose loss or gradient is not finite and go on, instead of ending the run


def fit(objective: nn.Module, trained: nn.Module, optimizer: torch.optim.Optimizer, rates: LRScheduler | None, batches: Iterator[Batch], *,
        schedule: Schedule, numerics: Numerics = Numerics(), hooks: Hooks | None = None, seed: int = 0, rank: int = 0, done: int = 0,
        skipped: int = 0) -> None:
    """Train from step done + 1 to schedule.steps.

    Args:
        objective: turns a batch into losses; has `views`, `after_step` and `recognizer`.
        trained: what is called in its place: the objective itself, or it inside DistributedDataParallel, or compiled.
        batches: numerics.accumulate batches for every step, images uint8 on any device.
        done: steps already taken.
        skipped: steps that were skipped before, of those done.
    Raises:
        NonFinite: names the step and the keys of its batch. No optimizer steps on such a gradient. Whether there was one is counted on the
            device; the host looks when the device has come so far, and always before anything is logged or kept.
    """
    hooks = hooks or Hooks()
    trained.train()
    watch, images, started = _Watch(numerics, skipped), 0, time.perf_counter()
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    for step in range(done + 1, schedule.steps + 1):
        torch.manual_seed(seed_of(seed, step, rank))
        optimizer.zero_grad(set_to_none=True)
        total, keys = torch.zeros((), device=numerics.device), []
        for number in range(numerics.accumulate):
            batch = prepare(next(batches), objective, numerics.device, seed_of(seed, step * numerics.accumulate + number, rank))
            last = number == numerics.accumulate - 1
            with contextlib.nullcontext() if last or not hasattr(trained, "no_sync") else trained.no_sync():
                with torch.autocast(numerics.device.type, torch.bfloat16, enabled=numerics.bf16):
                    losses = trained(batch)
                (losses.total / numerics.accumulate).backward()
            total += losses.total.detach() / numerics.accumulate
            keys += [key for part in (batch.labeled, batch.unlabeled) if part is not None for key in part.keys]
        norm = nn.utils.clip_grad_norm_(parameters, numerics.gradient_clip)
        bad = ~(torch.isfinite(total) & torch.isfinite(norm))
        step_unless(optimizer, bad)
        images += len(keys)
        watch.note(step, keys, bad, {"loss": total, **losses.named, "gradient_norm": norm.detach()})
        rate = optimizer.param_groups[0]["lr"]
        if rates is not None:
            rates.step()
        objective.after_step(step)
        if step % schedule.log_every == 0 or step in (done + 1, schedule.steps):
            watch.look(all_of_them=True)
            elapsed = time.perf_counter() - started
            speed = {"images_per_second": images / elapsed} if images else {}  # an objective may learn from texts alone
            hooks.log(step, {**watch.numbers, "learning_rate": rate, **speed, **watch.counted})
            images, started = 0, time.perf_counter()
        if _keep(step, schedule, hooks, watch, objective, trained):
            break


def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Step, unless `bad`, a bool on the device, says that the gradient is not finite: weights and the optimizer's state stay as they are then.

    Fused optimizers decide on the device (as PyTorch's GradScaler has them do). With others the host must wait for the answer, which costs
    nothing where it is the device.
    """
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = bad.float()
        optimizer.step()
    elif not bad:
        optimizer.step()


def _keep(step: int, schedule: Schedule, hooks: Hooks, watch: "_Watch", objective: nn.Module, trained: nn.Module) -> bool:
    """Validate and keep what is due; returns whether that was the last step."""
    last = step == schedule.steps
    validate = last or bool(schedule.validate_every and step % schedule.validate_every == 0)
    checkpoint = last or step % schedule.checkpoint_every == 0
    if not (validate or checkpoint):
        return False
    watch.look(all_of_them=True)
    check_weights(step, objective)
    ends = bool(validate and hooks.validate(step))
    trained.train()
    hooks.keep(step, checkpoint or ends)
    return ends


def check_weights(step: int, objective: nn.Module) -> None:
    """Raises NonFinite if a weight or a running statistic is not finite: a finite loss and gradient can leave such behind (BatchNorm, EMA)."""
    tensors = {name: tensor for name, tensor in objective.state_dict().items() if tensor.is_floating_point()}
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
    spoiled = [name for name, good in zip(tensors, finite, strict=True) if not good]
    if spoiled:
        more = f" and {len(spoiled) - 3} more" if len(spoiled) > 3 else ""
        raise NonFinite(f"after step {step} weights are not finite ({', '.join(spoiled[:3])}{more}), and nothing is kept of them; continue from the last "
                        "checkpoint with a lower optimizer.learning_rate under another name")


@dataclass
class _Noted:
    """What a step left to look at: flags and numbers on their way to the host, and the event after which they are there."""

    step: int
    keys: list[str]
    names: list[str]
    values: Tensor  # (1 + names,) float64: whether the step is bad, and its numbers
    arrived: torch.cuda.Event | None

    @property
    def is_there(self) -> bool:
        return self.arrived is None or self.arrived.query()


class _Watch:
    """Looks at the numbers of past steps without making the host wait for the device.

    numbers: of the last step that was looked at. counted: how many steps were skipped, where they may be.
    """

    def __init__(self, numerics: Numerics, skipped: int):
        self.numbers: dict[str, float] = {}
        self._skips, self._skipped, self._in_a_row = numerics.skip_non_finite, skipped, 0
        self._waiting: deque[_Noted] = deque()

    @property
    def counted(self) -> dict[str, int]:
        return {"skipped_steps": self._skipped} if self._skips else {}

    def note(self, step: int, keys: list[str], bad: Tensor, numbers: dict[str, Tensor]) -> None:
        values, arrived = torch.stack([value.to(bad.device, torch.float64) for value in (bad, *numbers.values())]), None
        if values.is_cuda:
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append(_Noted(step, keys, list(numbers), values, arrived))
        self.look()

    def look(self, all_of_them: bool = False) -> None:
        while self._waiting and (all_of_them or self._waiting[0].is_there or len(self._waiting) > WAITING):
            noted = self._waiting.popleft()
            if noted.arrived is not None:
                noted.arrived.synchronize()
            bad, *values = noted.values.tolist()
            self.numbers = dict(zip(noted.names, values, strict=True))
            self._skipped, self._in_a_row = self._skipped + bool(bad), self._in_a_row + 1 if bad else 0
            if bad and (not self._skips or self._in_a_row >= SKIPPED_IN_A_ROW):
                raise not_finite(noted.step, noted.keys, self.numbers)


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
        part.views = tuple(view_of(part, view, objective.recognizer, generator) for view in views)  # each (n, 3, H, W) in [-1, 1]
    return batch


def build_optimizer(parameters: list[Tensor], *, name: str, learning_rate: float, weight_decay: float, fused: bool = False) -> torch.optim.Optimizer:
    """The update rules that the papers use. Adadelta has rho 0.95 and eps 1e-8 (recognizers.md §2.7), SGD momentum 0.9.

    fused: one kernel for all parameters, which also decides on the device whether to step; there is none for Adadelta.
    """
    if name == "adadelta":
        return torch.optim.Adadelta(parameters, lr=learning_rate, rho=0.95, eps=1e-8, weight_decay=weight_decay)
    if name == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay, fused=fused)
        for parameter in parameters:  # a first step that is skipped would leave them as they come out of memory
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def one_cycle(optimizer: torch.optim.Optimizer, *, steps: int, learning_rate: float, warmup_fraction: float, initial_division: float,
              final_division: float) -> LRScheduler:
    """Cosine up to `learning_rate` and down again over the run, momentum left alone (recognizers.md §3, §4)."""
    return OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps, pct_start=warmup_fraction, div_factor=initial_division,
                      final_div_factor=final_division, cycle_momentum=False)


def step_decay(optimizer: torch.optim.Optimizer, *, steps: int, at: list[float], factor: float) -> LRScheduler:
    """The rate times `factor` from each of `at` on, shares of the run (ABINet and SemiMTR; methods-2.md §5).

    A share of 0.6 of 10 steps leaves six steps at the rate before.
    """
    milestones = [round(share * steps) for share in at]
    return LambdaLR(optimizer, lambda done: factor ** sum(milestone <= done for milestone in milestones))
