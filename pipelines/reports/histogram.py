"""Histograms as inline SVG, in the colours of the page around them."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

WIDTH, HEIGHT = 240, 108  # of the drawing, in its own units
BASE, TOP = 88, 4  # the ground and the ceiling of the bars
BINS = 28
LINEAR_UPTO = 40  # quantities that span no more are drawn on a linear axis unless a logarithmic one is wanted
TICKS = 5
APART = 8  # between the numbers of two ticks
DIGIT = 6  # the width of a character of them

STYLE = """
svg.histogram { display: block; width: 100%; height: auto; }
svg.histogram .bars { fill: var(--bar); } svg.histogram .axis { stroke: currentColor; opacity: .4; }
svg.histogram text { fill: currentColor; opacity: .75; font: 10px system-ui, sans-serif; text-anchor: middle; }
"""


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


def histogram(counts: Counter, axis: Axis, name: str) -> str:
    """The SVG of one histogram.

    A bar's height is its count over its width on the axis, so that bins of unequal width (integers on a logarithmic
    axis) compare; its title holds the count. `name` must be safe in an attribute.
    """
    bins = [0] * (len(axis.edges) - 1)
    for value, count in counts.items():
        bins[min(max(bisect_right(axis.edges, value) - 1, 0), len(bins) - 1)] += count
    places = [axis.place(edge) * WIDTH for edge in axis.edges]
    density = [count / (right - left) for count, left, right in zip(bins, places, places[1:], strict=False)]
    scale = (BASE - TOP) / max(density)
    bars = "".join(
        f'<rect x="{left + 0.5:.1f}" y="{BASE - height * scale:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
        f'height="{max(height * scale, 1):.1f}"><title>{_range(axis, index)}: {bins[index]:,}</title></rect>'
        for index, (height, left, right) in enumerate(zip(density, places, places[1:], strict=False)) if bins[index])
    return (f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}"><g class="bars">{bars}</g>'
            f'<path class="axis" d="M0 {BASE}H{WIDTH}"/>{_ticks(axis)}</svg>')


def _ticks(axis: Axis) -> str:
    """Marks below the axis with their numbers, as far as these have room."""
    pieces, free = [], 0.0
    for tick in axis.ticks():
        place, number = axis.place(tick) * WIDTH, _number(tick)
        half = DIGIT * len(number) / 2
        centre = min(max(place, half), WIDTH - half)
        pieces.append(f'<path class="axis" d="M{place:.1f} {BASE}v4"/>')
        if centre - half >= free:
            pieces.append(f'<text x="{centre:.1f}" y="{BASE + 15}">{number}</text>')
            free = centre + half + APART
    return "".join(pieces)


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
