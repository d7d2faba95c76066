"""How a sweep is made: how many trials, drawn by what, ended early by what, and how the winner is judged."""

from dataclasses import dataclass
from typing import Literal

from pipelines.errors import BadInput
from tuning.proposals import SearcherName

SchedulerName = Literal["asha", "median", "none"]
SPEED = "images_per_second"


@dataclass(frozen=True)
class Plan:
    """What `textray tune` was asked for.

    Args:
        trials: in all, the recipe itself among them; what earlier commands have tried counts. None: 8, or all of a grid.
        concurrency: trials at once; as many as fit if it is None.
        searcher: random; tpe, which learns from the trials before; grid, of every axis the choices, or three values.
        scheduler: asha ends the worse half at steps e, 2 e, 4 e … between validations; median ends a trial below the median of the others; none.
        speed: whether images per second count beside what is read: tpe then looks for trials that no other beats in both.
        seeds: with how many further seeds the best trial and the recipe itself are trained again.
        tests: labeled sets, NAME=PATH each, which the winner alone reads, once.
        gpus_per_trial: of a trial of one worker; less than 1 shares a GPU among trials. None: one if there is one.
        disk: what trials may take at most, in GB; None: whatever is free.
    """

    trials: int | None = None
    concurrency: int | None = None
    searcher: SearcherName = "random"
    scheduler: SchedulerName = "asha"
    speed: bool = False
    seeds: int = 0
    tests: tuple[str, ...] = ()
    gpus_per_trial: float | None = None
    disk: float | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("--trials", self.trials, 1), ("--concurrency", self.concurrency, 1), ("--seeds", self.seeds, 0)):
            if value is not None and value < least:
                raise BadInput(f"expected {name} of at least {least}, found {value}")
        if self.gpus_per_trial is not None and not (self.gpus_per_trial >= 0 and (self.gpus_per_trial < 1 or self.gpus_per_trial == int(self.gpus_per_trial))):
            raise BadInput(f"--gpus-per-trial: expected a part of a GPU, below 1, or whole ones, found {self.gpus_per_trial:g}")
        if self.disk is not None and self.disk <= 0:
            raise BadInput(f"--disk: expected more than 0 GB, found {self.disk:g}")
        if self.speed and self.searcher != "tpe":
            raise BadInput(f"--speed: expected --searcher tpe, which can look for two things at once, found {self.searcher}")
