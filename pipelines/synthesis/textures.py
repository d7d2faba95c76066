"""Grounds that words stand on: a bank of grey textures and one of coloured clutter, computed once per process.

Every texture is a square of SIDE pixels, the same on every machine, from which an image takes a shifted, turned and
scaled window. That costs a few microseconds, where computing noise for each image would take most of its time.
"""

import math
from functools import cache
from random import Random

import cv2
import numpy as np

SIDE = 384
NOISE_SIDE = 640  # larger than any image, so that camera noise is a plain slice
STEPS = np.arange(NOISE_SIDE, dtype=np.float32)


def octaves(generator: np.random.Generator, coarsest: int, finest: int, channels: int = 1) -> np.ndarray:
    """Smooth noise (SIDE, SIDE[, channels]) float32 about 0, the sum of grids from `coarsest` to `finest` cells a side,
    each weighted by its cells' size: the 1/f spectrum of natural images."""
    total = np.zeros((SIDE, SIDE, channels), np.float32)
    cells = coarsest
    while cells <= finest:
        grid = generator.standard_normal((cells, cells, channels), np.float32) / cells
        total += cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).reshape(total.shape)
        cells *= 2
    return total.squeeze()


def levelled(texture: np.ndarray) -> np.ndarray:
    """The texture shifted and scaled to mean 0 and standard deviation 0.5, cut at -1 and 1, float32."""
    texture = (texture - texture.mean()) / (2 * texture.std())
    return np.clip(texture, -1, 1).astype(np.float32)


def _clouds(generator: np.random.Generator) -> np.ndarray:
    return octaves(generator, 3, 48)


def _grain(generator: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(generator.standard_normal((SIDE, SIDE), np.float32), (0, 0), 0.8)


def _blotches(generator: np.random.Generator) -> np.ndarray:
    return np.tanh(6 * levelled(octaves(generator, 12, 96))) + 0.3 * _grain(generator)


def _stripes(generator: np.random.Generator) -> np.ndarray:
    rows = np.arange(SIDE, dtype=np.float32)[:, None] + 4 * octaves(generator, 3, 6)
    return np.tanh(3 * np.sin(rows * (2 * math.pi / 16))) + 0.2 * _grain(generator)


def _wood(generator: np.random.Generator) -> np.ndarray:
    rows = np.arange(SIDE, dtype=np.float32)[:, None] + 150 * octaves(generator, 2, 8)
    fibres = cv2.blur(generator.standard_normal((SIDE, SIDE), np.float32), (41, 1))
    return np.sin(rows * (2 * math.pi / 22)) + 8 * fibres


def _bricks(generator: np.random.Generator) -> np.ndarray:
    wall = np.full((SIDE, SIDE), -1.6, np.float32)
    high, wide, mortar = 16, 40, 2
    for row in range(SIDE // high):
        for column in range(-1, SIDE // wide + 1):
            left = column * wide + (row % 2) * wide // 2
            brick = wall[row * high:(row + 1) * high - mortar, max(left, 0):max(left + wide - mortar, 0)]
            brick[:] = generator.normal(0.3, 0.5)
    return wall + 0.3 * _grain(generator)


def _mesh(generator: np.random.Generator) -> np.ndarray:
    across = np.sin(np.arange(SIDE, dtype=np.float32) * (2 * math.pi / 8))
    return across[:, None] * across[None, :] + 0.2 * _grain(generator)


def _scratches(generator: np.random.Generator) -> np.ndarray:
    sheet = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(220):
        start = generator.integers(0, SIDE, 2)
        end = start + generator.integers(-60, 60, 2)
        cv2.line(sheet, start.tolist(), end.tolist(), float(generator.choice((-1.0, 1.0))), 1, cv2.LINE_AA)
    return sheet + 0.4 * _grain(generator)


TEXTURES = {"clouds": _clouds, "grain": _grain, "blotches": _blotches, "stripes": _stripes, "wood": _wood,
            "bricks": _bricks, "mesh": _mesh, "scratches": _scratches}


@cache
def texture(kind: str) -> np.ndarray:
    """One of TEXTURES, (SIDE, SIDE) float32 in [-1, 1]."""
    return levelled(TEXTURES[kind](np.random.default_rng(list(TEXTURES).index(kind))))


@cache
def clutter() -> np.ndarray:
    """Coloured things behind a word: a dead-leaves picture, (SIDE, SIDE, 3) uint8. Overlapping patches with a power law
    of sizes have the edges and the statistics of natural scenes (Lee, Mumford and Huang, 2001)."""
    generator = np.random.default_rng(1000)
    scene = np.zeros((SIDE, SIDE, 3), np.uint8)
    for _ in range(900):
        radius = 8 / math.sqrt(generator.uniform(0.01, 1))
        shape = (radius * generator.uniform(0.3, 1.5), radius * generator.uniform(0.3, 1.5))
        tone = generator.uniform(20, 235)
        colour = np.clip(tone + generator.normal(0, 30, 3), 0, 255)
        box = cv2.RotatedRect(generator.uniform(0, SIDE, 2).tolist(), shape, float(generator.uniform(0, 180)))
        if generator.random() < 0.5:
            cv2.ellipse(scene, box, colour.tolist(), -1, cv2.LINE_AA)
        else:
            cv2.fillConvexPoly(scene, cv2.boxPoints(box).astype(np.int32), colour.tolist(), cv2.LINE_AA)
    shade = 25 * levelled(octaves(generator, 4, 64, 3).reshape(SIDE, SIDE, 3))
    return np.clip(scene + shade, 0, 255).astype(np.uint8)


@cache
def camera_noise() -> np.ndarray:
    """White noise (3, NOISE_SIDE, NOISE_SIDE) float32 with standard deviation 1, half of it common to the channels."""
    generator = np.random.default_rng(2000)
    common = generator.standard_normal((1, NOISE_SIDE, NOISE_SIDE), np.float32)
    return (common + generator.standard_normal((3, NOISE_SIDE, NOISE_SIDE), np.float32)) / np.float32(math.sqrt(2))


def window(random: Random, image: np.ndarray, width: int, height: int, zoom: float, degrees: float) -> np.ndarray:
    """A (height, width) window into a texture or the clutter at a random place; `zoom` enlarges, `degrees` turn it."""
    cosine, sine = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    x, y = random.uniform(0, SIDE), random.uniform(0, SIDE)
    matrix = np.array([[cosine, -sine, x], [sine, cosine, y]])
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REFLECT)


def ramp(width: int, height: int, radians: float) -> np.ndarray:
    """A linear gradient (height, width) float32 from about -0.5 to 0.5 in the given direction."""
    across, down = math.cos(radians), math.sin(radians)
    return (STEPS[:height, None] * np.float32(down / height) + STEPS[None, :width] * np.float32(across / width)
            - np.float32((across + down) / 2))
