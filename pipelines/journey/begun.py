"""With what a journey began, so that the same command goes on and another one is told what it asks differently."""

import json
import shutil
from pathlib import Path
from typing import Any

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.progress import warn
from pipelines.state import parse_json


def begin(folder: Path, begun: dict[str, Any], out: str) -> None:
    """Write down with what a journey begins. One that has come to nothing yet, as with images that are refused, leaves its folder to the next.

    Raises:
        BadInput: another journey has got somewhere in this folder, or it holds other files.
    """
    file, now = folder / "begun.json", json.loads(json.dumps(begun))
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{out}: expected a free name or what an earlier `textray adapt` left, found a folder with other files: choose another --out")
    else:
        before = parse_json(file.read_bytes(), dict[str, Any], str(file), "remove its folder, or choose another --out")
        changes = differences(before, now)
        if not changes:
            return
        if any(folder.glob("corpora/*")) or {path.name for path in folder.iterdir()} - {"begun.json", "corpora", "start"}:
            raise BadInput(f"{out}: expected a free name or the same command on the same images, found what another one left ({'; '.join(changes)}): choose another --out, "
                           "or remove that folder")
        warn(f"{out}: an earlier try came to nothing there and gives way ({'; '.join(changes)})")
        for left in ("corpora", "start"):
            shutil.rmtree(folder / left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(str(file), json.dumps(begun, indent=1).encode())


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What another command asks differently, for a sentence: options with both values, and what lies at a place by its name."""
    found = []
    for name in now:
        if isinstance(now[name], dict):
            old = before.get(name) or {}
            found += [f"--{key.replace('_', '-')} {_said(old.get(key))} before, {_said(value)} now" for key, value in now[name].items() if old.get(key) != value]
        elif before.get(name) != now[name]:
            found.append(f"other {name} than before")
    return found


def _said(value: Any) -> str:
    return "not given" if value in (None, False) else "given" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
