"""Histograms as inline SVG, in the colours of the page around them."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

WIDTH, HEIGHT = 240, 108  # of the drawing, in its own units
BASE, TOP = 88, 4  # the ground and the ceiling of the bars
BINS = 28
LINEAR_UPTO = 40  # quantities that span no more are drawn on a linear axis unless a logarithmic one is wanted
TICKS = 5
APART = 8  # between the numbers of two ticks
DIGIT = 6  # the width of a character of them


@dataclass(frozen=True)
class Axis:
    """Bins along a linear or logarithmic axis, shared by the histograms that are to be compared."""

    edges: tuple[float, ...]  # ascending
    logarithmic: bool
    whole: bool  # whether the values are integers; the edges then lie between them
    zero: bool = False  # whether a zero, which has no logarithm, counts into the first bin

    @classmethod
    def over(cls, values: Iterable[float], *, whole: bool, logarithmic: bool) -> "Axis | None":
        """The axis that holds all values (which are not negative); None without any."""
        least, most = min(values, default=None), max(values, default=None)
        if least is None:
            return None
        logarithmic = logarithmic or most - least > LINEAR_UPTO
        low, high = (least - 0.5, most + 0.5) if whole else (least / 1.05, most * 1.05)
        if logarithmic:
            low = max(low, 0.5 if whole else 1e-6)
            edges = [low * (high / low) ** (step / BINS) for step in range(BINS + 1)]
        else:
            bins = round(high - low) if whole else BINS
            edges = [low + (high - low) * step / bins for step in range(bins + 1)]
        if whole and logarithmic:
            edges = [low, *sorted({math.floor(edge) + 0.5 for edge in edges[1:-1] if low < math.floor(edge) + 0.5 < high}), high]
        return cls(tuple(edges), logarithmic, whole, zero=logarithmic and least == 0)

    def place(self, value: float) -> float:
        """Where a value lies along the axis, from 0 to 1."""
        low, high, value = self.edges[0], self.edges[-1], max(value, self.edges[0])
        return math.log(value / low) / math.log(high / low) if self.logarithmic else (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the axis, about five."""
        low, high = self.edges[0], self.edges[-1]
        if self.logarithmic:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [round(step * 10.0**power, 6) for power in powers for step in steps]
                found = [value for value in found if low <= value <= high]
                if len(found) <= TICKS + 1:
                    break
            if len(found) >= 2:
                return found
        raw = (high - low) / TICKS
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(step * unit for step in (1, 2, 5, 10) if step * unit >= raw)
        step = max(step, 1) if self.whole else step
        return [round(step * number, 6) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


class Bar(NamedTuple):
    """A bar in units of the drawing."""

    x: float
    width: float
    height: float
    about: str


class Tick(NamedTuple):
    """A mark below the axis."""

    place: float
    centre: float  # of its number
    text: str | None  # None where there is no room


@dataclass(frozen=True)
class Histogram:
    """One histogram, as `templates/charts.html` draws it."""

    WIDTH: ClassVar[int] = WIDTH
    HEIGHT: ClassVar[int] = HEIGHT
    BASE: ClassVar[int] = BASE

    about: str
    bars: list[Bar]
    ticks: list[Tick]

    @classmethod
    def of(cls, counts: Counter, axis: Axis, about: str) -> "Histogram":
        """The drawing of values by their counts.

        A bar's height is its count over its width on the axis, so that bins of unequal width (integers on a logarithmic axis) compare.
        """
        bins = [0] * (len(axis.edges) - 1)
        for value, count in counts.items():
            bins[min(max(bisect_right(axis.edges, value) - 1, 0), len(bins) - 1)] += count
        places = [axis.place(edge) * WIDTH for edge in axis.edges]
        density = [count / (right - left) for count, left, right in zip(bins, places, places[1:], strict=False)]
        scale = (BASE - TOP) / max(density)
        bars = [Bar(left + 0.5, max(right - left - 1, 0.5), max(height * scale, 1), f"{_range(axis, index)}: {bins[index]:,}")
                for index, (height, left, right) in enumerate(zip(density, places, places[1:], strict=False)) if bins[index]]
        return cls(about, bars, _ticks(axis))


def _ticks(axis: Axis) -> list[Tick]:
    """Marks below the axis with their numbers, as far as these have room."""
    found, free = [], 0.0
    for tick in axis.ticks():
        place, number = axis.place(tick) * WIDTH, _number(tick)
        half = DIGIT * len(number) / 2
        centre = min(max(place, half), WIDTH - half)
        fits = centre - half >= free
        found.append(Tick(place, centre, number if fits else None))
        free = centre + half + APART if fits else free
    return found


def _number(value: float) -> str:
    """1500 as 1.5k, 2000000 as 2M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _range(axis: Axis, index: int) -> str:
    low, high = axis.edges[index:index + 2]
    if not axis.whole:
        return f"{low:.3g} to {high:.3g}"
    first, last = (0 if index == 0 and axis.zero else math.ceil(low)), math.floor(high)
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"
