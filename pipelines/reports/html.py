"""HTML pages that need nothing but a browser: style, pictures and numbers stand in the one file.

The pages are templates (Jinja2, everything from data escaped) in `templates/`, each beside a module here that says what is on it.
"""

import base64
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipelines.corpus import storage
from pipelines.corpus.characters import DOTTED_CIRCLE, JOINERS, code_point
from pipelines.corpus.pictures import decode_picture

MARK = b'<meta name="generator" content="textray">'  # only a page that bears it is replaced


@dataclass(frozen=True)
class Picture:
    """An image with lines below it: (name, text) pairs. The names in `wrong` are set in red."""

    image: bytes | None  # as encoded in the data; None or undecodable is said so in its place
    lines: Sequence[tuple[str, str]]
    wrong: frozenset[str] = frozenset()

    @property
    def about(self) -> str:
        """What a screen reader says in place of the image: its first line."""
        return ": ".join(self.lines[0]) if self.lines else "image"


def render(template: str, values: Mapping[str, Any]) -> str:
    """A whole HTML document from one of the templates; each says what it wants, and fails where a value is missing."""
    return _environment().get_template(template).render(values)


def _environment() -> Environment:
    made = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True, keep_trailing_newline=False)
    made.filters |= {"embedded": embedded, "isolated": isolated, "spoken": lambda text: isolated(text).striptags(), "tenth": lambda value: f"{value:.1f}".removesuffix(".0")}
    made.globals |= {"MARK": Markup(MARK.decode())}
    return made


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
            parts.append(str(escape(character)))
        else:
            parts.append(f'<span class="code">{code_point(character)}</span>')
        before = character if category[0] == "L" or shapes else ""
    return Markup(f'<bdi class="label">{"".join(parts)}</bdi>')
