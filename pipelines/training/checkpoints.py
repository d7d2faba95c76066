"""A run's checkpoints: folders that rank 0 brings to their place, each with a record by which a whole one is told from a torn one.

    checkpoints/checkpoint_TIME/state.pt         weights, optimizer, schedule, position of the streams
                                checkpoint.json  the step, the size of state.pt and its sha256

Ray's own list of them (`checkpoint_manager_snapshot.json`) is not asked: it is written in place, so a full disk leaves it empty, and it
knows nothing of what became of the files. What the folders hold decides: a run goes on from the newest whole checkpoint.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.state import parse_json

STATE, RECORD = "state.pt", "checkpoint.json"
RAY_LIST = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True)
class Record:
    """What checkpoint.json says of state.pt."""

    step: int  # steps done
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Whole:
    """A checkpoint whose bytes are those that were written."""

    name: str
    step: int
    data: bytes  # of state.pt

    def state(self) -> dict[str, Any]:
        """Its tensors on the CPU, whatever device they were on."""
        return torch.load(io.BytesIO(self.data), weights_only=True, map_location="cpu")


def write_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write state.pt and its record into a folder of this machine."""
    buffer = io.BytesIO()
    torch.save(state, buffer)  # into memory: on a full disk torch.save dies without saying why
    data = buffer.getbuffer()
    (folder / STATE).write_bytes(data)
    record = Record(step, len(data), hashlib.sha256(data).hexdigest())
    (folder / RECORD).write_text(json.dumps(asdict(record)) + "\n", encoding="utf-8")


def newest_whole(place: str) -> tuple[Whole | None, dict[str, str]]:
    """The newest whole checkpoint below `place`, a path or URI; and what is wrong with the damaged ones that were met, by name."""
    records, torn = _records(place)
    for name in _by_age(records):
        data = _content(storage.join(place, name, STATE))
        problem = _difference(records[name], data)
        if problem is None:
            return Whole(name, records[name].step, data), torn
        torn[name] = problem
    return None, torn


def prune(place: str, keep: int) -> None:
    """Leave the newest `keep` checkpoints, and nothing that is older or has no record."""
    records, torn = _records(place)
    for name in [*torn, *_by_age(records)[keep:]]:
        storage.remove(storage.join(place, name))


def drop_after(place: str, step: int) -> None:
    """Remove the checkpoints of later steps, and those without a record: of a run that goes on from `step`, they are another future's."""
    records, torn = _records(place)
    for name in [*torn, *(name for name, record in records.items() if record.step > step)]:
        storage.remove(storage.join(place, name))


def forget(place: str, torn: Iterable[str]) -> None:
    """Remove damaged checkpoints, and Ray's list, which may name them: Ray lists what it is given from now on."""
    for name in (*torn, RAY_LIST):
        storage.remove(storage.join(place, name))


def _by_age(records: dict[str, Record]) -> list[str]:
    """The newest first."""
    return sorted(records, key=lambda name: (records[name].step, name), reverse=True)


def _records(place: str) -> tuple[dict[str, Record], dict[str, str]]:
    """The records of all checkpoints by name, and what is wrong with those that have none."""
    records, torn = {}, {}
    try:
        names = [name for name in storage.list_names(place) if re.match("checkpoint_[0-9]", name)]
    except FileNotFoundError:
        names = []
    for name in names:
        data = _content(storage.join(place, name, RECORD))
        try:
            records[name] = parse_json(data or b"", Record, RECORD, "")
        except BadInput:
            torn[name] = f"no {RECORD}" if data is None else f"a damaged {RECORD}"
    return records, torn


def _content(path: str) -> bytes | None:
    try:
        return storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _difference(record: Record, data: bytes | None) -> str | None:
    """What is wrong with a state.pt; None if it is the one that the record describes."""
    if data is None:
        return f"no {STATE}"
    if len(data) != record.bytes:
        return f"{STATE} has {len(data):,} bytes instead of {record.bytes:,}"
    return None if hashlib.sha256(data).hexdigest() == record.sha256 else f"the sha256 of {STATE} differs"
