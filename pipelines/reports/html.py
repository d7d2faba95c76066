"""HTML pages that need nothing but a browser: style, pictures and numbers stand in the one file.

A page is made of pieces, each a string of HTML: `paragraph`, `table`, `pictures`, `figure`. Everything that comes from
data is escaped here.
"""

import base64
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pipelines.corpus import storage
from pipelines.corpus.characters import DOTTED_CIRCLE, JOINERS, code_point
from pipelines.corpus.pictures import decode_picture

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --wrong: #c33; --bar: #4a7dac; }
@media (prefers-color-scheme: dark) { :root { --wrong: #ff8a80; --bar: #7fa9d1; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin-bottom: 1.2rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.sum td { font-weight: 600; border-top: 2px solid var(--line); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .8rem; }
.picture { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .6rem; }
.picture { font-size: .85rem; overflow-wrap: anywhere; }
.picture img { display: block; max-width: 100%; height: 4rem; object-fit: contain; object-position: left; }
.picture dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; margin: 0; }
dt { opacity: .65; } dd { margin: 0; } dd.wrong { color: var(--wrong); font-weight: 600; }
figure { margin: 1rem 0; } figure > img, figure > svg { max-width: 100%; height: auto; }
code { overflow-wrap: anywhere; }
"""


MARK = b'<meta name="generator" content="textray">'  # only a page that bears it is replaced


class Markup(str):
    """HTML that is taken as it is, where every other string would be escaped."""


@dataclass(frozen=True)
class Picture:
    """An image with lines below it: (name, text) pairs. The names in `wrong` are set in red."""

    image: bytes | None  # as encoded in the data; None or undecodable is said so in its place
    lines: Sequence[tuple[str, str]]
    wrong: frozenset[str] = frozenset()


def page(title: str, *pieces: str, style: str = "") -> str:
    """A whole HTML document; `style` is CSS beyond that of every page."""
    name, body = escape(title), "\n".join(pieces)
    return (f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">{MARK.decode()}<meta name="viewport" '
            f'content="width=device-width"><title>{name}</title>\n<style>{STYLE}{style}</style></head>\n'
            f"<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n")


def heading(text: str, name: str = "") -> str:
    """The heading of a section; a link to #name leads to it."""
    anchor = f' id="{escape(name)}"' if name else ""
    return f"<h2{anchor}>{escape(text)}</h2>"


def subheading(text: str) -> str:
    """The heading of a part of a section."""
    return f"<h3>{markup(text)}</h3>"


def markup(value: object) -> str:
    """Anything as HTML: Markup as it is, everything else as escaped text."""
    return value if isinstance(value, Markup) else escape(str(value))


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{markup(text)}</p>"


def code(text: str) -> str:
    """A line to type."""
    return f"<p><code>{escape(text)}</code></p>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = (),
          sums: int = 0) -> str:
    """A table.

    Args:
        numbers: the columns that are set right, counted from 0.
        sums: how many of the last rows are totals.
    """
    right, rows = set(numbers), list(rows)

    def cells(kind: str, row: Sequence[object]) -> str:
        return "".join(f'<{kind}{" class=number" if column in right else ""}>{markup(cell)}</{kind}>'
                       for column, cell in enumerate(row))

    lines = [f"<tr{' class=sum' if index >= len(rows) - sums else ''}>{cells('td', row)}</tr>"
             for index, row in enumerate(rows)]
    return f'<div class="scroll"><table>\n<tr>{cells("th", header)}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def pictures(items: Iterable[Picture]) -> str:
    """A grid of images with their lines."""
    return f'<div class="pictures">\n{"".join(map(_picture, items))}</div>'


def _picture(item: Picture) -> str:
    source = embedded(item.image)
    image = f'<img src="{source}" alt="">' if source else "<p>(the image cannot be decoded)</p>"
    lines = "".join(f'<dt>{escape(name)}</dt><dd{" class=wrong" if name in item.wrong else ""}>'
                    f'{escape(text) or "&nbsp;"}</dd>' for name, text in item.lines)
    return f'<div class="picture">{image}<dl>{lines}</dl></div>\n'


def figure(svg: str, caption: str) -> str:
    """A drawing (SVG source, taken as it is) with a caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def embedded(image: bytes | None, side: int = 256) -> str | None:
    """An encoded image as a data URI, scaled down to at most `side` pixels a side; None if it cannot be decoded."""
    found = fitted(image, side, side)
    return found and found.source


class Thumbnail(NamedTuple):
    """A picture as a page holds it."""

    source: str  # data URI
    width: int  # pixels
    height: int


def fitted(image: bytes | None, width: int, height: int) -> Thumbnail | None:
    """An encoded image scaled down, whole, into width x height pixels; None if it cannot be decoded."""
    pixels = _scaled(image, width, height)
    if pixels is None:
        return None
    source = "data:image/jpeg;base64," + base64.b64encode(_jpeg(pixels)).decode()
    return Thumbnail(source, pixels.shape[1], pixels.shape[0])


def shrunk(image: bytes, width: int = 256, height: int = 64) -> bytes:
    """An encoded image as a JPEG of at most width x height pixels; no bytes if it cannot be decoded."""
    pixels = _scaled(image, width, height)
    return b"" if pixels is None else _jpeg(pixels)


def _scaled(image: bytes | None, width: int, height: int) -> np.ndarray | None:
    pixels = decode_picture(image) if image else None  # refuses what would fill the memory
    scale = 1 if pixels is None else min(width / pixels.shape[1], height / pixels.shape[0])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in (pixels.shape[1], pixels.shape[0])]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return pixels


def _jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def write_text(file: str | Path, text: str) -> str | Path:
    """Write a file, at a path or URI, whole or not at all; its folder is made. Returns the file."""
    storage.write_bytes(str(file), text.encode())
    return file


def isolated(text: str) -> Markup:
    """Text from data in HTML: it cannot turn the direction of its surroundings, and invisible characters are seen.

    Letters of scripts written from right to left keep their order within. Controls, direction marks and unusual spaces
    appear as their code points, a mark without a letter stands on a dotted circle.
    """
    parts, before = [], ""
    for character in text:
        category = unicodedata.category(character)
        if category[0] == "M":
            parts.append(("" if before else DOTTED_CIRCLE) + character)
            continue
        shapes = character in JOINERS and before
        if character == " " or shapes or (character.isprintable() and not character.isspace()):
            parts.append(escape(character))
        else:
            parts.append(f'<span class="code">{code_point(character)}</span>')
        before = character if category[0] == "L" or shapes else ""
    return Markup(f'<bdi class="label">{"".join(parts)}</bdi>')
