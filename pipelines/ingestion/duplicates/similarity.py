"""Whether two images are the same picture: a small signature of each, keys that bring like signatures together, and
the measure that decides.

A signature is 256 bytes: the lowest frequencies of the picture's discrete cosine transform, which a new JPEG, another
size or other brightness hardly change. A crop moves them all; so the measure fits one picture onto the other, and
it can, because a cosine series may be evaluated anywhere.

docs/duplicates.md has the measurements behind every constant here.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np

SIGNATURE_BYTES = 256
MOST_ROWS, MOST_COLUMNS = 64, 256  # pixels that are transformed; what is larger is averaged down first
# (up to this width / height, frequencies down, frequencies across): wide pictures get more frequencies across
LAYOUTS = ((2.0, 16, 16), (4.0, 12, 21), (8.0, 8, 32), (np.inf, 6, 42))
BLANK_RANGE = 8  # grey values; a picture whose lightest and darkest are nearer than this carries no information

SAME = 0.997  # similarity from which two pictures are one
ASPECT_TOLERANCE = 0.1  # of the natural logarithm of width / height
SHARED_BAND = 0.5  # of the pixels: frequencies (in half waves) above this are not trusted, a smaller copy lacks them
MARGIN = 0.1  # of each side that is not compared: a crop has other neighbours there
MOST_SHIFT = 0.06  # of the side, and also of stretching at the borders, that is fitted
MOST_BEND = 0.15  # of the contrast, in the middle of the shades
ITERATIONS = 4
PAIRS_AT_ONCE = 400

SKETCH_LIMIT = 16  # differing bits of 64 from which pictures are not compared
TABLES, BITS, WEAKEST = 3, 20, 3  # keys: independent tables, bits of each, least certain bits that are tried both ways
ASPECT_CELL = 0.5  # of the natural logarithm
# The 64 steadiest frequencies (down, across), each with the standard deviation, in 1e-4 of the picture's contrast,
# that crops of 2 % and half the size cause; those that tell most pictures apart for their noise come first.
STEADY = np.array([
    (2, 0, 304), (1, 0, 267), (3, 0, 241), (0, 1, 244), (3, 1, 180), (4, 0, 294), (1, 1, 199), (5, 0, 241),
    (2, 1, 192), (2, 2, 259), (4, 2, 164), (3, 2, 163), (1, 2, 164), (4, 1, 158), (3, 3, 150), (2, 3, 167),
    (0, 2, 376), (1, 3, 151), (0, 3, 238), (4, 3, 141), (2, 5, 182), (5, 3, 138), (5, 1, 187), (1, 4, 145),
    (4, 4, 159), (3, 4, 155), (3, 5, 160), (4, 5, 149), (1, 5, 158), (2, 4, 241), (5, 2, 158), (5, 5, 142),
    (5, 4, 142), (0, 5, 266), (0, 4, 374), (0, 8, 412), (3, 6, 169), (2, 7, 216), (4, 6, 172), (1, 6, 160),
    (2, 6, 256), (0, 6, 404), (3, 7, 185), (4, 7, 171), (5, 6, 152), (5, 7, 154), (1, 7, 187), (3, 8, 195),
    (4, 8, 197), (0, 7, 316), (2, 8, 285), (1, 8, 181), (5, 8, 171), (2, 9, 266), (3, 9, 215), (0, 10, 444),
    (4, 9, 188), (0, 9, 354), (1, 9, 210), (3, 10, 219), (4, 10, 210), (5, 9, 178), (1, 10, 193), (4, 11, 204)])


class Signature(NamedTuple):
    """What is kept of a picture to recognise it again."""

    data: bytes  # SIGNATURE_BYTES
    width: int  # pixels
    height: int
    blank: bool  # nothing in it: like every other blank picture, and so never a near duplicate


@lru_cache(maxsize=4096)
def _cosines(size: int, count: int) -> np.ndarray:
    """(count, size) lowest DCT-II vectors in 13-bit fixed point, which makes the sums exact; zeros beyond `size`."""
    frequency, position = np.arange(count)[:, None], np.arange(size)[None]
    waves = np.rint(np.cos(np.pi * frequency * (2 * position + 1) / (2 * size)) * 2**13)
    waves[size:] = 0
    return waves


def _layout(width: int, height: int) -> tuple[int, int]:
    return next((rows, columns) for limit, rows, columns in LAYOUTS if width <= limit * height)


def signature(gray: np.ndarray) -> Signature:
    """The signature of one image, (height, width) uint8 luma, at any size.

    The frequencies are divided by their norm (the constant one is left out, so neither brightness nor contrast
    matters) and kept as signed square roots in 8 bits, finer for small ones.
    """
    height, width = gray.shape
    rows, columns = _layout(width, height)
    if height > MOST_ROWS or width > MOST_COLUMNS:
        gray = cv2.resize(gray, (min(width, MOST_COLUMNS), min(height, MOST_ROWS)), interpolation=cv2.INTER_AREA)
    wave = _cosines(gray.shape[0], rows) @ gray.astype(np.float64) @ _cosines(gray.shape[1], columns).T
    wave[0] /= np.sqrt(2)
    wave[:, 0] /= np.sqrt(2)
    wave[0, 0] = 0
    norm = np.sqrt(np.square(wave).sum())
    wave = wave / norm if norm else wave
    data = np.zeros(SIGNATURE_BYTES, np.int8)
    data[:rows * columns] = np.rint(np.sign(wave) * np.sqrt(np.abs(wave)) * 127).ravel()
    low, high, _, _ = cv2.minMaxLoc(gray)
    return Signature(data.tobytes(), width, height, high - low < BLANK_RANGE)


def layouts(widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The index into LAYOUTS of each picture."""
    limits = np.array([limit for limit, _, _ in LAYOUTS])
    return (widths[:, None] > limits * heights[:, None]).sum(1)


