"""A region of a scene image, cut out upright.

Coordinates are those of the stored pixels, x to the right and y down; (0, 0) is the corner of the first pixel, not its
centre, so a box from 10 to 30 is 20 pixels wide. What a region has beyond the picture's border repeats the border.
"""

import cv2
import numpy as np

from pipelines.corpus.image_formats import image_format
from pipelines.corpus.images import image_problem
from pipelines.corpus.pictures import decode_stored

LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM", "PGM", "PBM", "PAM", "Sun raster")
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
LONGEST_SIDE = 32_766  # pixels: OpenCV counts them with 15 bits when it warps
VERTICAL = 1.5  # height / width from which a text is taken for vertical
MARGIN = 4  # pixels around a region, which cubic interpolation reaches for


class BadRegion(Exception):
    """A region that nothing can be cut out of: `problem` is a short fixed phrase, `detail` what was found."""

    def __init__(self, problem: str, detail: str):
        super().__init__(f"{problem}: {detail}")
        self.problem, self.detail = problem, detail


def decode_scene(data: bytes) -> tuple[np.ndarray | None, str | None]:
    """A scene image as (height, width, 3) uint8 BGR and None, or None and why it is unusable, as a short fixed phrase.

    EXIF orientation is not applied: the published annotations are in stored pixels (test image 651 of Total-Text carries
    a rotation that its annotation does not know). What is transparent lies on white, 16 bits become 8.
    """
    picture = decode_stored(data)
    problem = image_problem(data, picture)
    return (picture, None) if problem is None else (None, problem)


def encode_crop(crop: np.ndarray, scene: bytes) -> bytes:
    """The crop as PNG if the scene's file is lossless (LOSSLESS), or else as JPEG of quality 95, 4:4:4.

    So nothing is lost twice, and crops of photographs stay small. crop is (height, width, 3) uint8 BGR.
    """
    lossless = image_format(scene) in LOSSLESS
    _, encoded = cv2.imencode(*((".png", crop) if lossless else (".jpg", crop, JPEG)))
    return encoded.tobytes()


def crop_region(picture: np.ndarray, points: np.ndarray, turn_vertical: bool = False) -> np.ndarray:
    """The region of a picture (height, width, channels) that `points` (n, 2) enclose, its text reading left to right.

    Four points are a quadrilateral from the text's top left corner on, clockwise. An axis-aligned one is cut directly
    (pixels that it touches); others are rectified by perspective, the crop's sides being the means of opposite sides.
    Three, five and more points run along the text's top and back along its bottom; they are cut by their smallest
    enclosing rectangle, turned so that the text runs to the right (see `upright`). A quadrilateral that is not convex
    is cut like these. Points that run anticlockwise, as those of COCO-Text do, are taken in the other direction from
    the first on: no text is mirrored. With `turn_vertical` crops higher than 1.5 times their width are turned by 90
    degrees anticlockwise. Raises BadRegion for "degenerate region" and "region outside the image".
    """
    points = _checked(points)
    crop = _cut(picture, points) if _is_axis_aligned(points) else _warp(picture, _corners(points))
    if turn_vertical and crop.shape[0] > VERTICAL * crop.shape[1]:
        crop = np.rot90(crop)
    return np.ascontiguousarray(crop)


def _checked(points: np.ndarray) -> np.ndarray:
    """The points clockwise, as float64. Raises BadRegion if they enclose nothing."""
    points = np.asarray(points, np.float64)
    if len(points) < 3:
        raise BadRegion("degenerate region", f"{len(points)} points")
    if not np.isfinite(points).all():
        raise BadRegion("degenerate region", f"coordinates that are not finite: {_shown(points)}")
    (width, height) = np.ptp(points, axis=0)
    if max(width, height) > 10 * LONGEST_SIDE:  # beyond all pictures, and beyond exact arithmetic
        raise BadRegion("degenerate region", f"{width:g} x {height:g} pixels: {_shown(points)}")
    if len(points) == 4:
        turns = _turns(points)
        if (turns > 0).sum() == 2 and (turns < 0).sum() == 2:
            raise BadRegion("degenerate region", f"sides that cross: {_shown(points)}")
    hull = cv2.convexHull((points - points[0]).astype(np.float32))
    if len(hull) < 3 or cv2.contourArea(hull) < 1e-3:
        raise BadRegion("degenerate region", f"no area: {_shown(points)}")
    x, y = (points - points[0]).T
    clockwise = np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) >= 0  # y points down
    return points if clockwise else np.roll(points[::-1], 1, axis=0)


