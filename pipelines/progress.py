"""What a command tells while it works, on stderr: progress, remarks, warnings. Whoever wants results and errors alone is told nothing of it.

`--quiet` (every command has it, from `arguments.Parser`) and `quiet=True` of the Python functions end here: whatever is told on the way goes through
`say`, `warn` or `Progress`.
"""

import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

_silent = False


def say(line: str) -> None:
    """A remark."""
    if not _silent:
        print(line, file=sys.stderr, flush=True)


def warn(sentence: str) -> None:
    """A warning, of something that ends nothing."""
    say(f"textray: warning: {sentence}")


def is_silent() -> bool:
    """Whether remarks are unwanted."""
    return _silent


def silence() -> None:
    """Show no progress, no remarks and no warnings from here on, neither ours nor those of Ray, MLflow and other libraries."""
    global _silent
    _silent = True
    logging.disable(logging.WARNING)
    warnings.showwarning = _unseen


def _unseen(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None) -> None:
    """Where warnings go that nobody wants to see."""


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Silence for the time of the block, or, without `quiet`, whatever was; `silence` called in it ends with it, too."""
    global _silent
    before = _silent, logging.root.manager.disable, warnings.showwarning
    if quiet:
        silence()
    try:
        yield
    finally:
        _silent, disabled, warnings.showwarning = before
        logging.disable(disabled)


@contextmanager
def aside() -> Iterator[None]:
    """What is printed in the block is a remark: it goes to stderr, or nowhere. Libraries print such on stdout, where only results belong."""
    with redirect_stdout(io.StringIO() if _silent else sys.stderr):
        yield


class Progress:
    """Counts towards a total.

        progress = Progress("ingest", total=4468, unit="images")
        progress.add(1000)      # ingest: 1,000 of 4,468 images (22 %), 5,200/s, 0:01 left
        progress.close()

    On a terminal the line is rewritten each second; in a log file a new one is written every 15 seconds.
    """

    def __init__(self, what: str, total: int, unit: str, already: int = 0, stream: TextIO | None = None):
        self.what, self.total, self.unit = what, total, unit
        self.done = already  # by an earlier run: counts as done, but not for the rate
        self._already = already
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._shown = self._started

    def add(self, count: int) -> None:
        """Count `count` more as done, and show the line if it is time."""
        self.done += count
        if time.monotonic() - self._shown >= (1 if self._on_terminal else 15):
            self._show()

    def close(self) -> None:
        """Show the last state and end the line."""
        self._show()
        if self._on_terminal and not _silent:
            print(file=self._stream)

    def line(self, seconds: float) -> str:
        """The line as it reads `seconds` after the start."""
        rate = (self.done - self._already) / max(seconds, 1e-9)
        share = 100 * self.done // max(self.total, 1)
        left = f", {clock((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        return f"{self.what}: {self.done:,} of {self.total:,} {self.unit} ({share} %), {rate:,.0f}/s{left}"

    def _show(self) -> None:
        if _silent:
            return
        self._shown = time.monotonic()
        line = self.line(self._shown - self._started)
        print(f"\r{line:<79}" if self._on_terminal else line, end="" if self._on_terminal else "\n", file=self._stream,
              flush=True)


def clock(seconds: float) -> str:
    """Seconds as 0:05, 12:34 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