def frequencies(data: np.ndarray, layout: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The lowest `rows` x `columns` frequencies, (n, rows, columns) float32, of signatures (n, 256) int8."""
    found = np.zeros((len(data), rows, columns), np.float32)
    for index, (_, down, across) in enumerate(LAYOUTS):
        these = np.flatnonzero(layout == index)
        roots = data[these, :down * across].reshape(-1, down, across)[:, :rows, :columns].astype(np.float32) / 127
        found[these, :roots.shape[1], :roots.shape[2]] = roots * np.abs(roots)
    return found


def sketches(data: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """64 bits of each signature (n, 256) int8: the signs of the steadiest frequencies; (n,) uint64."""
    steady = _steady(data, widths, heights)
    return ((steady > 0) * (np.uint64(1) << np.arange(64, dtype=np.uint64))).sum(1, dtype=np.uint64)


def _steady(data: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    low = frequencies(data, layouts(widths, heights), STEADY[:, 0].max() + 1, STEADY[:, 1].max() + 1)
    return low[:, STEADY[:, 0], STEADY[:, 1]]


def band_keys(data: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys of which two copies of one picture share at least one, most probably: (m,) uint64, and the rows they are of.

    Each table takes the signs of BITS frequencies and the cell of the aspect ratio. The signs that a small change would
    turn, those of the WEAKEST frequencies for their noise, are tried both ways, and so is a cell whose border is near
    (multi-probe locality-sensitive hashing: Lv et al. 2007).
    """
    steady = _steady(data, widths, heights)
    aspect = np.log(widths / heights) / ASPECT_CELL
    reach = ASPECT_TOLERANCE / 2 / ASPECT_CELL
    cells = np.stack([np.floor(aspect - reach), np.floor(aspect + reach)], 1).astype(np.int64) + 64  # (n, 2)
    twice = cells[:, 0] != cells[:, 1]
    keys, rows = [], []
    numbers = np.arange(len(data))
    for table in range(TABLES):
        columns = np.arange(table, TABLES * BITS, TABLES)
        value = steady[:, columns]
        bits = ((value > 0) * (np.int64(1) << np.arange(BITS))).sum(1)
        weakest = np.int64(1) << np.argsort(np.abs(value) / STEADY[columns, 2], axis=1, kind="stable")[:, :WEAKEST]
        for turned in product((0, 1), repeat=WEAKEST):
            signs = (bits ^ (weakest * np.array(turned)).sum(1)) + (np.int64(table) << 40)
            keys += [signs + (cells[:, 0] << BITS), (signs + (cells[:, 1] << BITS))[twice]]
            rows += [numbers, numbers[twice]]
    return np.concatenate(keys).astype(np.uint64), np.concatenate(rows)


def similarities(first: np.ndarray, first_sizes: np.ndarray, second: np.ndarray, second_sizes: np.ndarray) -> np.ndarray:
    """How far pairs of pictures are one picture, (n,) from -1 to 1: signatures (n, 256) int8, sizes (n, 2) as (width, height).

    The normalised correlation of their interiors, each smoothed to what both can show, after the first has been
    shifted and stretched onto the second by at most MOST_SHIFT. SAME and above: one picture.
    """
    one, other = layouts(*first_sizes.T), layouts(*second_sizes.T)
    limits = np.array([(rows, columns) for _, rows, columns in LAYOUTS])
    both = np.minimum(limits[one], limits[other])
    pixels = np.minimum(first_sizes, second_sizes)[:, ::-1] * SHARED_BAND  # (n, 2) rows, columns
    band = np.minimum(both, np.maximum(2, np.ceil(pixels)))
    found = np.empty(len(first), np.float32)
    for rows, columns in {(int(rows), int(columns)) for rows, columns in both}:
        these = np.flatnonzero((both == (rows, columns)).all(1))
        for start in range(0, len(these), PAIRS_AT_ONCE):
            part = these[start:start + PAIRS_AT_ONCE]
            smooth = _taper(band[part, 0], rows)[:, :, None] * _taper(band[part, 1], columns)[:, None]
            found[part] = _fit(frequencies(first[part], one[part], rows, columns) * smooth,
                               frequencies(second[part], other[part], rows, columns) * smooth)
    return found


def _taper(band: np.ndarray, count: int) -> np.ndarray:
    """Lanczos' sigma factors, (n, count) float32: a series that just ends would ring from the borders inwards."""
    place = np.arange(count) / band[:, None]
    return (np.sinc(place) * (place < 1)).astype(np.float32)


def _waves(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The cosines at places (n, m) of the side, (n, m, count), and their slopes."""
    frequency = np.arange(count, dtype=np.float32)
    weight = np.where(frequency == 0, 1, np.sqrt(2)).astype(np.float32)
    angle = np.pi * places[:, :, None] * frequency
    return np.cos(angle) * weight, -np.sin(angle) * (weight * np.float32(np.pi) * frequency)


def _correlation(seen: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The correlation of rows of norm 1 and mean 0, the first bent (by its square, at most MOST_BEND) to fit the second.

    That undoes a change of gamma, and the white that all light shades become in a brighter copy.
    """
    straight = (seen * target).sum(1)
    square = np.square(seen)
    square -= square.mean(1, keepdims=True)
    square -= (square * seen).sum(1, keepdims=True) * seen
    square /= np.linalg.norm(square, axis=1, keepdims=True) + 1e-6
    most = MOST_BEND * np.maximum(straight, 0)
    bend = np.clip((square * target).sum(1), -most, most)
    bent = seen + (bend / np.maximum(straight, 1e-6))[:, None] * square
    return (bent * target).sum(1) / (np.linalg.norm(bent, axis=1) + 1e-6)


def _fit(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The best correlation that Gauss and Newton's iterations see, over shift and stretch down and across."""
    count, rows, columns = first.shape
    down = np.linspace(MARGIN, 1 - MARGIN, max(8, rows), dtype=np.float32)
    across = np.linspace(MARGIN, 1 - MARGIN, max(26, columns + columns // 4), dtype=np.float32)
    stretch_down, stretch_across = 2 * down - 1, 2 * across - 1
    target = (_waves(down[None], rows)[0][0] @ second @ _waves(across[None], columns)[0][0].T).reshape(count, -1)
    target -= target.mean(1, keepdims=True)
    target /= np.linalg.norm(target, axis=1, keepdims=True) + 1e-6
    moved = np.zeros((count, 4), np.float32)  # shift down, shift across, stretch down, stretch across
    best = np.full(count, -1, np.float32)
    for iteration in range(ITERATIONS + 1):
        vertical, vertical_slope = _waves(down + moved[:, [0]] + moved[:, [2]] * stretch_down, rows)
        horizontal, horizontal_slope = _waves(across + moved[:, [1]] + moved[:, [3]] * stretch_across, columns)
        halves = first @ horizontal.transpose(0, 2, 1)
        seen = vertical @ halves
        seen = seen - seen.mean((1, 2), keepdims=True)
        norm = np.sqrt(np.square(seen).sum((1, 2), keepdims=True)) + 1e-6
        seen = (seen / norm).reshape(count, -1)
        best = np.maximum(best, _correlation(seen, target))
        if iteration == ITERATIONS:
            return best
        slope_down = vertical_slope @ halves / norm
        slope_across = vertical @ (first @ horizontal_slope.transpose(0, 2, 1)) / norm
        slopes = np.stack([slope_down, slope_across, slope_down * stretch_down[:, None], slope_across * stretch_across], 1)
        slopes = slopes.reshape(count, 4, -1)
        slopes -= slopes.mean(2, keepdims=True)
        slopes -= (slopes @ seen[:, :, None]) * seen[:, None]
        normal = slopes @ slopes.transpose(0, 2, 1) + np.eye(4, dtype=np.float32) * 1e-3
        step = np.linalg.solve(normal, slopes @ (target - seen)[:, :, None])[:, :, 0]
        moved = np.clip(moved + step, -MOST_SHIFT, MOST_SHIFT)
    raise AssertionError("the last iteration returns")
