"""The camera: where the sheet lies in the picture, what light does to it, and what lens, sensor and file lose."""

import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from pipelines.synthesis.lettering import Sheet
from pipelines.synthesis.styles import Range, Style
from pipelines.synthesis.textures import camera_noise

MOST_WIDTH = 384  # pixels: a longer word is drawn lower
LEAST_SIDE = 8    # pixels
LEAST_SEEN = 12   # pixels: no picture is coarser than this height


@dataclass(frozen=True)
class View:
    """A picture's frame: homography (3, 3) from coordinates about the word's centre on the sheet (after bending) to
    pixels, the bend's radius on the sheet in pixels (infinite = straight), and the picture's size."""

    homography: np.ndarray
    radius: float
    width: int
    height: int


def target_height(random: Random, style: Style) -> float:
    """A picture's height in pixels: log-normal within bounds."""
    median, spread, least, most = style.height
    return min(max(median * math.exp(random.gauss(0, spread)), least), most)


def mostly_low(random: Random, limits: Range) -> float:
    """A number within the limits, the lower ones more frequent."""
    return limits[0] + (limits[1] - limits[0]) * random.random() ** 2


def bend(x: float, y: float, radius: float) -> tuple[float, float]:
    """A point about the word's centre, laid on a circle of that radius (positive: the middle of the word is up)."""
    if math.isinf(radius):
        return x, y
    return (radius - y) * math.sin(x / radius), radius - (radius - y) * math.cos(x / radius)


def unbend(x: np.ndarray, y: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `bend` for coordinate arrays of any shape."""
    sign = math.copysign(1, radius)
    down = sign * (radius - y)
    return radius * np.arctan2(sign * x, down), radius - sign * np.hypot(x, down)


def aim(random: Random, style: Style, sheet: Sheet, height: float) -> View:
    """Choose the geometry and frame the word with random margins, `height` pixels high."""
    left, top, right, bottom = sheet.box
    wide, high = right - left, bottom - top
    squeeze = random.uniform(*style.squeeze)
    radius = math.inf
    if random.random() < style.arc and wide > 2 * high:
        radius = random.choice((1, 1, -1)) * wide / random.uniform(*style.arc_angle)
    turn = math.radians(random.gauss(0, style.rotation) * (3 if random.random() < 1 / 7 else 1))
    shear = random.gauss(0, style.shear)
    cosine, sine = math.cos(turn), math.sin(turn)
    # rotation @ [[squeeze, shear], [0, 1]], then the plane is turned away from the camera
    xx, xy, yx, yy = squeeze * cosine, shear * cosine - sine, squeeze * sine, shear * sine + cosine
    away_x = random.triangular(-1, 1) * style.perspective * 2 / (wide * squeeze)
    away_y = random.triangular(-1, 1) * style.perspective * 0.5 / high
    matrix = np.array([[xx, xy, 0], [yx, yy, 0], [away_x * xx + away_y * yx, away_x * xy + away_y * yy, 1]])
    points = []
    for step in ((-0.5, 0.5) if math.isinf(radius) else (-0.5, -0.375, -0.25, -0.125, 0, 0.125, 0.25, 0.375, 0.5)):
        for side in (-0.5, 0.5):
            x, y = bend(step * wide, side * high, radius)
            x, y = xx * x + xy * y, yx * x + yy * y
            depth = 1 + away_x * x + away_y * y
            points.append((x / depth, y / depth))
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    y0, y1 = min(y for _, y in points), max(y for _, y in points)
    margins = [random.uniform(*style.margin) * min(y1 - y0, high) for _ in range(4)]
    x0, y0, x1, y1 = x0 - margins[0], y0 - margins[1], x1 + margins[2], y1 + margins[3]
    scale = min(height / (y1 - y0), MOST_WIDTH / (x1 - x0))
    frame = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale], [0, 0, 1]])
    width, height = max(round((x1 - x0) * scale), LEAST_SIDE), max(round((y1 - y0) * scale), LEAST_SIDE)
    return View(frame @ matrix, radius, width, height)


def project(sheet: Sheet, view: View) -> np.ndarray:
    """The sheet's masks as the camera sees them, (height, width, 3) uint8."""
    centre_x, centre_y = (sheet.box[0] + sheet.box[2]) / 2, (sheet.box[1] + sheet.box[3]) / 2
    if math.isinf(view.radius):
        matrix = view.homography @ np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1.0]])
        return cv2.warpPerspective(sheet.masks, matrix, (view.width, view.height), flags=cv2.INTER_LINEAR)
    inverse = np.linalg.inv(view.homography).astype(np.float32)
    x, y = np.meshgrid(np.arange(view.width, dtype=np.float32), np.arange(view.height, dtype=np.float32))
    depth = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
    flat_x = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]) / depth
    flat_y = (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]) / depth
    source_x, source_y = unbend(flat_x, flat_y, np.float32(view.radius))
    return cv2.remap(sheet.masks, source_x + np.float32(centre_x), source_y + np.float32(centre_y), cv2.INTER_LINEAR)


def expose(random: Random, style: Style, picture: np.ndarray, contrast: float) -> np.ndarray:
    """Blur, shake, coarse pixels, noise, sharpening: picture (3, height, width) float32 -> (height, width, 3) uint8.

    `contrast` between word and ground bounds the noise: a word that nobody can read teaches nothing.
    """
    height, width = picture.shape[1:]
    image = cv2.merge([cv2.convertScaleAbs(plane) for plane in np.maximum(picture, 0)])
    shaken = random.random() < style.motion
    sigma = mostly_low(random, style.blur) * height * (0.4 if shaken else 1)
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if shaken:
        image = shake(image, random.uniform(*style.motion_length) * height, random.uniform(0, math.pi))
    if random.random() < style.coarse:
        factor = min(random.uniform(*style.coarse_factor), max(height / LEAST_SEEN, 1))
        small = (max(round(width / factor), LEAST_SIDE), max(round(height / factor), LEAST_SIDE))
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height),
                           interpolation=random.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
    sigma = min(mostly_low(random, style.noise), contrast * 0.1)
    if sigma > 0.5:
        noise = camera_noise()
        x, y = random.randrange(noise.shape[2] - width), random.randrange(noise.shape[1] - height)
        noisy = image.transpose(2, 0, 1) + noise[:, y:y + height, x:x + width] * np.float32(sigma)
        image = cv2.merge([cv2.convertScaleAbs(plane) for plane in np.maximum(noisy, 0)])
    if random.random() < style.sharpen:
        amount = random.uniform(0.4, 1.6)
        soft = cv2.GaussianBlur(image, (0, 0), random.uniform(0.7, 1.6))
        image = cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
    return image


def shake(image: np.ndarray, length: float, radians: float) -> np.ndarray:
    """Motion blur along a line of that many pixels."""
    reach = max(math.ceil(length / 2), 1)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    x, y = round(length / 2 * math.cos(radians)), round(length / 2 * math.sin(radians))
    cv2.line(kernel, (reach - x, reach - y), (reach + x, reach + y), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def develop(random: Random, style: Style, image: np.ndarray) -> bytes:
    """The picture as a JPEG file of random quality."""
    done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, round(random.uniform(*style.quality))))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of shape {image.shape} as JPEG")
    return data.tobytes()
