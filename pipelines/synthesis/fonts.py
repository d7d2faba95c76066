"""Faces: where free fonts lie on this machine, which characters each draws, and their glyphs as cached bitmaps.

The faces come as Python packages that `pyproject.toml` declares, so that they are at hand wherever Textray is
installed. Only the files are used: the packages are located, never imported.
"""

import importlib.util
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import ImageFont

from pipelines.errors import BadInput

# family: (package, folder inside it, files). Weights that vanish at 30 pixels (Thin, ExtraLight) are left out.
PACKAGED = {
    "Roboto": ("font_roboto", "files", r"Roboto-(Black|Bold|Medium|Light|Regular|)(Italic)?\.ttf"),
    "SourceSans": ("font_source_sans_pro", "files", r"SourceSansPro-(Black|Bold|Semibold|Regular|Light|)(It)?\.ttf"),
    "Hanken": ("font_hanken_grotesk", "files", r"HankenGrotesk-(Bold|SemiBold|Medium|Regular|Light|)(Italic)?\.otf"),
    "Manrope": ("font_manrope", "files", r"Manrope-(ExtraBold|Bold|SemiBold|Medium|Regular|Light)\.ttf"),
    "DejaVuSans": ("matplotlib", "mpl-data/fonts/ttf", r"DejaVuSans(-Bold|-BoldOblique|-Oblique|)\.ttf"),
    "DejaVuMono": ("matplotlib", "mpl-data/fonts/ttf", r"DejaVuSansMono(-Bold|-BoldOblique|-Oblique|)\.ttf"),
    "DejaVuSerif": ("matplotlib", "mpl-data/fonts/ttf", r"DejaVuSerif(-Bold|-BoldItalic|-Italic|)\.ttf"),
    "SourceSerif": ("font_source_serif_pro", "files", r"SourceSerifPro-(Black|Bold|Semibold|Regular|Light|)(It)?\.ttf"),
    "Caladea": ("font_caladea", "files", r"Caladea-.*\.ttf"),
    "STIX": ("matplotlib", "mpl-data/fonts/ttf", r"STIXGeneral(Bol|BolIta|Italic|)\.ttf"),
    "ComputerModern": ("matplotlib", "mpl-data/fonts/ttf", r"cm(b|r|ss|ti)10\.ttf"),
    "Fredoka": ("font_fredoka_one", "files", r"FredokaOne-Regular\.ttf"),
    "Intuitive": ("font_intuitive", "files", r"Intuitive\.ttf"),
    "Amatic": ("font_amatic_sc", "files", r"AmaticSC-.*\.ttf"),
}
# Computer Modern keeps TeX's encoding: at these codes its files hold another character, which no glyph check can see.
ENCODED_OTHERWISE = {"ComputerModern": "\"$'<>\\^_`{|}~"}

SIZES = (16, 24, 32, 48, 64)  # em sizes in pixels at which glyphs are kept; a word is warped from the next larger one
PROBE_SIZE = 32  # the em size at which coverage is examined
SAME_LETTERS = 0.65  # mean correlation of small letters with capitals: at most 0.53 where they differ, 0.79 where not
GLYPHS_KEPT = 2048  # per face and size, for charsets of thousands of characters


@dataclass(frozen=True)
class Glyph:
    """One character's bitmap: pixels (height, width) uint8, 255 = ink; left and top are its corner's offset from the
    pen on the baseline (top is negative above it), advance the pen's step; all in pixels."""

    pixels: np.ndarray
    left: int
    top: int
    advance: float


