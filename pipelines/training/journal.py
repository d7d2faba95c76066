"""progress.jsonl: the numbers that a run logged, one line each, appended on this machine and replaced in an object store.

A line that a kill or a full disk cut short is cut off, not fatal: the steps behind the last checkpoint are trained again anyway.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.state import parse_json

RECENT = 20  # lines that say how fast a run is
SECONDS_BETWEEN_UPLOADS = 10.0  # an object cannot be appended to: it is written again as a whole


def read_journal(file: str) -> list[dict[str, int | float]]:
    """The lines of a journal, `step` and `time` in each; none if there is no such file. A last line that was cut short is left out.

    Raises:
        BadInput: another line is not what a run logs.
    """
    return [parse_line(line, f"{file}, line {number}") for number, line in enumerate(_whole_lines(file).splitlines(), 1)]


def parse_line(line: bytes, where: str) -> dict[str, int | float]:
    """The numbers of one line. Raises BadInput."""
    remedy = "remove this line, or the file, whose numbers are lost then"
    numbers = parse_json(line, dict[str, int | float], where, remedy)
    if not isinstance(numbers.get("step"), int) or "time" not in numbers:
        raise BadInput(f"{where}: expected a step and a time, found {', '.join(numbers) or 'neither'}: {remedy}")
    return numbers


def time_left(lines: Sequence[Mapping[str, float]], steps: int) -> float | None:
    """Seconds to the last step at the pace of the last lines; None where it is not known yet.

    The pace is the median from line to line: a pause, as behind a kill, is one of many.
    """
    pairs = list(pairwise(lines[-RECENT:]))
    paces = [(after["time"] - before["time"]) / (after["step"] - before["step"]) for before, after in pairs
             if after["step"] > before["step"] and after["time"] > before["time"]]
    return (steps - lines[-1]["step"]) * median(paces) if paces else None


def cut_torn_line(file: str) -> None:
    """Remove what follows the last whole line, if anything does."""
    try:
        data = storage.read_bytes(file)
    except FileNotFoundError:
        return
    whole = data[:data.rfind(b"\n") + 1]
    if len(whole) < len(data) and storage.is_remote(file):
        storage.write_bytes(file, whole)
    elif len(whole) < len(data):
        os.truncate(file, len(whole))


def _whole_lines(file: str) -> bytes:
    try:
        data = storage.read_bytes(file)
    except FileNotFoundError:
        return b""
    return data[:data.rfind(b"\n") + 1]


def add_line(file: str, line: str) -> None:
    """Append a line to a file at any place; in a store that costs as much as to write the whole."""
    if storage.is_remote(file):
        storage.write_bytes(file, _whole_lines(file) + line.encode() + b"\n")
        return
    with open(file, "ab") as opened:
        opened.write(line.encode() + b"\n")


class Journal:
    """A journal to append to: in its file at once, in a store now and then, at `flush` and at the end."""

    def __init__(self, file: str) -> None:
        """Goes on behind the last whole line."""
        cut_torn_line(file)
        self._file = file
        self._lines = _whole_lines(file) if storage.is_remote(file) else b""
        self._uploaded, self._shown_at = len(self._lines), time.monotonic()

    def append(self, numbers: dict[str, float]) -> None:
        """Write one line."""
        line = json.dumps(numbers)
        if not storage.is_remote(self._file):
            add_line(self._file, line)
            return
        self._lines += line.encode() + b"\n"
        if time.monotonic() - self._shown_at >= SECONDS_BETWEEN_UPLOADS:
            self.flush()

    def flush(self) -> None:
        """Bring what was appended to its place."""
        if len(self._lines) > self._uploaded:
            storage.write_bytes(self._file, self._lines)
            self._uploaded, self._shown_at = len(self._lines), time.monotonic()


class Follower:
    """Reads what is appended to a file, line by line, from its present end on."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._offset = len(_whole_lines(file))

    def new_lines(self) -> list[bytes]:
        """The whole lines that have come since the last call."""
        try:
            with storage.open_file(self._file) as opened:
                opened.seek(min(self._offset, opened.size()))
                data = opened.read()
        except FileNotFoundError:
            return []
        whole = data[:data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()
