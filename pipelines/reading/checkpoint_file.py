"""Checkpoint files of other programs: the tensors in them, read without running anything that the file brings along."""

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.published.layout import unwrapped
from pipelines.errors import BadInput

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")  # the keys under which training programs put a state dict
BRANCHES = {"online": "online_model", "target": "target_model"}  # CCR's two networks; the first is the usual choice
PREFIXES = {"online": "student.", "target": "teacher."}  # the same in SemiMTR's files, which hold both in one state dict
# What torch.save writes first: a zip archive, or, before PyTorch 1.6, a pickled number.
BEGINNINGS = (b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")


def read_tensors(file: Path, branch: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint, from wherever in the file it lies. Other entries, such as an optimizer's, are left out.

    branch: which network, one of BRANCHES, of a file that holds two; without it the online one.

    Raises:
        BadInput: no such file, one that PyTorch does not read, one that needs code to be read, or one without such a state dict.
    """
    content = _load(file)
    keys = (BRANCHES[branch or "online"], *CONTAINERS)
    found = content
    while isinstance(found, Mapping) and not _is_state(found):
        inside = next((found[key] for key in keys if isinstance(found.get(key), Mapping)), None)
        if inside is None:
            break
        found = inside
    if not isinstance(found, Mapping) or not _is_state(found):
        raise BadInput(f"{file}: expected a state dict, or a dictionary that holds one as {', '.join(keys)}, found {_what(found)}: "
                       "save the state dict alone, torch.save(model.state_dict(), FILE)")
    state = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    names = unwrapped(state)
    both = all(name.startswith(tuple(PREFIXES.values())) for name in names)
    if branch is not None and not both and not (isinstance(content, Mapping) and BRANCHES[branch] in content):
        raise BadInput(f"--branch {branch}: expected a checkpoint with {' and '.join(BRANCHES.values())}, or with tensors of "
                       f"{' and '.join(PREFIXES.values())}, found {_what(content)} in {file}: leave --branch out")
    prefix = PREFIXES[branch or "online"]
    return {name.removeprefix(prefix): tensor for name, tensor in names.items() if name.startswith(prefix)} if both else state


def sha256(file: Path) -> str:
    """The sha256 of the whole file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_state(found: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in found) and any(isinstance(value, Tensor) for value in found.values())


def _what(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"the keys {', '.join(map(str, list(content)[:8]))}{' …' if len(content) > 8 else ''}" if content else "an empty dictionary"


def _load(file: Path) -> Any:
    if not file.is_file():
        raise BadInput(f"expected a checkpoint, found no file at {file}: give the path of one")
    with file.open("rb") as opened:
        beginning = opened.read(max(map(len, BEGINNINGS)))
    if not beginning.startswith(BEGINNINGS):
        raise BadInput(f"{file}: expected a checkpoint that torch.save wrote, found a file of another kind: give the checkpoint itself")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as problem:
        objects = re.search(r"GLOBAL (\S+)", str(problem))
        foreign = f"an object of {objects[1]}" if objects else "a TorchScript program" if "TorchScript archives" in str(problem) else ""
        if foreign:
            raise BadInput(f"{file}: expected tensors alone, found {foreign}, which cannot be read without running code: where you trust "
                           "the file, save its state_dict() alone") from None
        reason = str(problem).split(".")[0].strip() or "it ends too early"
        raise BadInput(f"{file}: expected a whole checkpoint, found one that PyTorch cannot read ({reason}): fetch it again") from None
