"""One picture of one word: a function of style, seed and index."""

import unicodedata
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random

import cv2

from models.charset import Charset
from pipelines.errors import BadInput
from pipelines.synthesis.camera import aim, develop, expose, project, target_height
from pipelines.synthesis.fonts import Face, folder_faces, packaged_faces
from pipelines.synthesis.lettering import letter
from pipelines.synthesis.paint import paint
from pipelines.synthesis.shares import Shares
from pipelines.synthesis.styles import STYLES, Style
from pipelines.synthesis.words import Word, Words

FACE_TRIES = 30


@dataclass
class Synthesizer:
    """Draws words in one style. A picture is a function of seed and index alone, whatever was drawn before it."""

    style: Style
    words: Words
    faces: list[Face]
    shares: Shares[Face] = field(init=False)

    def __post_init__(self) -> None:
        counts: dict[str, int] = {}
        for face in self.faces:
            counts[face.family] = counts.get(face.family, 0) + 1
        self.shares = Shares({face: self._share(face, counts[face.family]) for face in self.faces})
        characters = self.words.characters
        if joined := "".join(character for character in characters if is_joined(character)):
            raise BadInput(f"expected letters that stand one after the other from left to right, found {joined!r}: "
                           "scripts whose letters join, stack or run leftwards would be drawn wrongly, so take real "
                           "images for them")
        if not any(face.draws(characters) for face in self.faces):
            best = max(self.faces, key=lambda face: sum(map(face.draws, characters)))
            lacking = "".join(character for character in characters if not best.draws(character))
            raise BadInput(f"expected a font that draws every character of the charset, found none among "
                           f"{len(self.faces)}; {best.name} comes nearest and lacks {lacking!r}: narrow --charset, or "
                           "name a folder of other fonts with --fonts")

    def _share(self, face: Face, siblings: int) -> float:
        slant = self.style.italic if face.italic else 1.0
        return self.style.families.get(face.family, 1.0) * self.style.weights[face.weight] * slant / siblings

    def _face(self, random: Random, word: Word) -> tuple[Face, str]:
        """A face by its share in the style among those that have every character, and what it is to draw.

        Where no face has the unlabeled marks around a word, they are left out.
        """
        for _ in range(FACE_TRIES):
            face = self.shares.pick(random)
            if face.draws(word.drawn):
                return face, word.drawn
        face = next(face for face in self.faces if face.draws(word.text))
        return face, word.drawn if face.draws(word.drawn) else word.text

    def render(self, seed: int, index: int) -> tuple[bytes, str]:
        """Picture number `index`: a JPEG file and its label. Styles share no words: each has its own random numbers."""
        random = Random(f"{self.style.name} {seed} {index}")
        word = self.words.draw(random)
        face, drawn = self._face(random, word)
        height = target_height(random, self.style)
        others = [self.words.draw(random).drawn for _ in range(2)] if random.random() < self.style.neighbours else []
        sheet = letter(random, self.style, face, drawn, others, height * 0.8)
        view = aim(random, self.style, sheet, height)
        picture, contrast = paint(random, self.style, project(sheet, view))
        return develop(random, self.style, expose(random, self.style, picture, contrast)), word.text


def is_joined(character: str) -> bool:
    """Whether a character needs text shaping: it combines with others, or belongs to a script written leftwards."""
    return unicodedata.category(character) in ("Mn", "Mc", "Me") or unicodedata.bidirectional(character) in ("R", "AL")


@cache
def synthesizer(style: str = "scene", charset: str = "94", max_length: int = 25, words: str | None = None,
                fonts: str | None = None, pattern: str | None = None, content: str = "") -> Synthesizer:
    """The synthesizer for these settings, made once per process. Raises BadInput if they cannot be met.

    `content`: what the files of words and fonts hold, so that others under the same name are not taken for them.
    `words`: a file of words; `pattern`: a regular expression in its place; `fonts`: a folder of fonts that takes the place of the packaged ones.
    """
    if style not in STYLES:
        raise BadInput(f"expected one of the styles {', '.join(STYLES)}, found {style!r}: check --style")
    cv2.setNumThreads(0)  # whoever wants several CPUs starts several processes
    look = STYLES[style]
    if fonts is None:
        faces = packaged_faces(tuple(look.families))
    else:
        faces = folder_faces(fonts)
        look = replace(look, families={}, weights=dict.fromkeys(look.weights, 1.0))  # the user's choice of faces stands
    try:
        characters = Charset.named(charset)
    except ValueError as problem:
        raise BadInput(f"--charset {charset}: {problem}") from problem
    return Synthesizer(look, Words(characters, max_length, words, pattern), faces)


def render_word(seed: int, index: int, style: str = "scene") -> tuple[bytes, str]:
    """One synthetic word by the packaged fonts and the English list: a JPEG file and its label."""
    return synthesizer(style).render(seed, index)
