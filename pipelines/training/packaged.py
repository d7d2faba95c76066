"""The recipes that come with textray: those of `recipes/`, in the repository and in an installed textray alike."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import BadInput
from pipelines.training.hints import nearest

PACKAGED = Path(__file__).resolve().parents[2] / "recipes"


@dataclass(frozen=True)
class Packaged:
    """A recipe file with what its head says."""

    file: Path

    @property
    def name(self) -> str:
        """By which it is asked for."""
        return self.file.stem

    @property
    def text(self) -> str:
        """The whole file."""
        return self.file.read_text(encoding="utf-8")

    @property
    def head(self) -> str:
        """The comment at the top: what it is, its commands, its cost, what came out."""
        lines = []
        for line in self.text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").removeprefix(" "))
        return "\n".join(lines)

    @property
    def about(self) -> str:
        """The first sentence of its head."""
        return re.split(r"(?<=[a-z0-9)])\.(?:\s|$)", " ".join(self.head.split("\n  ")[0].split()), maxsplit=1)[0]

    @property
    def kind(self) -> str:
        """`objective on recognizer`."""
        return f"{self.tree['objective']['name']} on {self.tree['recognizer']['name']}"

    @property
    def tree(self) -> dict[str, Any]:
        """What it says, as nested dictionaries."""
        return yaml.safe_load(self.text)


def packaged() -> list[Packaged]:
    """All of them, by name."""
    return [Packaged(file) for file in sorted(PACKAGED.glob("*.yaml"))]


def _nearest(stem: str, names: Iterable[str]) -> str:
    """The recipe that is written most like this, by whole names, or else by the words that make them up; there are too many to list them all."""
    names = list(names)
    hint = nearest(stem, names)
    if not hint.startswith("known: "):
        return hint
    likeness = {name: max(SequenceMatcher(None, part, stem).ratio() for part in name.split("_")) for name in names}
    return f"the nearest is {max(names, key=lambda name: likeness[name])!r}; `textray recipes` lists all {len(names)}"


def recipe_named(name: str) -> Packaged:
    """One of them; `ccr_trba`, `ccr_trba.yaml` and `recipes/ccr_trba.yaml` mean the same. Raises BadInput for another name, with the nearest."""
    known = {recipe.name: recipe for recipe in packaged()}
    stem = Path(name).name.removesuffix(".yaml")
    if stem not in known:
        raise BadInput(f"expected a recipe of textray's, found {name!r}; {_nearest(stem, known)}")
    return known[stem]
