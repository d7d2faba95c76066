"""Where the lines and dots of a page's drawings lie; `templates/charts.html` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


class Dot(NamedTuple):
    """An accuracy with its interval, in units of the drawing."""

    x: float
    y: float
    low: float
    high: float
    about: str


class Line(NamedTuple):
    """One part of the data."""

    name: str
    middle: float
    dots: list[Dot]


@dataclass(frozen=True)
class Intervals:
    """Accuracies from 0 to 100 % with their intervals, a line for each part, a dot for each model."""

    WIDTH: ClassVar[int] = 460
    LEFT: ClassVar[int] = 168
    RIGHT: ClassVar[int] = 16
    STEP: ClassVar[int] = 24  # from line to line

    about: str
    lines: list[Line]
    height: int

    @classmethod
    def of(cls, about: str, parts: Sequence[tuple[str, Sequence[tuple[float, tuple[float, float], str]]]]) -> "Intervals":
        """The drawing of (name, (accuracy, interval, said of it) for each model) parts; accuracies in [0, 1]."""
        lines = []
        for number, (name, measured) in enumerate(parts):
            middle = cls.STEP * (number + 0.5)
            apart = [middle + 7 * (place - (len(measured) - 1) / 2) for place in range(len(measured))]
            dots = [Dot(cls.along(value), y, cls.along(low), cls.along(high), said) for y, (value, (low, high), said) in zip(apart, measured, strict=True)]
            lines.append(Line(name if len(name) <= 24 else f"{name[:23]}…", middle, dots))
        return cls(about, lines, cls.STEP * len(lines) + 20)

    @classmethod
    def along(cls, value: float) -> float:
        """Where a share lies."""
        return cls.LEFT + value * (cls.WIDTH - cls.LEFT - cls.RIGHT)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Every fifth of the axis."""
        return [(self.along(fifth / 5), str(20 * fifth)) for fifth in range(6)]


class Spot(NamedTuple):
    """A dot of a square, in units of the drawing."""

    x: float
    y: float
    radius: float
    about: str


@dataclass(frozen=True)
class Square:
    """A line and dots between 0 and 100 % both ways."""

    WIDTH: ClassVar[int] = 336
    HEIGHT: ClassVar[int] = 250
    LEFT: ClassVar[int] = 46
    RIGHT: ClassVar[int] = 322
    TOP: ClassVar[int] = 8
    BASE: ClassVar[int] = 214

    about: str
    across: str  # what the axes are
    up: str
    line: list[tuple[float, float]]
    dots: list[Spot]
    ideal: bool = False  # whether the diagonal is drawn

    @classmethod
    def of(cls, about: str, across: str, up: str, *, line: Sequence[tuple[float, float]] = (), dots: Sequence[tuple[float, float, float, str]] = (),
           ideal: bool = False) -> "Square":
        """The drawing of a line of (across, up) shares and of dots (across, up, weight in [0, 1], said of it)."""
        return cls(about, across, up, [cls.place(*point) for point in line], [Spot(*cls.place(x, y), 2 + 5 * weight**0.5, said) for x, y, weight, said in dots], ideal)

    @classmethod
    def place(cls, x: float, y: float) -> tuple[float, float]:
        """Where two shares lie."""
        return cls.LEFT + x * (cls.RIGHT - cls.LEFT), cls.BASE - y * (cls.BASE - cls.TOP)

    @property
    def ticks(self) -> list[tuple[float, float, str]]:
        """Every fifth of both axes."""
        return [(*self.place(fifth / 5, fifth / 5), str(20 * fifth)) for fifth in range(6)]


def thinned(points: Sequence[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most so many of a line's points, evenly, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(number * (len(points) - 1) / (most - 1))] for number in range(most)]
