"""How many images a second this machine trains on, measured in a few steps on noise: what a time budget buys before there is a run to ask."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.batch import Batch, Part
from pipelines.reading.batches import shape_of
from pipelines.training.loop import Numerics, Schedule, build_optimizer, fit
from pipelines.training.recipe import Recipe
from pipelines.training.worker import build_objective

WARM, TIMED = 3, 8  # steps


def images_per_second(recipe: Recipe, batch_size: int) -> float:
    """Of one worker, in batches of labeled images, with views, loss, gradient and update."""
    device = torch.device("cuda" if torch.cuda.is_available() and recipe.training.gpu is not False else "cpu")
    with torch.random.fork_rng(devices=[]), threads(max(1, (os.cpu_count() or 1) - 1)):  # as a worker has
        torch.manual_seed(0)
        objective = build_objective(recipe).to(device, memory_format=torch.channels_last)
        optimizer = build_optimizer([each for each in objective.parameters() if each.requires_grad], name=recipe.optimizer.name, learning_rate=1e-4, weight_decay=0.0)
        batches = (_noise(objective, batch_size) for _ in range(WARM + TIMED))
        fit(objective, objective, optimizer, None, batches, schedule=Schedule(WARM), numerics=Numerics(device))
        began = time.perf_counter()
        fit(objective, objective, optimizer, None, batches, schedule=Schedule(TIMED), numerics=Numerics(device))
        return TIMED * batch_size / (time.perf_counter() - began)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _noise(objective: torch.nn.Module, size: int) -> Batch:
    shape, characters = shape_of(objective.recognizer), objective.recognizer.charset.characters
    images = torch.randint(0, 256, (size, 3, shape.height, shape.width), dtype=torch.uint8)
    texts = ["".join(characters[int(place)] for place in torch.randint(0, len(characters), (6,))) for _ in range(size)]
    return Batch(labeled=Part(images, [str(number) for number in range(size)], texts))
