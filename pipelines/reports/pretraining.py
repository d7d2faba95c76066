"""The part of a run's page that shows what an encoder learns from images alone: views, neighbours, a map, frames, codebooks."""

import math
from collections.abc import Sequence
from html import escape

from pipelines.evaluation.look import Frames, Look, Neighbours, Place, Thumb, Viewed
from pipelines.reports import html

STYLE = """
.strip { display: flex; flex-wrap: wrap; gap: .5rem; align-items: end; margin: .5rem 0; }
.strip figure { margin: 0; } .strip figcaption { font-size: .8rem; } .strip img { display: block; height: 2.6rem; }
.strip figure.first { padding-right: .6rem; border-right: 2px solid var(--line); }
.strip img.frames { height: 9rem; width: 9rem; image-rendering: pixelated; }
svg.map { width: 100%; max-width: 50rem; height: auto; border: 1px solid var(--line); --light: 38%; }
svg.map text { font: 600 11px system-ui, sans-serif; } svg.map circle { stroke: currentColor; stroke-opacity: .5; }
svg.codes { width: 22rem; height: auto; } svg.codes rect { fill: var(--bar); }
@media (prefers-color-scheme: dark) { svg.map { --light: 72%; } }
"""
WIDTH, HEIGHT, EDGE = 800, 480, 14  # of the map
CODES_WIDTH, CODES_HEIGHT = 320, 80


def pieces(look: Look) -> list[str]:
    """HTML, section by section; what there is nothing of is left out."""
    found = [html.heading("What the encoder sees"),
             html.paragraph(f"Of {look.images:,} unlabeled images at step {look.step:,}. Labels, where they are known, are withheld from training.")]
    sections = (
        ("Views", f"Each image and its views ({' and '.join(look.view_names)}): what two views have in common is what is learned.",
         [_viewed(each) for each in look.viewed]),
        ("Nearest neighbours", "Each image and the four whose features lie nearest, with the cosine. Alike in text: it learns to read; alike in ground or "
         "blur alone: it has found a shortcut.", [_neighbours(each) for each in look.neighbours]),
        ("Map", "Every image on the two principal axes of all: its first character, coloured by it, where the label is known, else a dot as bright as "
         "its ground. Neighbours of one colour are alike in text.", [_map(look.places)]),
        ("Frames along a word", "The cosine of every two frames of a word: white 1, black -1. One white square: all frames say the same; squares "
         "along the diagonal: characters.", ['<div class="strip">' + "".join(_frames(each) for each in look.frames) + "</div>"]),
        ("Codebooks", "How many positions chose each entry, the most used first. A codebook of which few entries are used has collapsed.",
         ['<div class="strip">' + "".join(_codes(name, counts) for name, counts in look.codebooks.items()) + "</div>"] if look.codebooks else []))
    for title, about, drawn in sections:
        if drawn:
            found += [html.subheading(title), html.paragraph(about), *drawn]
    return found


def _viewed(each: Viewed) -> str:
    return f'<div class="strip">{_thumb(each.image, first=True)}' + "".join(f"<figure>{_image(view)}</figure>" for view in each.views) + "</div>"


def _neighbours(each: Neighbours) -> str:
    near = "".join(_thumb(thumb, f"{value:.2f}") for thumb, value in zip(each.near, each.similarity, strict=True))
    return f'<div class="strip">{_thumb(each.image, first=True)}{near}</div>'


def _frames(each: Frames) -> str:
    return (f'<figure>{_image(each.image.picture)}<img class="frames" src="data:image/png;base64,{escape(each.similarity)}" alt="cosines of the frames">'
            f"<figcaption>{_text(each.image)}</figcaption></figure>")


def _thumb(thumb: Thumb, more: str = "", first: bool = False) -> str:
    caption = " ".join(filter(None, (_text(thumb), escape(more))))
    return f'<figure{" class=first" if first else ""}>{_image(thumb.picture)}<figcaption>{caption or "&nbsp;"}</figcaption></figure>'


def _text(thumb: Thumb) -> str:
    return escape(thumb.label or "")


def _image(picture: str) -> str:
    return f'<img src="data:image/png;base64,{escape(picture)}" alt="">'


def _map(places: Sequence[Place]) -> str:
    known = sorted({place.label[0].lower() for place in places if place.label})
    hues = {character: 360 * number / len(known) for number, character in enumerate(known)}
    return f'<svg class="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="map of the images">{"".join(_place(each, hues) for each in places)}</svg>'


def _place(place: Place, hues: dict[str, float]) -> str:
    x, y = EDGE + place.x * (WIDTH - 2 * EDGE), HEIGHT - EDGE - place.y * (HEIGHT - 2 * EDGE)
    if not place.label:
        gray = round(255 * place.ground)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="rgb({gray},{gray},{gray})"/>'
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="hsl({hues[place.label[0].lower()]:.0f} 70% var(--light))">'
            f"{escape(place.label[0])}<title>{escape(place.label)}</title></text>")


def _codes(name: str, counts: Sequence[int]) -> str:
    total, most, width = max(1, sum(counts)), max(1, *counts), CODES_WIDTH / len(counts)
    bars = "".join(f'<rect x="{number * width:.2f}" y="{CODES_HEIGHT * (1 - count / most):.2f}" width="{width:.2f}" height="{CODES_HEIGHT * count / most:.2f}"/>'
                   for number, count in enumerate(counts) if count)
    used = math.exp(-sum(count / total * math.log(count / total) for count in counts if count))
    return (f'<figure><svg class="codes" viewBox="0 0 {CODES_WIDTH} {CODES_HEIGHT}" role="img" aria-label="{escape(name)}">{bars}</svg>'
            f"<figcaption>{escape(name)}: {sum(count > 0 for count in counts)} of {len(counts)} entries, {used:.1f} by their entropy</figcaption></figure>")
