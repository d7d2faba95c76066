"""The part of a run's page that shows what an encoder learns from images alone: views, neighbours, a map, frames, codebooks."""

import colorsys
import math
from collections.abc import Sequence
from typing import Any

from pipelines.evaluation.look import Look, Place

WIDTH, HEIGHT, EDGE = 800, 480, 14  # of the map
CODES_WIDTH, CODES_HEIGHT = 320, 80
CONTRAST = 4.5  # of the map's letters with the ground of the page (WCAG 2.1, 1.4.3)
GROUNDS = {"light": "#ffffff", "dark": "#14171a"}  # as style.css has it


def values(look: Look) -> dict[str, Any]:
    """What `templates/pretraining.html` wants; what there is nothing of is left out."""
    return {"images": f"{look.images:,}", "step": f"{look.step:,}", "view_names": " and ".join(look.view_names), "viewed": look.viewed,
            "neighbours": look.neighbours, "frames": look.frames, "width": WIDTH, "height": HEIGHT, "places": _map(look.places),
            "codebooks": [_codes(name, counts) for name, counts in look.codebooks.items()] if look.codebooks else []}


def _map(places: Sequence[Place]) -> list[dict[str, Any]]:
    """A letter in the colour of its character, or a dot as bright as its ground."""
    known = sorted({place.label[0].lower() for place in places if place.label})
    colours = {character: [letter_colour(number / len(known), scheme) for scheme in GROUNDS] for number, character in enumerate(known)}
    return [_place(each, colours) for each in places]


def _place(place: Place, colours: dict[str, list[str]]) -> dict[str, Any]:
    found: dict[str, Any] = {"x": EDGE + place.x * (WIDTH - 2 * EDGE), "y": HEIGHT - EDGE - place.y * (HEIGHT - 2 * EDGE), "text": "", "label": place.label}
    if not place.label:
        gray = round(255 * place.ground)
        return found | {"ground": f"rgb({gray},{gray},{gray})"}
    light, dark = colours[place.label[0].lower()]
    return found | {"text": place.label[0], "light": light, "dark": dark}


def letter_colour(hue: float, scheme: str) -> str:
    """#rrggbb of a hue in [0, 1), as bright on the dark ground, as dark on the light one, as its letters must be to be read."""
    lightness = [step / 100 for step in range(50, 100)] if scheme == "dark" else [step / 100 for step in range(50, 0, -1)]
    for value in lightness:
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, value, 0.7))
        if contrast(colour, GROUNDS[scheme]) >= CONTRAST:
            return colour
    raise AssertionError("white on dark and black on light are always read")


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, #rrggbb each, from 1 to 21, as WCAG 2.1 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _codes(name: str, counts: Sequence[int]) -> dict[str, Any]:
    total, most, width = max(1, sum(counts)), max(1, *counts), CODES_WIDTH / len(counts)
    bars = [{"x": number * width, "width": width, "height": CODES_HEIGHT * count / most} for number, count in enumerate(counts) if count]
    used = math.exp(-sum(count / total * math.log(count / total) for count in counts if count))
    return {"name": name, "width": CODES_WIDTH, "height": CODES_HEIGHT, "bars": bars, "used": len(bars), "entries": len(counts), "effective": f"{used:.1f}"}
