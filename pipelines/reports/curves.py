"""Curves over the steps of a run as inline SVG, in the colours of the page around them."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 320, 132  # of the drawing, in its own units
LEFT, RIGHT, TOP, BASE = 46, 8, 8, 112  # where the curve lies
POINTS = 400  # of a curve; of more, neighbours are averaged

STYLE = """
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: .6rem 1.2rem; }
.curves figure { margin: 0; display: flex; flex-direction: column; justify-content: space-between; }
.curves figcaption { font-size: .85rem; } .curves figcaption b { font-weight: 600; }
svg.curve { display: block; width: 100%; height: auto; }
svg.curve .line { fill: none; stroke: var(--bar); stroke-width: 1.8; stroke-linejoin: round; }
svg.curve .dot { fill: var(--bar); } svg.curve .axis { stroke: currentColor; opacity: .4; fill: none; }
svg.curve text { fill: currentColor; opacity: .8; font: 10px system-ui, sans-serif; }
"""

Point = tuple[float, float]  # step, value


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most so many points: of neighbours the mean of their steps and of their values. The last point stays as it is."""
    if len(points) <= most:
        return list(points)
    bounds = [number * (len(points) - 1) // (most - 1) for number in range(most)]
    parts = [points[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
    return [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts] + [points[-1]]


def curve(points: Sequence[Point], name: str, share: bool = False) -> str:
    """The SVG of one curve of finite values, steps rising; at least one point.

    share: whether the values lie between 0 and 1, which is the axis then; else it goes from 0, or the least value below it, to the greatest.
    """
    low, high = (0.0, 1.0) if share else (min(0.0, *(value for _, value in points)), max(0.0, *(value for _, value in points)))
    high = high if high > low else 1.0
    first, last = points[0][0], points[-1][0]
    places = [(_along(step, first, last, LEFT, WIDTH - RIGHT), _along(value, low, high, BASE, TOP)) for step, value in thinned(points)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    numbers = "".join(f'<text x="{LEFT - 5}" y="{_along(value, low, high, BASE, TOP) + 3:.1f}" text-anchor="end">{number(value)}</text>'
                      for value in (low, (low + high) / 2, high))
    return (f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
            f'<path class="axis" d="M{LEFT} {TOP}V{BASE}H{WIDTH - RIGHT}"/>{numbers}'
            f'<text x="{LEFT}" y="{BASE + 14}">step {first:,.0f}</text><text x="{WIDTH - RIGHT}" y="{BASE + 14}" text-anchor="end">{last:,.0f}</text>'
            f'<polyline class="line" points="{line}"/><circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{number(points[-1][1])}</title>'
            "</circle></svg>")


def number(value: float) -> str:
    """With three digits that say something, and thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _along(value: float, low: float, high: float, start: float, end: float) -> float:
    return start if low == high else start + (value - low) / (high - low) * (end - start)
