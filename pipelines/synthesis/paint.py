"""Paint: colours for a word and its ground, and the picture they make. Colours are (blue, green, red), 0 to 255."""

import math
from random import Random

import cv2
import numpy as np

from pipelines.synthesis.shares import Shares
from pipelines.synthesis.styles import Style
from pipelines.synthesis.textures import clutter, ramp, texture, window

# Shares of the hues of dark and of bright things, each hue a range of turns of the colour circle
RED, ORANGE, YELLOW, GREEN, CYAN, BLUE, PURPLE = \
    (-0.04, 0.03), (0.04, 0.1), (0.1, 0.17), (0.3, 0.45), (0.45, 0.54), (0.55, 0.67), (0.7, 0.95)
DARK_HUES = Shares({RED: 0.30, ORANGE: 0.16, YELLOW: 0.06, GREEN: 0.14, CYAN: 0.06, BLUE: 0.24, PURPLE: 0.04})
BRIGHT_HUES = Shares({RED: 0.08, ORANGE: 0.16, YELLOW: 0.36, GREEN: 0.10, CYAN: 0.10, BLUE: 0.17, PURPLE: 0.03})
LUMA = (0.114, 0.587, 0.299)  # of blue, green, red: ITU-R BT.601


def colour(random: Random, brightness: float, colourfulness: float) -> np.ndarray:
    """A colour (3, 1, 1) float32 of about that luma, of a likely hue; `colourfulness` 1 gives a pure one."""
    hues = BRIGHT_HUES if brightness > 140 else DARK_HUES
    position = random.uniform(*hues.pick(random)) * 6
    hue = [min(max(abs((position - shift) % 6 - 3) - 1, 0), 1) for shift in (4, 2, 0)]  # blue, green, red
    luma = sum(weight * part for weight, part in zip(LUMA, hue))
    chroma = colourfulness * min(255, 90 + 1.1 * brightness, 1.5 * (300 - brightness))  # little at night and in glare
    parts = [min(max(brightness + chroma * (part - luma), 0), 255) for part in hue]
    return np.array(parts, np.float32).reshape(3, 1, 1)


def choose_colours(random: Random, style: Style) -> tuple[np.ndarray, np.ndarray, float]:
    """The ground's and the ink's colour, (3, 1, 1) each, and how far apart they are in brightness."""
    low, high = style.contrast
    contrast = low + (high - low) * random.random() ** 1.3
    dark = random.random() ** 1.3 * (250 - contrast)
    light = min(dark + contrast, 250)
    ground, ink = (dark, light) if random.random() < style.light_text else (light, dark)
    grey = random.random() < style.grey
    ground_colour = 0.0 if grey else random.uniform(*style.ground_colour)
    ink_colour = 0.0 if grey or random.random() < 0.4 else random.uniform(*style.ink_colour)
    return colour(random, ground, ground_colour), colour(random, ink, ink_colour), contrast


def blend(picture: np.ndarray, over: np.ndarray, mask: np.ndarray) -> None:
    """Lay a colour (3, 1, 1) or picture (3, height, width) over the picture, in place, weighted by the float32 mask."""
    picture += (over - picture) * mask


