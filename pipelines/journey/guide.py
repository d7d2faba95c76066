"""The words by which an n-gram guides the reading of a user's images: those that were drawn, and those that the labels say.

An n-gram that never saw a capital letter deletes capitals. So its words stand in the cases in which such words are drawn, and in those of the labels.
"""

from pathlib import Path
from random import Random

from models.charset import Charset
from pipelines.corpus import storage
from pipelines.synthesis.words import Words

DRAWN = 100_000  # English words, numbers and codes, as often as they are drawn


def english(charset: str, count: int = DRAWN) -> list[str]:
    """What that many drawn words say."""
    words, random = Words(Charset.named(charset)), Random(0)
    return [words.draw(random).text for _ in range(count)]


def listed(words: list[str], labels: list[str]) -> list[str]:
    """A user's words as they stand, and, where labels hold letters of a case that these words never have, in that case too."""
    held, wanted = set("".join(words)), set("".join(labels))
    capitals = any(letter.isupper() for letter in wanted) and not any(letter.isupper() for letter in held)
    small = any(letter.islower() for letter in wanted) and not any(letter.islower() for letter in held)
    also = [word.upper() for word in words if capitals] + [word.lower() for word in words if small] + [word.capitalize() for word in words if capitals or small]
    return list(dict.fromkeys([*words, *also]))


def write_guide(file: Path, charset: str, words: list[str], labels: list[str]) -> str:
    """Write the lines that the n-gram is made of, unless they are there: the user's words, or English ones, and the labels. Returns the file's name."""
    if not file.exists():
        storage.write_bytes(str(file), "".join(f"{line}\n" for line in [*(listed(words, labels) if words else english(charset)), *labels]).encode())
    return str(file)
