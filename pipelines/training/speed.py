"""How long a step takes on this machine, measured in a few steps on noise: what a time budget buys before there is a run to ask."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from models.batch import Batch, Part
from pipelines.reading.batches import shape_of
from pipelines.training.device import sizes_of
from pipelines.training.loop import Numerics, Schedule, build_optimizer, fit
from pipelines.training.recipe import Recipe
from pipelines.training.worker import build_objective, in_bf16

WARM, TIMED = 3, 8  # steps
PATIENCE = 20.0  # seconds of timed steps, of which there are fewer where they are slow


def images_per_second(recipe: Recipe, batch_size: int) -> float:
    """Of one worker, in batches of labeled images, with views, loss, gradient and update."""
    return batch_size / _seconds(recipe, {"labeled": batch_size}, 1)


def seconds_a_step(recipe: Recipe, beside: int = 1) -> float:
    """Of one worker, of `beside` on this machine, in the batches of a recipe that says how large they are.

    Raises:
        BadInput: the recipe lacks a stream of its objective, or its objective cannot be built.
    """
    with torch.device("meta"):
        sizes = sizes_of(recipe, build_objective(recipe))
    return _seconds(recipe, sizes, beside)


def _seconds(recipe: Recipe, sizes: Mapping[str, int], beside: int) -> float:
    training = recipe.training
    device = torch.device("cuda" if torch.cuda.is_available() and training.gpu is not False else "cpu")
    with torch.random.fork_rng(devices=[]), threads(training.threads_per_worker or max(1, (os.cpu_count() or 1) // beside - 1)):  # as a worker has
        torch.manual_seed(0)
        objective = build_objective(recipe).to(device, memory_format=torch.channels_last)
        optimizer = build_optimizer([each for each in objective.parameters() if each.requires_grad], name=recipe.optimizer.name, learning_rate=1e-4, weight_decay=0.0)
        numerics = Numerics(device, in_bf16(recipe, device), accumulate=training.accumulate, skip_non_finite=True)

        def timed(steps: int) -> float:
            batches = (_noise(objective, sizes) for _ in range(steps * training.accumulate))
            began = time.perf_counter()
            fit(objective, objective, optimizer, None, batches, schedule=Schedule(steps), numerics=numerics)
            return (time.perf_counter() - began) / steps

        roughly = timed(WARM)
        return timed(max(1, min(TIMED, int(PATIENCE / roughly))))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _noise(objective: torch.nn.Module, sizes: Mapping[str, int]) -> Batch:
    """A batch of noise, its labels of random characters."""
    return Batch(**{name: _part(objective, size, name == "labeled") for name, size in sizes.items()})


def _part(objective: torch.nn.Module, size: int, labeled: bool) -> Part:
    shape, recognizer = shape_of(objective.recognizer), objective.recognizer
    images = torch.randint(0, 256, (size, 3, shape.height, shape.width), dtype=torch.uint8)
    characters, length = recognizer.charset.characters, min(6, recognizer.max_length)
    texts = ["".join(characters[int(place)] for place in torch.randint(0, len(characters), (length,))) for _ in range(size)] if labeled else None
    return Part(images, [str(number) for number in range(size)], texts)
