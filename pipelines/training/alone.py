"""One worker, in the process of the command: it begins at once, where Ray takes most of a minute to start its processes.

This is how a run of one worker is trained, unless RAY_ADDRESS names a cluster (`ray job submit` sets it; `local` asks for a Ray of this
machine). The order of the images, the numbers and the checkpoints are those of one worker under Ray Train: a run may be begun here and
continued there. What this process cannot is outlive itself: `training.max_failures` concerns workers that others can start anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import torch

from pipelines import cluster
from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.feed import windows
from pipelines.feed.stream import Share, Stream
from pipelines.training.crew import Job, bring
from pipelines.training.loop import NonFinite
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder
from pipelines.training.speed import seconds_a_step
from pipelines.training.worker import work


def trains_alone(recipe: Recipe) -> bool:
    """Whether a run needs no Ray."""
    return recipe.training.workers == 1 and not cluster.asked_for()


@dataclass(frozen=True)
class Alone:
    """A crew of one."""

    where: RunFolder
    device: torch.device
    beside: int
    tell: Callable[[dict[str, Any]], None]
    rank, world = 0, 1

    def blocks(self, stream: Stream, share: Share) -> Iterator[pa.Table]:
        """The windows, read by threads of this process."""
        return windows.local_blocks(stream, share)

    def report(self, numbers: dict[str, Any], checkpoint: Path | None) -> None:
        """Bring a checkpoint under a name as Ray Train gives it, then tell."""
        if checkpoint is not None:
            bring(checkpoint, storage.join(self.where.checkpoints, f"checkpoint_{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"))
        self.tell(numbers)


def nobody(numbers: dict[str, Any]) -> None:
    """Who is told where nobody wants to know."""


class InProcess:
    """The engine of such a run.

    tell: gets the numbers of every report, such as Tune.
    beside: how many such runs share this machine.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None] = nobody, beside: int = 1):
        self._tell, self._beside = tell, beside

    def seconds_a_step(self, recipe: Recipe, own_files: dict[str, str]) -> float:
        """Measured in this process."""
        return seconds_a_step(recipe, self._beside)

    def begin(self, recipe: Recipe, streams: dict[str, Stream]) -> None:
        """Nothing is to be started. Raises BadInput for a GPU that is wanted and not there."""
        if recipe.training.gpu and not torch.cuda.is_available():
            raise BadInput("training.gpu: expected a GPU on this machine, found none that PyTorch can use: leave it out to train on the CPU")

    def fit(self, recipe: Recipe, job: Job, where: RunFolder) -> None:
        """Train; the threads and the random numbers of whoever called are left as they were."""
        device = torch.device("cpu" if recipe.training.gpu is False or not torch.cuda.is_available() else "cuda")
        windows.forget()  # a corpus may have been written anew since this process read it last
        threads, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # of a run before it in this process
        try:
            with torch.random.fork_rng(devices=[] if device.type == "cpu" else [torch.cuda.current_device()]):
                work(job, Alone(where, device, self._beside, self._tell))
        except NonFinite as problem:
            raise BadInput(str(problem)) from None
        finally:
            torch.set_num_threads(threads)
            cv2.setNumThreads(of_opencv)
