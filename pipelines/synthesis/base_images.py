"""Base images: labels in plain print on an even ground, composed on the device from the ids of their characters.

ViSu's Online Generation Strategy (Qu et al., NeurIPS 2024, arXiv 2411.15585; sizes and colours are those of the authors' code): black characters
on gray without any background, side by side, each in a font of its own. Theirs are drawn with Pillow, word by word, in fonts that they chose;
they also move every character up or down and may lay all of a word's characters on their side. Here the characters share a baseline.

The glyphs are drawn once. What is kept of a glyph is, for each of its columns, the ink to the left of it, row by row: the ink between two
places of a line is then a difference of two sums, and a word of any width is brought to the width of the image by averaging over areas, without
a loop over words or characters and without asking the device how wide a word is.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from models.charset import Charset, Tokens
from pipelines.errors import BadInput
from pipelines.synthesis.fonts import PROBE_SIZE, Face, packaged_faces
from pipelines.synthesis.lettering import rows_of

FAMILIES = ("Roboto", "SourceSans", "Hanken", "Manrope", "DejaVuSans", "DejaVuSerif", "SourceSerif", "Caladea", "STIX")
GROUND, INK = 127, 0  # gray levels
ROWS, COLUMNS = 1 / 16, 10 / 64  # of the height: free above and below the characters, before and behind the word
FULL = 255  # a pixel of a glyph that is all ink


@dataclass(frozen=True)
class Glyphs:
    """The characters of a charset in several faces, for lines of one height. Glyph 0 is nothing; that of character c in face f is
    1 + f * characters + c."""

    sums: np.ndarray  # (glyphs, columns + 1, height) int32: the ink to the left of each column; all of it behind the last
    widths: np.ndarray  # (glyphs,) int64, in columns
    faces: int


@cache
def plain_faces(charset: Charset) -> tuple[Face, ...]:
    """The upright faces of regular weight, of the plain families, that draw all of the charset. BadInput if there are none."""
    faces = [face for face in packaged_faces(FAMILIES) if face.weight == "regular" and not face.italic]
    able = tuple(face for face in faces if face.draws(charset.characters))
    if not able:
        lacking = {face.name: "".join(c for c in charset.characters if not face.draws(c)) for face in faces}
        nearest = min(lacking, key=lambda name: len(lacking[name]))
        raise BadInput(f"expected a charset that one of the packaged fonts draws, for base images; found none that does: {nearest}, the nearest, "
                       f"lacks {lacking[nearest]!r}; leave these out of recognizer.charset, or choose an objective without base images")
    return able


@cache
def glyphs_of(charset: Charset, height: int) -> Glyphs:
    """The charset's glyphs in each of its plain faces, as large as lines of this height in pixels allow."""
    faces = plain_faces(charset)
    drawn = [np.zeros((height, 0), np.uint8)]
    for face in faces:
        drawn += _cells(face, charset.characters, height)
    widths = np.array([cell.shape[1] for cell in drawn])
    sums = np.zeros((len(drawn), widths.max() + 1, height), np.int32)
    for own, cell in zip(sums, drawn, strict=True):
        own[1:cell.shape[1] + 1] = cell.T.cumsum(0, dtype=np.int32)
        own[cell.shape[1] + 1:] = own[cell.shape[1]]
    return Glyphs(sums, widths, len(faces))


def _cells(face: Face, characters: str, height: int) -> list[np.ndarray]:
    """Each character as (height, its width) uint8, all with one baseline, nothing cut off."""
    size = _largest_size(face, characters, height - 2 * round(ROWS * height))
    top, bottom = rows_of(face, characters, size)
    baseline = (height - (bottom - top)) // 2 - top
    cells = []
    for character in characters:
        glyph = face.glyph(character, size)
        rows, columns = glyph.pixels.shape
        left = max(glyph.left, 0)  # what reaches back beyond the pen stands behind it
        cell = np.zeros((height, max(round(glyph.advance), left + columns)), np.uint8)
        cell[baseline + glyph.top:baseline + glyph.top + rows, left:left + columns] = glyph.pixels
        cells.append(cell)
    return cells


def _largest_size(face: Face, characters: str, room: int) -> int:
    """The largest em size, in pixels, at which the characters are at most `room` rows high from the highest to the lowest."""
    def extent(size: int) -> int:
        top, bottom = rows_of(face, characters, size)
        return bottom - top
    size = PROBE_SIZE * room // extent(PROBE_SIZE) + 2  # in proportion, and what rounding may add
    while size > 1 and extent(size) > room:
        size -= 1
    return size


class BaseImages:
    """Draws words as (n, 3, height, width) uint8 images on one device."""

    def __init__(self, tokens: Tokens, height: int, device: torch.device) -> None:
        """`tokens`: the ids that words are given as. BadInput for a charset that no packaged font draws."""
        glyphs = glyphs_of(tokens.charset, height)
        self.tokens, self.height, self.faces = tokens, height, glyphs.faces
        self.sums = torch.from_numpy(glyphs.sums).to(device)  # (glyphs, columns + 1, height)
        self.widths = torch.from_numpy(glyphs.widths).to(device)  # (glyphs,)

    def draw(self, ids: Tensor, faces: Tensor, width: int, *, stretch: bool = True) -> Tensor:
        """(n, steps) ids, those that are no characters drawing nothing, each in the face of that number (n, steps) -> (n, 3, height, width) uint8.

        stretch: every word fills the width; otherwise it keeps its proportions, is narrowed only where it would not fit, and stands on the left.
        """
        character = self.tokens.is_character(ids)
        glyphs = (1 + faces * len(self.tokens.charset) + ids - self.tokens.first_character) * character  # (n, steps)
        ends = self.widths[glyphs].cumsum(1)  # (n, steps) where each glyph ends, in columns of the line
        border = round(COLUMNS * self.height)
        scale = (ends[:, -1:] + 2 * border) / width  # (n, 1) columns of the line in one of the image
        if not stretch:
            scale = scale.clamp(min=1)
        edges = torch.arange(width + 1, device=ids.device) * scale - border  # (n, width + 1)
        ink = self._ink_before(edges, glyphs, ends).diff(dim=1) / (FULL * scale.unsqueeze(2))  # (n, width, height) in [0, 1]
        gray = (GROUND + (INK - GROUND) * ink).round().clamp(0, 255).to(torch.uint8)
        return gray.transpose(1, 2).unsqueeze(1).expand(-1, 3, -1, -1)

    def _ink_before(self, places: Tensor, glyphs: Tensor, ends: Tensor) -> Tensor:
        """The ink to the left of places (n, places) of lines of glyphs (n, steps), row by row: (n, places, height)."""
        places = places.clamp(min=0).minimum(ends[:, -1:].to(places.dtype))
        step = (ends.unsqueeze(1) <= places.unsqueeze(2)).sum(2).clamp(max=glyphs.shape[1] - 1)  # (n, places) the glyph that each lies in
        inside = places - (ends - self.widths[glyphs]).gather(1, step)  # columns of that glyph to the left of the place
        column = inside.long().clamp(max=self.sums.shape[1] - 2)
        glyph = glyphs.gather(1, step)
        whole = self.sums[glyph, column].float()  # (n, places, height)
        part = (inside - column).unsqueeze(2) * (self.sums[glyph, column + 1] - whole)
        each = self.sums[:, -1][glyphs]  # (n, steps, height)
        before = (each.cumsum(1) - each).gather(1, step.unsqueeze(2).expand(-1, -1, self.height))
        return before + whole + part
