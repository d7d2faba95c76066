"""Pictures in a grid with their labels, to look at."""

import io
import os

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from pipelines.corpus.storage import check_replaceable, here
from pipelines.errors import BadInput
from pipelines.synthesis.corpus import Settings

MARK = b"textray render"  # stands in every sheet: only such a file is replaced
SHEET_COLUMNS = 8
SHEET_CELL = (184, 84)  # pixels, width and height, of which the label takes the lowest 16


def contact_sheet(settings: Settings, count: int) -> np.ndarray:
    """The first pictures in a grid with their labels below them, (height, width, 3) uint8 BGR."""
    draw = settings.synthesizer()
    wide, high = SHEET_CELL
    sheet = np.full((-(-count // SHEET_COLUMNS) * high, SHEET_COLUMNS * wide, 3), 255, np.uint8)
    for index in range(count):
        data, text = draw.render(settings.seed, index)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        scale = min((wide - 8) / picture.shape[1], (high - 24) / picture.shape[0])
        picture = cv2.resize(picture, None, fx=scale, fy=scale,
                             interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        top, left = index // SHEET_COLUMNS * high + 4, index % SHEET_COLUMNS * wide + 4
        sheet[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
        cv2.putText(sheet, text, (left, top + high - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (60, 60, 60), 1, cv2.LINE_AA)
    return sheet


def encoded(sheet: np.ndarray, suffix: str) -> bytes:
    """The sheet as the file that its suffix says, with the mark in it."""
    data, note = io.BytesIO(), PngImagePlugin.PngInfo()
    note.add_text("Software", MARK.decode())
    picture = Image.fromarray(cv2.cvtColor(sheet, cv2.COLOR_BGR2RGB))
    picture.save(data, "PNG", pnginfo=note) if suffix == ".png" else picture.save(data, "JPEG", quality=95, comment=MARK)
    return data.getvalue()


def write_sheet(file: str, count: int, settings: Settings) -> None:
    """Write the contact sheet as PNG or JPEG. Raises BadInput if the file has another suffix or cannot be written."""
    path = here(file, "--sheet")
    if count < 1:
        raise BadInput(f"expected at least 1 picture, found {count}: check -n")
    if path.suffix.lower() not in (".png", ".jpg"):
        raise BadInput(f"expected a file name that ends in .png or .jpg, found {file}: correct --sheet")
    if not path.parent.is_dir():
        raise BadInput(f"expected a folder at {path.parent}, found none: make it, or name another --sheet")
    check_replaceable(file, MARK, "--sheet")
    data = encoded(contact_sheet(settings, count), path.suffix.lower())
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as problem:
        raise BadInput(f"expected to write {file}, found {problem.strerror.lower()}: name another --sheet") from problem
    finally:
        temporary.unlink(missing_ok=True)
