"""The camera: where the sheet lies in the picture, what light does to it, and what lens, sensor and file lose."""

import math
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from pipelines.synthesis.lettering import Sheet
from pipelines.synthesis.styles import Style
from pipelines.synthesis.textures import camera_noise

MOST_WIDTH = 384  # pixels: a longer word is drawn lower
LEAST_SIDE = 8    # pixels


@dataclass(frozen=True)
class View:
    """A picture's frame: homography (3, 3) from coordinates about the word's centre on the sheet (after bending) to pixels,
    the bend's radius on the sheet in pixels (infinite = straight), and the picture's size."""

    homography: np.ndarray
    radius: float
    width: int
    height: int


def target_height(random: Random, style: Style) -> float:
    """A picture's height in pixels: log-normal within bounds."""
    median, spread, least, most = style.height
    return min(max(median * math.exp(random.gauss(0, spread)), least), most)


def bend(points: np.ndarray, radius: float) -> np.ndarray:
    """Points (n, 2) about the word's centre, laid on a circle of that radius (positive: the middle is highest)."""
    if math.isinf(radius):
        return points
    angle, reach = points[:, 0] / radius, radius - points[:, 1]
    return np.stack((reach * np.sin(angle), radius - reach * np.cos(angle)), axis=1)


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
    turn = math.radians(random.gauss(0, style.rotation))
    shear = random.gauss(0, style.shear)
    cosine, sine = math.cos(turn), math.sin(turn)
    linear = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ np.array([[squeeze, shear, 0], [0, 1, 0], [0, 0, 1]])
    near = np.eye(3)
    near[2, :2] = (random.uniform(-1, 1) * style.perspective * 2 / (wide * squeeze),
                   random.uniform(-1, 1) * style.perspective / high)
    matrix = near @ linear
    steps = np.linspace(-wide / 2, wide / 2, 2 if math.isinf(radius) else 9)
    edge = np.concatenate([np.stack((steps, np.full_like(steps, side)), axis=1) for side in (-high / 2, high / 2)])
    edge = cv2.perspectiveTransform(bend(edge, radius)[None], matrix)[0]
    (x0, y0), (x1, y1) = edge.min(axis=0), edge.max(axis=0)
    margins = [random.uniform(*style.margin) * min(y1 - y0, high) for _ in range(4)]
    x0, y0, x1, y1 = x0 - margins[0], y0 - margins[1], x1 + margins[2], y1 + margins[3]
    scale = min(height / (y1 - y0), MOST_WIDTH / (x1 - x0))
    frame = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale], [0, 0, 1]])
    return View(frame @ matrix, radius, max(round((x1 - x0) * scale), LEAST_SIDE), max(round((y1 - y0) * scale), LEAST_SIDE))


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


def expose(random: Random, style: Style, picture: np.ndarray) -> np.ndarray:
    """Blur, shake, coarse pixels and noise. picture: (3, height, width) float32 -> (height, width, 3) uint8."""
    height, width = picture.shape[1:]
    image = cv2.merge([cv2.convertScaleAbs(plane) for plane in np.maximum(picture, 0)])
    sigma = random.uniform(*style.blur) * height
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if random.random() < style.motion:
        image = shake(image, random.uniform(*style.motion_length) * height, random.uniform(0, math.pi))
    if random.random() < style.coarse:
        factor = random.uniform(*style.coarse_factor)
        small = (max(round(width / factor), LEAST_SIDE), max(round(height / factor), LEAST_SIDE))
        image = cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height),
                           interpolation=random.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC)))
    sigma = random.uniform(*style.noise)
    if sigma > 0.5:
        noise = camera_noise()
        x, y = random.randrange(noise.shape[2] - width), random.randrange(noise.shape[1] - height)
        noisy = image.transpose(2, 0, 1) + noise[:, y:y + height, x:x + width] * np.float32(sigma)
        image = cv2.merge([cv2.convertScaleAbs(plane) for plane in np.maximum(noisy, 0)])
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
