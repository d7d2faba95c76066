"""What a worker's device has, what a step takes of it, and the largest batch that fits."""

import os
from dataclasses import dataclass

import torch
from torch import nn

from models.footprint import Footprint, step_bytes
from pipelines.errors import BadInput
from pipelines.training.recipe import Recipe

GIB = 2**30
SHARE = 0.9  # of a device's memory for what is counted; the rest is left to its context, to kernels' workspaces and to fragments


@dataclass(frozen=True)
class Device:
    """What each worker trains on. `memory`: bytes that are free on it; None if that is not known."""

    gpu: bool
    bf16: bool
    memory: int | None
    described: str

    @property
    def room(self) -> int | None:
        """Bytes for what a step takes."""
        return None if self.memory is None else int(self.memory * SHARE)


def device_of(recipe: Recipe, gpu_memory: float | None) -> Device:
    """The device on which the recipe's workers would train.

    Args:
        gpu_memory: GiB of the GPUs of another machine, for which is planned; None: what is here.

    Raises:
        BadInput: the recipe wants no GPU, and gpu_memory is given; or it wants one, and none is here.
    """
    training, here = recipe.training, torch.cuda.device_count()
    if gpu_memory is not None:
        if training.gpu is False:
            raise BadInput("--gpu-memory: expected a recipe that trains on GPUs, found training.gpu=false: take one of the two away")
        return Device(True, training.precision != "float32", int(gpu_memory * GIB), f"a GPU of {gpu_memory:g} GiB for each worker (--gpu-memory)")
    if training.gpu is not False and here >= training.workers:
        bf16 = training.precision == "bf16" or (training.precision == "auto" and torch.cuda.is_bf16_supported())
        return Device(True, bf16, torch.cuda.mem_get_info()[0], f"{torch.cuda.get_device_name()} for each worker")
    if training.gpu and not _elsewhere():
        raise BadInput(f"training.gpu=true: expected {training.workers} GPUs, found {here} here: say --gpu-memory GIB of the machine that will train")
    if training.gpu:
        return Device(True, training.precision != "float32", None, "a GPU of the cluster for each worker; --gpu-memory GIB says how large")
    if _elsewhere():
        return Device(False, training.precision == "bf16", None, "the cluster's CPUs; say --gpu-memory GIB if it has GPUs")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // training.workers
    return Device(False, training.precision == "bf16", memory, f"the CPUs of this machine, {memory / GIB:.1f} GiB of its memory for each worker")


def _elsewhere() -> bool:
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


def check_fits(recipe: Recipe, objective: nn.Module, found: Footprint, device: Device) -> None:
    """Refuse a step that is larger than its device.

    Raises:
        BadInput: with the arithmetic, and the largest batch that fits.
    """
    need = found.memory(recipe.optimizer.name, recipe.training.workers)
    if device.room is None or need <= device.room:
        return
    fixed = need - found.activations
    fitting = largest_batches(objective, sizes_of(recipe, objective), device.room - fixed, bf16=device.bf16)
    mend = "no batch fits: take a larger device or a smaller recognizer"
    if fitting:
        mend = "the largest that fits is " + " ".join(f"data.{part}.batch_size={size}" for part, size in fitting.items()) \
            + ", with training.accumulate for the rest"
    raise BadInput(f"would not fit: a worker needs {gib(need)} ({gib(fixed)} for weights, gradients and optimizer, "
                   f"{gib(found.activations)} for the images of a step), found {gib(device.room)} ({SHARE:.0%} of {gib(device.memory)} on "
                   f"{device.described}): {mend}")


def largest_batches(objective: nn.Module, sizes: dict[str, int], room: int, *, bf16: bool) -> dict[str, int]:
    """The largest batches in these proportions whose step holds at most `room` bytes; empty if not even one image fits.

    What a step holds grows by the same for each image, but for what it holds once, so two batches say where to look; that one is counted then.
    """
    half = {part: max(1, size // 2) for part, size in sizes.items()}
    whole_bytes, half_bytes = (step_bytes(objective, each, bf16=bf16) for each in (sizes, half))
    images, fewer = sum(sizes.values()), sum(half.values())
    if images == fewer:
        return {}
    each = (whole_bytes - half_bytes) / (images - fewer)
    share = (images - (whole_bytes - room) / each) / images
    while share > 0:
        batches = {part: int(size * share) for part, size in sizes.items()}
        if min(batches.values()) < 1:
            break
        if step_bytes(objective, batches, bf16=bf16) <= room:
            return batches
        share *= 0.97
    return {}


def sizes_of(recipe: Recipe, objective: nn.Module) -> dict[str, int]:
    """The images that a worker takes at a time, of each stream that the objective has views for.

    Raises:
        BadInput: the recipe lacks one of them.
    """
    sizes = {}
    for part in objective.views:
        source = getattr(recipe.data, part)
        if source is None:
            raise BadInput(f"the objective {recipe.objective['name']} needs data.{part} (its corpus and batch_size), found none in the recipe")
        sizes[part] = source.batch_size
    return sizes


def gib(count: float) -> str:
    """Bytes as 4.32 GiB, or as 12.3 MiB."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