def _shown(points: np.ndarray) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points[:16])


def _turns(points: np.ndarray) -> np.ndarray:
    """(n,) cross products of the sides that meet at each corner: positive where clockwise."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]


def _is_axis_aligned(points: np.ndarray) -> bool:
    if len(points) != 4:
        return False
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return np.array_equal(points, [(left, top), (right, top), (right, bottom), (left, bottom)])


def _cut(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    left, top = np.floor(points[0]).astype(int)
    right, bottom = np.ceil(points[2]).astype(int)
    height, width = picture.shape[:2]
    _check_place(picture, points, right - left, bottom - top)
    rows = np.clip(np.arange(top, bottom), 0, height - 1)
    columns = np.clip(np.arange(left, right), 0, width - 1)
    return picture[rows[:, None], columns[None, :]]


def _check_place(picture: np.ndarray, points: np.ndarray, width: int, height: int) -> None:
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    size = f"the picture has {picture.shape[1]} x {picture.shape[0]} pixels, the region {_shown(points)}"
    if right <= 0 or bottom <= 0 or left >= picture.shape[1] or top >= picture.shape[0]:
        raise BadRegion("region outside the image", size)
    if max(width, height) > min(2 * sum(picture.shape[:2]), LONGEST_SIDE):
        raise BadRegion("degenerate region", f"{width} x {height} pixels: {size}")


def _corners(points: np.ndarray) -> np.ndarray:
    """The four corners (4, 2) to rectify, clockwise from the text's top left."""
    if len(points) == 4 and (_turns(points) > 1e-6).all():
        return points
    return upright(points)


def upright(points: np.ndarray) -> np.ndarray:
    """The corners (4, 2) of the smallest rectangle around points (n, 2), clockwise from the text's top left.

    The points run along the text's top and then back along its bottom. Of the rectangle's four turns the one is taken
    whose top side agrees best with the way from the text's first side to its last one, and whose left side with the way
    from its top to its bottom. The corner nearest to the first point would not do: an arch's first point lies at the
    bottom.
    """
    rectangle = cv2.boxPoints(cv2.minAreaRect((points - points[0]).astype(np.float32))).astype(np.float64) + points[0]
    if np.sum(_turns(rectangle)) < 0:
        rectangle = rectangle[::-1]
    half = max(2, len(points) // 2)  # the middle one of an odd number belongs to neither side
    along_top, along_bottom = points[:half], points[max(half, len(points) - half):]
    if len(points) == 3:
        reading = points[1] - points[0]
    else:
        reading = (along_top[-1] + along_bottom[0] - along_top[0] - along_bottom[-1]) / 2
    down = along_bottom.mean(axis=0) - along_top.mean(axis=0)

    def agreement(corners: np.ndarray) -> float:
        right, below = corners[1] - corners[0], corners[3] - corners[0]
        return _cosine_times_length(reading, right) + _cosine_times_length(down, below)

    return max((np.roll(rectangle, -turn, axis=0) for turn in range(4)), key=agreement)


def _cosine_times_length(vector: np.ndarray, direction: np.ndarray) -> float:
    return float(vector @ direction / (np.linalg.norm(direction) or 1.0))


def _warp(picture: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Rectify the quadrilateral of corners (4, 2)."""
    top_left, top_right, bottom_right, bottom_left = corners
    width = (np.linalg.norm(top_right - top_left) + np.linalg.norm(bottom_right - bottom_left)) / 2
    height = (np.linalg.norm(bottom_left - top_left) + np.linalg.norm(bottom_right - top_right)) / 2
    width, height = max(1, round(width)), max(1, round(height))
    _check_place(picture, corners, width, height)
    limit = np.array(picture.shape[1::-1])
    first = np.clip(np.floor(corners.min(axis=0)).astype(int) - MARGIN, 0, limit - 1)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(int) + MARGIN, first + 1, limit)
    if max(last - first) > LONGEST_SIDE:
        raise BadRegion("degenerate region", f"{last[0] - first[0]} x {last[1] - first[1]} pixels: {_shown(corners)}")
    neighbourhood = np.ascontiguousarray(picture[first[1]:last[1], first[0]:last[0]])
    upright_corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    # OpenCV's coordinates are those of the pixels' centres
    matrix = cv2.getPerspectiveTransform((corners - first - 0.5).astype(np.float32), upright_corners - np.float32(0.5))
    return cv2.warpPerspective(neighbourhood, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
