"""Where the lines of a sweep's drawings lie; `sweep.html` among the pages' templates draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from tuning.space import Axis
from tuning.trials import TrialResult

PARTS = ("best", "upper", "middle", "lower")  # of the trials, by what they reached: each has a colour of its own


class Line(NamedTuple):
    """A trial."""

    name: str
    part: str  # one of PARTS
    stopped: bool
    points: list[tuple[float, float]]
    about: str


def part_of(place: int, trials: int) -> str:
    """The best alone, then thirds of the others."""
    return PARTS[0] if place == 0 else PARTS[1 + min(2, 3 * (place - 1) // max(1, trials - 1))]


def measured(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Those that reached a validation, the best first."""
    return sorted((trial for trial in trials if trial.accuracy is not None), key=lambda trial: -trial.accuracy)


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: a line of each trial across its values and what it reached."""

    WIDTH: ClassVar[int] = 760
    HEIGHT: ClassVar[int] = 250
    TOP: ClassVar[int] = 22
    BASE: ClassVar[int] = 205

    columns: list[tuple[float, str, str, str]]  # place, name, and what stands at the foot and at the head
    lines: list[Line]

    @classmethod
    def of(cls, axes: Sequence[Axis], trials: Sequence[TrialResult], decides: str) -> "Parallel":
        """The drawing; at least one trial was measured. A value that is not searched beside the others leaves the line out of that column."""
        found = measured(trials)
        low, high = found[-1].accuracy, found[0].accuracy
        places = [60 + (cls.WIDTH - 120) * number / len(axes) for number in range(len(axes) + 1)]
        ends = [_ends(axis) for axis in axes] + [(f"{100 * low:.1f} %", f"{100 * high:.1f} %")]
        columns = [(place, name, foot, head) for place, name, (foot, head) in zip(places, [*(axis.name for axis in axes), decides], ends, strict=True)]
        lines = []
        for place, trial in enumerate(found):
            points = [(x, cls._up(axis.position(trial.values[axis.field]))) for x, axis in zip(places, axes, strict=False) if axis.field in trial.values]
            points.append((places[-1], cls._up((trial.accuracy - low) / ((high - low) or 1))))
            lines.append(Line(trial.name, part_of(place, len(found)), bool(trial.stopped), points, f"{trial.name}: {100 * trial.accuracy:.2f} %"))
        return cls(columns, lines[::-1])

    @classmethod
    def _up(cls, share: float) -> float:
        return cls.BASE - share * (cls.BASE - cls.TOP)


def _ends(axis: Axis) -> tuple[str, str]:
    return (str(axis.choices[0]), str(axis.choices[-1])) if axis.kind == "choice" else (f"{axis.low:g}", f"{axis.high:g}")


@dataclass(frozen=True)
class Curves:
    """What decides over steps, a line of each trial."""

    WIDTH: ClassVar[int] = 760
    HEIGHT: ClassVar[int] = 250
    LEFT: ClassVar[int] = 56
    RIGHT: ClassVar[int] = 740
    TOP: ClassVar[int] = 10
    BASE: ClassVar[int] = 214

    lines: list[Line]
    ticks: list[tuple[float, str]]  # of the vertical axis
    last: str  # step

    @classmethod
    def of(cls, trials: Sequence[TrialResult]) -> "Curves":
        """The drawing; at least one trial was measured."""
        found = measured(trials)
        values, steps = [reached for trial in found for _, reached in trial.curve], max(step for trial in found for step, _ in trial.curve)
        low, high = min(values), max(values)
        high = high if high > low else low + 0.01

        def place(step: float, reached: float) -> tuple[float, float]:
            return cls.LEFT + step / steps * (cls.RIGHT - cls.LEFT), cls.BASE - (reached - low) / (high - low) * (cls.BASE - cls.TOP)

        lines = [Line(trial.name, part_of(number, len(found)), bool(trial.stopped), [place(*point) for point in trial.curve], f"{trial.name}: {100 * trial.accuracy:.2f} %")
                 for number, trial in enumerate(found)]
        ticks = [(place(0, value)[1], f"{100 * value:.1f} %") for value in (low, (low + high) / 2, high)]
        return cls(lines[::-1], ticks, f"{steps:,}")
