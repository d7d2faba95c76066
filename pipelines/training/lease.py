"""The right to write in a folder of an object store, which has no locks: a small file says who has it and until when.

The owner renews it as long as it lives; of one that was killed it ends by itself. Whoever takes a free lease writes its name, waits, and
looks whether the name still stands: of two that came at once the later one has it. The clocks of the machines must agree within the
lease's length.
"""

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.progress import warn
from pipelines.state import parse_json

SETTLING = 1.0  # seconds between writing one's name and looking whether it stands
LOST = signal.SIGUSR1  # not SIGINT, which whatever runs in the background ignores


@dataclass(frozen=True)
class Lease:
    """What the file says. Of one owner all its contents are of one length, so that a reader never gets the half of two."""

    owner: str
    until: int  # milliseconds since 1970

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.until < 1000 * time.time()


def length() -> float:
    """Seconds for which a lease holds: TEXTRAY_LEASE_SECONDS, or a minute."""
    return float(os.environ.get("TEXTRAY_LEASE_SECONDS", 60))


@contextmanager
def leased(file: str, what: str) -> Iterator[threading.Event]:
    """Hold the lease in `file` for the time of the block; `what` is it that may be written then, for the sentences.

    Gives an event that is set when another process has taken the lease: from then on nothing may be written.

    Raises:
        BadInput: another process holds it, or has taken it since this one could not renew it in time.
    """
    owner = f"{socket.gethostname()}, process {os.getpid()}, {secrets.token_hex(4)}"
    found = _read(file)
    if found is not None and not found.over:
        raise _taken(what, found)
    _write(file, owner)
    time.sleep(SETTLING)
    found = _read(file)
    if found is None or found.owner != owner:
        raise _taken(what, found or Lease("another process", int(1000 * time.time())))
    ended, lost = threading.Event(), threading.Event()
    alone = threading.current_thread() is threading.main_thread()
    handler = signal.signal(LOST, _interrupted) if alone else None
    thread = threading.Thread(target=_renew, args=(file, owner, ended, lost), name="lease", daemon=True)
    thread.start()
    try:
        yield lost
    except KeyboardInterrupt:
        if lost.is_set():
            raise BadInput(f"{what} was taken over by another process, since its lease ({file}) could not be renewed in time; look at what "
                           "that one does, or choose another name=") from None
        raise
    finally:
        ended.set()
        thread.join()
        if alone:
            signal.signal(LOST, handler)
        if not lost.is_set():
            storage.remove(file)


def holds(file: str) -> bool:
    """Whether somebody has the lease in `file` now."""
    found = _read(file)
    return found is not None and not found.over


def _taken(what: str, found: Lease) -> BadInput:
    until = time.strftime("%H:%M:%S UTC", time.gmtime(found.until / 1000 + 1))
    return BadInput(f"{what} is being trained by another process ({found.owner}), whose lease holds until {until} unless it is renewed; wait "
                    "for it, also if that process was killed, or choose another name=")


def _renew(file: str, owner: str, ended: threading.Event, lost: threading.Event) -> None:
    while not ended.wait(length() / 4):
        try:
            found = _read(file)
            if found is None or found.owner == owner:
                _write(file, owner)
                continue
        except (BadInput, OSError) as problem:  # a store that is away: the next try may come in time
            warn(f"the lease {file} is not renewed for now ({str(problem).splitlines()[0][:200]})")
            continue
        lost.set()
        sent = LOST if signal.getsignal(LOST) is _interrupted else signal.SIGINT
        signal.pthread_kill(threading.main_thread().ident, sent)  # a real signal: it also ends what the thread waits for
        return


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _read(file: str) -> Lease | None:
    try:
        data = storage.read_bytes(file)
    except FileNotFoundError:
        return None
    return parse_json(data, Lease, file, "remove it if nobody trains there")


def _write(file: str, owner: str) -> None:
    storage.write_bytes(file, json.dumps(asdict(Lease(owner, int(1000 * (time.time() + length()))))).encode())
