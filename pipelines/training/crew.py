"""Who trains a run: the workers of Ray Train (`distributed`), or one alone in the process of the command (`alone`).

What a worker does (`worker`) and what the driver settles around it (`driver`) are the same for both, and know no more of them than this.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch

from pipelines.corpus import storage
from pipelines.feed.stream import Share, Stream
from pipelines.training import checkpoints
from pipelines.training.recipe import Recipe
from pipelines.training.runs import RunFolder


@dataclass(frozen=True)
class Job:
    """What the driver tells every worker."""

    recipe: dict[str, Any]
    streams: dict[str, Stream]
    folder: str  # of the run, a path or URI
    done: int = 0  # steps of the checkpoint that the driver found whole; 0: the run begins
    own_files: dict[str, str] = field(default_factory=dict)  # text of the files of the user's own that the recipe names, by name
    start: dict[str, bytes] | None = None  # the files of the model to start from, by name: it may lie on the driver's machine alone


class Crew(Protocol):
    """The workers of a run, as one of them sees them."""

    rank: int
    world: int  # how many there are
    beside: int  # that share this machine
    device: torch.device  # this one's

    def blocks(self, stream: Stream, share: Share) -> Iterator[pa.Table]:
        """This worker's windows of a stream, in order, read ahead."""

    def report(self, numbers: dict[str, Any], checkpoint: Path | None) -> None:
        """Tell what was measured so far; every worker must, at the same steps. Rank 0 brings the folder of a checkpoint."""


class Engine(Protocol):
    """How the workers of a run are started."""

    def seconds_a_step(self, recipe: Recipe, own_files: dict[str, str]) -> float:
        """Measured on what a worker would train on, with the text of the files of the user's own that the recipe names."""

    def begin(self, recipe: Recipe, streams: dict[str, Stream]) -> None:
        """Settle what can be before the run is written down. Raises BadInput if the recipe cannot be trained here."""

    def fit(self, recipe: Recipe, job: Job, where: RunFolder) -> None:
        """Train to the last step. Raises BadInput for what a worker says of the user's input, and for a loss that is not finite."""


def bring(checkpoint: Path, place: str) -> str:
    """Bring the folder of a checkpoint to its place in a run, its record last; returns the place."""
    for file in (checkpoints.STATE, checkpoints.RECORD):
        storage.bring(str(checkpoint / file), storage.join(place, file))
    return place