class Face:
    """One font file: a family, a weight, a slant."""

    def __init__(self, path: Path, family: str = "", refused: str = ""):
        """Open a TrueType or OpenType file. `refused`: characters it draws wrongly. BadInput if it is no font."""
        self.path = Path(path)
        self.name = self.path.stem
        self.family = family or self.name.split("-")[0]
        self.refused = refused
        self.weight = weight_of(self.name)
        self.italic = bool(re.search(r"Ita|Obl|It$|ti10$", self.name))
        self._open = cache(self._open_at)
        self.glyph = lru_cache(maxsize=GLYPHS_KEPT * len(SIZES))(self._glyph_at)
        self._draws = cache(self._draws_character)
        self._unicase = cache(self._is_unicase)
        self._open(PROBE_SIZE)

    def __repr__(self) -> str:
        return f"Face({self.name})"

    def _open_at(self, size: int) -> ImageFont.FreeTypeFont:
        try:
            return ImageFont.truetype(str(self.path), size, layout_engine=ImageFont.Layout.BASIC)
        except OSError as problem:
            raise BadInput(f"expected a TrueType or OpenType font at {self.path}, found a file that FreeType cannot "
                           f"open ({problem}): remove it from the folder") from problem

    def _glyph_at(self, character: str, size: int) -> Glyph:
        font = self._open(size)
        ink, (left, top) = font.getmask2(character, mode="L", anchor="ls")  # half the time of drawing on an image
        pixels = np.frombuffer(bytes(ink), np.uint8).reshape(ink.size[1], ink.size[0])
        return Glyph(pixels, left, top, font.getlength(character))

    def draws(self, text: str) -> bool:
        """Whether every character has a glyph of its own here; small letters in an all-capitals face have none."""
        return all(map(self._draws, text))

    def _draws_character(self, character: str) -> bool:
        if character in self.refused:
            return False
        if character == " ":
            return True
        glyph = self.glyph(character, PROBE_SIZE)
        if not glyph.pixels.any() or same_shape(glyph, self.glyph("\uffff", PROBE_SIZE)):
            return False
        return not (character != character.upper() and len(character.upper()) == 1 and self._unicase())

    def _is_unicase(self) -> bool:
        """Whether small letters are drawn as capitals: their labels would then say what nobody can see."""
        pairs = [(self.glyph(letter, PROBE_SIZE), self.glyph(letter.upper(), PROBE_SIZE)) for letter in "abdegnqr"]
        if not all(glyph.pixels.any() for pair in pairs for glyph in pair):
            return False
        return sum(similarity(small, capital) for small, capital in pairs) / len(pairs) > SAME_LETTERS


def weight_of(name: str) -> str:
    """light | regular | bold | black, from a font file's name."""
    if re.search(r"Black|ExtraBold|FredokaOne", name):
        return "black"
    if re.search(r"Bold|bold|Bol|cmb", name):
        return "bold"
    return "light" if "Light" in name else "regular"


def same_shape(one: Glyph, other: Glyph) -> bool:
    """Whether two glyphs are the same bitmap."""
    return one.pixels.shape == other.pixels.shape and bool((one.pixels == other.pixels).all())


def similarity(one: Glyph, other: Glyph) -> float:
    """Correlation of two glyphs' ink, both stretched to one size: 1 for the same shape."""
    first, second = (cv2.resize(glyph.pixels, (16, 16), interpolation=cv2.INTER_AREA).ravel() for glyph in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


def packaged_faces(families: tuple[str, ...] | None = None) -> list[Face]:
    """The faces that come with Textray's dependencies, in a fixed order; those of some families only if named.

    Raises BadInput if a declared font package is not installed.
    """
    faces = []
    for family in families or tuple(PACKAGED):
        package, folder, pattern = PACKAGED[family]
        found = importlib.util.find_spec(package)
        where = Path(found.submodule_search_locations[0]) / folder if found else Path(package)
        files = sorted(path for path in where.glob("*.[to]tf") if re.fullmatch(pattern, path.name))
        if not files:
            raise BadInput(f"expected the fonts of {family} in the Python package {package!r}, found none: "
                           "install Textray's dependencies again, or name a folder of fonts with --fonts")
        faces += [Face(path, family, ENCODED_OTHERWISE.get(family, "")) for path in files]
    return faces


def folder_faces(folder: str | Path) -> list[Face]:
    """The .ttf and .otf files below a folder, in the order of their paths. Raises BadInput if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"expected a folder of .ttf or .otf files at {folder}, found nothing there: check --fonts")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    if not files:
        raise BadInput(f"expected .ttf or .otf files below {folder}, found none: check --fonts")
    return [Face(path) for path in files]