def paint(random: Random, style: Style, masks: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture (3, height, width) float32 of masks (height, width, 3) uint8 (ink, outline, shadow), and its contrast
    in brightness between word and ground."""
    ground, ink, contrast = choose_colours(random, style)
    rows, columns = masks.shape[:2]
    picture = lay_ground(random, style, ground, contrast, columns, rows)
    ink_mask, outline, shadow = (plane * np.float32(1 / 255) for plane in cv2.split(masks))
    if random.random() < style.panel:
        lay_panel(random, picture, columns, rows)
    if random.random() < style.line:
        over = ink if random.random() < 0.6 else colour(random, random.uniform(0, 255), 0.4)
        draw_line(random, picture, over, columns, rows)
    if shadow.any():
        dark = random.random() < 0.75
        blend(picture, ground * np.float32(random.uniform(0.1, 0.6)) if dark else colour(random, 230, 0.1),
              shadow * np.float32(random.uniform(0.5, 1)))
    if outline.any():
        brightness = random.uniform(180, 250) if float(ink.mean()) < 128 else random.uniform(5, 80)
        blend(picture, colour(random, brightness, random.uniform(0, 0.4)), outline)
    if random.random() < style.worn:
        worn = window(random, texture("blotches"), columns, rows, random.uniform(0.3, 0.8), random.uniform(0, 360))
        ink_mask *= np.clip(1.2 + 0.9 * worn, 0.25, 1)
    blend(picture, shade(random, ink, columns, rows), ink_mask)
    return light(random, style, picture), contrast


def lay_ground(random: Random, style: Style, ground: np.ndarray, contrast: float, width: int,
               height: int) -> np.ndarray:
    """The ground: a colour with a gradient and a texture, or now and then a whole scene in its tone."""
    picture = np.empty((3, height, width), np.float32)
    picture[:] = ground
    if random.random() < style.clutter:
        scene = window(random, clutter(), width, height, random.uniform(0.4, 2), random.uniform(0, 360))
        share = np.float32(random.uniform(0.1, 0.4) * min(1, contrast / 120))
        picture += (scene.transpose(2, 0, 1) - picture) * share
        return picture
    if random.random() < style.gradient:
        picture += ramp(width, height, random.uniform(0, 2 * math.pi)) * np.float32(random.uniform(5, 60))
    if random.random() < style.texture:
        kind = random.choice(style.textures)
        zoom = random.uniform(0.5, 2.0) * max(height, 24) / 48
        turn = random.gauss(0, 6) + random.choice((0, 0, 90, random.uniform(0, 360)))
        relief = window(random, texture(kind), width, height, zoom, turn)
        picture += relief * np.float32(min(random.uniform(*style.texture_strength), contrast * 0.3))
    return picture


def lay_panel(random: Random, picture: np.ndarray, width: int, height: int) -> None:
    """What is beside the sign: beyond a slanted edge near the picture's border, a plain colour or a scene."""
    mask = np.zeros((height, width), np.uint8)
    slant = random.gauss(0, 0.06)
    if random.random() < 0.7:
        level, drop = random.uniform(0.02, 0.2) * height, slant * width
        corners = [(0, 0), (width, 0), (width, level + drop), (0, level - drop)]
    else:
        level, drop = random.uniform(0.05, 0.3) * height, slant * height
        corners = [(0, 0), (level + drop, 0), (level - drop, height), (0, height)]
    cv2.fillConvexPoly(mask, np.array(corners, np.int32), 255, cv2.LINE_AA)
    if random.random() < 0.5:
        mask = cv2.flip(mask, -1)
    if random.random() < 0.5:
        beside = window(random, clutter(), width, height, random.uniform(0.4, 2), random.uniform(0, 360))
        beside = beside.transpose(2, 0, 1)
    else:
        beside = colour(random, random.uniform(0, 250), random.uniform(0, 0.6))
    blend(picture, beside, mask * np.float32(1 / 255))


def draw_line(random: Random, picture: np.ndarray, over: np.ndarray, width: int, height: int) -> None:
    """A rule above or below the word, or a frame around it."""
    mask = np.zeros((height, width), np.uint8)
    thick = max(round(height * random.uniform(0.02, 0.07)), 1)
    inset = random.uniform(0.0, 0.12) * height
    tilt = random.gauss(0, 0.03) * width
    if random.random() < 0.7:
        y = inset if random.random() < 0.4 else height - 1 - inset
        cv2.line(mask, (0, round(y - tilt)), (width, round(y + tilt)), 255, thick, cv2.LINE_AA)
    else:
        opposite = (round(width - inset), round(height - inset))
        cv2.rectangle(mask, (round(inset), round(inset)), opposite, 255, thick, cv2.LINE_AA)
    blend(picture, over, mask * np.float32(1 / 255))


def shade(random: Random, ink: np.ndarray, width: int, height: int) -> np.ndarray:
    """The ink: one colour, or with a gradient, or textured, or changing colour along the word."""
    chance = random.random()
    if chance < 0.7:
        return ink
    if chance < 0.85:
        return ink + ramp(width, height, random.uniform(0, 2 * math.pi)) * np.float32(random.uniform(10, 70))
    if chance < 0.97:
        zoom = random.uniform(0.4, 1.5)
        patches = window(random, texture("clouds"), width, height, zoom, random.uniform(0, 360))
        return ink + patches * np.float32(random.uniform(5, 25))
    second = colour(random, float(ink.mean()), random.uniform(0.3, 0.9))
    return np.where(np.arange(width) < width * random.uniform(0.3, 0.7), ink, second)


def light(random: Random, style: Style, picture: np.ndarray) -> np.ndarray:
    """Uneven light over the whole picture: a gradient and soft patches of shade."""
    strength = random.uniform(*style.light)
    rows, columns = picture.shape[1:]
    small = (columns + 3) // 4, (rows + 3) // 4
    zoom = random.uniform(0.25, 1) * max(rows, 24) / 48
    patches = cv2.resize(window(random, texture("clouds"), *small, zoom, random.uniform(0, 360)), (columns, rows))
    field = 1 + (0.5 * patches + ramp(columns, rows, random.uniform(0, 2 * math.pi))) * np.float32(strength)
    return picture * field
