"""How fast a run is and what holds it up: the time it waits for images, the memory it takes, and the share of a GPU's arithmetic that the model uses.

Model FLOPs utilisation is that of Chowdhery et al. (PaLM, 2022, appendix B): the products of a step's forward and backward pass, each multiply-add counted
as two, per second, as a share of what the device can do in bfloat16 with dense matrices by its maker's data sheet.
"""

import re
import resource
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from models.footprint import NeedsValues, products_of
from pipelines.progress import warn
from pipelines.training.device import GIB, sizes_of
from pipelines.training.machine import Machine
from pipelines.training.recipe import Recipe

Item = TypeVar("Item")
PEAKS = {"GH200": 989e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "A800": 312e12, "A30": 165e12, "A40": 149.7e12,
         "A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12}  # FLOP/s by part of the name
LARGEST = "memory_gib"  # of which the ranks' largest counts


class Meter:
    """Measures between two logged steps."""

    def __init__(self, device: torch.device, step_flops: float | None = None) -> None:
        """step_flops: floating-point operations of the model in one step of this rank; None if that is not known."""
        self.device = device
        peak = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.share_of_a_step = step_flops / peak if step_flops and peak else None  # of the device's second
        self.waited, self.since, self.step = 0.0, 0.0, None
        self.machine = Machine(device)

    def agree(self) -> None:
        """Between several ranks: all of them log `flops_utilisation`, and how busy their GPUs are, or none, where one of them does not know."""
        known = torch.tensor([self.share_of_a_step is not None, self.machine.tells], device=self.device, dtype=torch.int32)
        torch.distributed.all_reduce(known, torch.distributed.ReduceOp.MIN)
        of_share, of_machine = known.tolist()
        self.share_of_a_step, self.machine.tells = self.share_of_a_step if of_share else None, bool(of_machine)

    def waiting(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items; the time that each keeps its consumer waiting is counted."""
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - began
            yield item

    def numbers(self, step: int) -> dict[str, float]:
        """`memory_gib`, at most so far (of a GPU, on a CPU of the process), and since the last call `waiting_fraction` of the time and, on a known GPU,
        `flops_utilisation`, and what the machine is busy with. The first call, to which everything starts, begins to measure."""
        now, before, waited = time.perf_counter(), self.step, self.waited
        elapsed = max(now - self.since, 1e-9)
        self.waited, self.since, self.step = 0.0, now, step
        found = {LARGEST: memory(self.device) / GIB}
        of_machine = self.machine.numbers()
        if before is None:
            return found
        if self.share_of_a_step is not None:
            found["flops_utilisation"] = self.share_of_a_step * (step - before) / elapsed
        return {**found, "waiting_fraction": min(waited / elapsed, 1.0), **of_machine}


def memory(device: torch.device) -> int:
    """Bytes at most so far: allocated on a GPU, else resident of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of(name: str) -> float | None:
    """FLOP/s in bfloat16 of the GPU of that name; None if it is not in the table, as variants of those that are in it are not."""
    if re.search(r"\b(NVL|Laptop|Ti|Max-Q|SUPER)\b", name):
        return None
    return next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)


def step_flops(recipe: Recipe, objective: nn.Module, device: torch.device) -> float | None:
    """Of one step of one worker. None on a CPU, whose peak nobody tells, and of an objective that cannot run on shapes: one that looks at values, or one of the
    user's own."""
    if device.type != "cuda":
        return None
    try:
        return 2.0 * products_of(objective, sizes_of(recipe, objective)) * recipe.training.accumulate
    except (NeedsValues, RuntimeError, TypeError, ValueError) as problem:
        warn(f"flops_utilisation is not measured: a step of the objective cannot run on shapes alone ({problem})")
        return None
