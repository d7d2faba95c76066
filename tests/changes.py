"""What happens to a picture on its way to a second copy: for tests and measurements of near duplicates."""

from collections.abc import Callable

import cv2
import numpy as np


def encoded(image: np.ndarray, quality: int = 95) -> bytes:
    """JPEG of an image (height, width, 3) uint8."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """Averaged down or interpolated up."""
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def cropped(image: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Each side moved inwards by a share of the picture, or outwards (negative) into repeated pixels."""
    height, width = image.shape[:2]
    wide, high = width * (1 - left - right), height * (1 - top - bottom)
    size = max(1, round(wide)), max(1, round(high))
    step_x, step_y = wide / size[0], high / size[1]
    place = np.float32([[step_x, 0, left * width + step_x / 2 - 0.5], [0, step_y, top * height + step_y / 2 - 0.5]])
    return cv2.warpAffine(image, place, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)


def cut(image: np.ndarray, share: float) -> np.ndarray:
    """Whole pixels, as many as make the share, cut off each side."""
    height, width = image.shape[:2]
    down, across = round(share * height), round(share * width)
    return image[down:height - down, across:width - across]


def lighter(image: np.ndarray, gain: float, offset: int = 0) -> np.ndarray:
    """Grey values times gain plus offset."""
    return np.clip(np.rint(image * float(gain) + offset), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[np.ndarray], bytes]] = {
    "JPEG quality 50": lambda image: encoded(image, 50),
    "JPEG quality 70": lambda image: encoded(image, 70),
    "JPEG quality 90": lambda image: encoded(image, 90),
    "size x 0.5": lambda image: encoded(scaled(image, 0.5)),
    "size x 0.7": lambda image: encoded(scaled(image, 0.7)),
    "size x 1.5": lambda image: encoded(scaled(image, 1.5)),
    "size x 2": lambda image: encoded(scaled(image, 2)),
    "2 % cut off each side": lambda image: encoded(cropped(image, 0.02, 0.02, 0.02, 0.02)),
    "2 % cut, whole pixels": lambda image: encoded(cut(image, 0.02)),
    "2 % cut off the left": lambda image: encoded(cropped(image, 0.02, 0, 0, 0)),
    "2 % added to each side": lambda image: encoded(cropped(image, -0.02, -0.02, -0.02, -0.02)),
    "brightness x 0.9": lambda image: encoded(lighter(image, 0.9)),
    "brightness x 1.1": lambda image: encoded(lighter(image, 1.1)),
    "brightness - 25": lambda image: encoded(lighter(image, 1, -25)),
    "brightness + 25": lambda image: encoded(lighter(image, 1, 25)),
}
