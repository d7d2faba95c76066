"""Curves over the steps of a run as inline SVG, in the colours of the page around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

WIDTH, HEIGHT = 320, 132  # of the drawing, in its own units
POINTS = 400  # of a curve; of more, neighbours are averaged

Point = tuple[float, float]  # step, value


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most so many points: of neighbours the mean of their steps and of their values. The last point stays as it is."""
    if len(points) <= most:
        return list(points)
    bounds = [number * (len(points) - 1) // (most - 1) for number in range(most)]
    parts = [points[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
    return [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts] + [points[-1]]


@dataclass(frozen=True)
class Curve:
    """One curve of finite values by steps, as `templates/charts.html` draws it."""

    WIDTH: ClassVar[int] = WIDTH
    HEIGHT: ClassVar[int] = HEIGHT
    LEFT: ClassVar[int] = 46  # where the curve lies
    RIGHT: ClassVar[int] = 8  # from the right edge
    TOP: ClassVar[int] = 8
    BASE: ClassVar[int] = 112

    about: str
    places: list[tuple[float, float]]
    ticks: list[tuple[float, str]]  # of the vertical axis: place and number
    first: str  # step
    last: str
    value: str  # the last one

    @classmethod
    def of(cls, points: Sequence[Point], about: str, share: bool = False) -> "Curve":
        """The drawing of at least one point, steps rising.

        share: whether the values lie between 0 and 1, which is the axis then; else it goes from 0, or the least value below it, to the greatest.
        """
        low, high = (0.0, 1.0) if share else (min(0.0, *(value for _, value in points)), max(0.0, *(value for _, value in points)))
        high = high if high > low else 1.0
        first, last = points[0][0], points[-1][0]
        places = [(_along(step, first, last, cls.LEFT, cls.WIDTH - cls.RIGHT), _along(value, low, high, cls.BASE, cls.TOP)) for step, value in thinned(points)]
        ticks = [(_along(value, low, high, cls.BASE, cls.TOP) + 3, number(value)) for value in (low, (low + high) / 2, high)]
        return cls(about, places, ticks, f"{first:,.0f}", f"{last:,.0f}", number(points[-1][1]))


def number(value: float) -> str:
    """With three digits that say something, and thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3g}"


def _along(value: float, low: float, high: float, start: float, end: float) -> float:
    return start if low == high else start + (value - low) / (high - low) * (end - start)
