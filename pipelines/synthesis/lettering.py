"""Lettering: a word and its neighbours as masks on a flat sheet, before a camera looks at it."""

import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from pipelines.synthesis.fonts import SIZES, Face
from pipelines.synthesis.styles import Style

PAD = 0.8  # of the em: the sheet reaches this far beyond the word, so that crops have something to show


@dataclass(frozen=True)
class Sheet:
    """Masks (height, width, 3) uint8 - ink, outline, shadow - and the word's box (left, top, right, bottom) on them."""

    masks: np.ndarray
    box: tuple[int, int, int, int]
    size: int


def rows_of(face: Face, text: str, size: int) -> tuple[int, int]:
    """The first row and the row after the last of the text's ink, from the baseline, at an em size in pixels."""
    glyphs = [face.glyph(character, size) for character in text]
    return min(glyph.top for glyph in glyphs), max(glyph.top + glyph.pixels.shape[0] for glyph in glyphs)


def set_line(face: Face, text: str, size: int, tracking: float, sizes: list[int], lifts: list[int]) -> list[tuple]:
    """The glyphs of a line: (pixels, left, top) with the pen starting at 0 and the baseline at row 0."""
    placed, pen = [], 0.0
    for character, em, lift in zip(text, sizes, lifts):
        glyph = face.glyph(character, em)
        placed.append((glyph.pixels, round(pen) + glyph.left, glyph.top + lift))
        pen += glyph.advance + tracking * size
    return placed


def extent(placed: list[tuple]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a line's ink."""
    inked = [(pixels.shape, left, top) for pixels, left, top in placed if pixels.size]
    return (min(left for _, left, _ in inked), min(top for _, _, top in inked),
            max(left + shape[1] for shape, left, _ in inked), max(top + shape[0] for shape, _, top in inked))


def stamp(sheet: np.ndarray, placed: list[tuple], x: int, y: int) -> None:
    """Draw a line's glyphs with its origin at (x, y), cut at the sheet's edges."""
    height, width = sheet.shape
    for pixels, left, top in placed:
        left, top = left + x, top + y
        if left < 0 or top < 0 or left + pixels.shape[1] > width or top + pixels.shape[0] > height:
            pixels = pixels[max(-top, 0):max(height - top, 0), max(-left, 0):max(width - left, 0)]
            left, top = max(left, 0), max(top, 0)
        if pixels.size:
            spot = sheet[top:top + pixels.shape[0], left:left + pixels.shape[1]]
            np.maximum(spot, pixels, out=spot)


def letter(random: Random, style: Style, face: Face, text: str, others: list[str], wanted: float) -> Sheet:
    """The word's sheet, drawn a little larger than `wanted`: about how many pixels high its ink will be in the picture.

    `others` are texts whose fragments stand around it; those that the face cannot draw are left out.
    """
    top, bottom = rows_of(face, text, 32)
    size = next((size for size in SIZES if size * (bottom - top) >= 32 * wanted), SIZES[-1])
    tracking = random.uniform(*style.tracking)
    if random.random() < style.wide_tracking:
        tracking += random.uniform(0.08, 0.5)
    sizes, lifts = [size] * len(text), [0] * len(text)
    if len(text) > 2 and text.isupper() and random.random() < style.big_initial:
        sizes[1:] = [SIZES[max(SIZES.index(size) - 1, 0)]] * (len(text) - 1)
    if random.random() < style.bounce:
        lifts = [round(random.gauss(0, 0.06) * size) for _ in text]
    line = set_line(face, text, size, tracking, sizes, lifts)
    left, top, right, bottom = extent(line)
    pad = round(PAD * size)
    ink = np.zeros((bottom - top + 2 * pad, right - left + 2 * pad), np.uint8)
    stamp(ink, line, pad - left, pad - top)
    box = (pad, pad, pad + right - left, pad + bottom - top)
    lines = [set_line(face, other, size, tracking, [size] * len(other), [0] * len(other))
             for other in others if face.draws(other)]
    surround(random, ink, box, lines, size, tracking, pad - top)
    return Sheet(relief(random, style, shaped(random, style, ink, size), size), box, size)


def surround(random: Random, ink: np.ndarray, box: tuple, lines: list[list], size: int, tracking: float,
             baseline: int) -> None:
    """Stamp other words before, after, above or below the word, as the rest of a sign would stand: farther from it than
    its own letters from each other."""
    left, top, right, bottom = box
    for line in lines:
        first, highest, last, lowest = extent(line)
        gap = round(size * random.uniform(0.18, 0.4))
        space = gap + round(size * max(1.5 * tracking, 0))
        shift = random.randint(-size, size) - first
        side = random.randrange(4)
        if side == 0:
            stamp(ink, line, left - space - last, baseline)
        elif side == 1:
            stamp(ink, line, right + space - first, baseline)
        elif side == 2:
            stamp(ink, line, left + shift, top - gap // 2 - lowest)
        else:
            stamp(ink, line, left + shift, bottom + gap // 2 - highest)


def disc(radius: float) -> np.ndarray:
    """A round structuring element."""
    side = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def shaped(random: Random, style: Style, ink: np.ndarray, size: int) -> np.ndarray:
    """Letters made bolder, thinner or hollow now and then."""
    chance = random.random()
    if chance < style.thicken:
        return cv2.dilate(ink, disc(size * random.uniform(0.015, 0.04)))
    chance -= style.thicken
    if chance < style.thin and size >= 32:
        return cv2.addWeighted(ink, 0.4, cv2.erode(ink, disc(1)), 0.6, 0)
    chance -= style.thin
    if chance < style.hollow and size >= 24:
        return cv2.subtract(cv2.dilate(ink, disc(size * 0.035)), ink)
    return ink


def relief(random: Random, style: Style, ink: np.ndarray, size: int) -> np.ndarray:
    """Stack (height, width, 3) of the ink, its outline or glow, and its shadow; absent ones are empty."""
    nothing = np.zeros_like(ink)
    outline = shadow = nothing
    chance = random.random()
    if chance < style.outline:
        outline = cv2.dilate(ink, disc(size * random.uniform(0.03, 0.08)))
    elif chance < style.outline + style.glow:
        outline = cv2.GaussianBlur(cv2.dilate(ink, disc(size * 0.06)), (0, 0), size * random.uniform(0.06, 0.15))
    if random.random() < style.shadow:
        shadow = cast(random, ink if outline is nothing else cv2.max(ink, outline), size)
    return cv2.merge((ink, outline, shadow))


def cast(random: Random, ink: np.ndarray, size: int) -> np.ndarray:
    """A shadow: moved and soft, or the side of a solid letter."""
    angle, length = random.uniform(0, 2 * math.pi), size * random.uniform(0.04, 0.16)
    x, y = length * math.cos(angle), length * math.sin(angle)
    if random.random() < 0.5:
        reach = math.ceil(length)
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
        cv2.line(kernel, (reach, reach), (round(reach - x), round(reach - y)), 1)
        return cv2.dilate(ink, kernel)
    moved = cv2.warpAffine(ink, np.array([[1, 0, x], [0, 1, y]]), (ink.shape[1], ink.shape[0]))
    return cv2.GaussianBlur(moved, (0, 0), max(0.3, size * random.uniform(0.0, 0.05)))
