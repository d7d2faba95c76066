"""Object stores that are away for a moment: what they do not answer is asked again, for minutes, wherever it is asked.

Every request of every reader and writer goes through one file system, so that nobody else has to think of it. What will not pass (no such
bucket, no permission, no such file) is raised at once.
"""

import io
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import pyarrow as pa
from pyarrow import fs

from pipelines.errors import Unavailable, without_credentials
from pipelines.progress import say

UPLOAD_CHUNK = 8 << 20  # bytes
WAITS = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60)  # seconds between tries; a client has tried for seconds of its own before each
PASSES = re.compile(
    r"HTTP status (408|429|5\d\d)"
    r"|AWS Error (SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING|REQUEST_TIMEOUT|NETWORK_CONNECTION)"
    r"|Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|INTERNAL)"
    r"|curlCode: |CURL error|[Cc]onnection (reset|refused|aborted|broken)|[Tt]imed out|Max retries exceeded|Remote end closed")
STAYS = re.compile(r"(curlCode: |CURL error \[)(1|3|51|58|60|77)\b"  # an address that is none, a certificate that is not trusted
                   r"|metadata\.google\.internal")  # no credentials, and not on a machine of Google's
T = TypeVar("T")


def passes(problem: OSError) -> bool:
    """Whether what a store's client raised is likely to be over in minutes."""
    status = getattr(getattr(problem, "response", None), "status_code", 0)
    found = isinstance(problem, ConnectionError | TimeoutError) or status in (408, 429) or status >= 500 or PASSES.search(str(problem))
    return bool(found) and not STAYS.search(str(problem))


def insist(path: str, work: Callable[[], T], gone_is_done: bool = False) -> T:
    """What `work` gives, which asks a store for `path`; asked again while the store is away, with one line on stderr.

    Args:
        gone_is_done: for removing and renaming: the answer to an earlier try may have been lost, so that the file is gone at the next.

    Raises:
        Unavailable: the store was away for all of WAITS.
        OSError: anything else that the store says.
    """
    for number, wait in enumerate((*WAITS, None)):
        try:
            return work()
        except FileNotFoundError:
            if gone_is_done and number:
                return None
            raise
        except OSError as problem:
            if not passes(problem):
                raise
            reason = str(problem).splitlines()[0][:200]
            if wait is None:
                raise Unavailable(f"{path}: the store has not answered for {sum(WAITS) // 60} minutes ({reason}): repeat the command when it is back; "
                                  "if it is the wrong one, correct AWS_ENDPOINT_URL or STORAGE_EMULATOR_HOST") from problem
            if number == 0:
                line = f"textray: {path}: the store does not answer ({reason}); waiting up to {sum(WAITS) // 60} minutes for it"
                say(without_credentials(line))
            time.sleep(wait)
    raise AssertionError("not reached")


def patient(system: fs.FileSystem, scheme: str) -> fs.FileSystem:
    """The same file system, insisting."""
    return fs.PyFileSystem(PatientHandler(system, scheme))


class PatientFile(io.RawIOBase):
    """A file for reading, from anywhere; each piece is one request, asked again while the store is away."""

    def __init__(self, path: str, file: pa.NativeFile, size: int):
        self._path, self._file = path, file
        self._size, self._position = size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes from the front."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, fewer only at the end."""
        end = self._size if size is None or size < 0 else min(self._position + size, self._size)
        length, start = max(0, end - self._position), self._position
        data = insist(self._path, lambda: self._file.read_at(length, start)) if length else b""
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class PatientUpload(io.RawIOBase):
    """A file for writing, which goes to the store as a whole when it is closed: what a store has not taken can be sent again only from its front."""

    def __init__(self, send: Callable[[BinaryIO], None]):
        self._send, self._file = send, tempfile.TemporaryFile()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: bytes) -> int:
        """Append."""
        return self._file.write(data)

    def close(self) -> None:
        """Send it."""
        if not self.closed:
            super().close()  # once, whatever comes of it
            with self._file:
                self._send(self._file)


class PatientHandler(fs.FileSystemHandler):
    """Hands every request on to a file system, and insists."""

    def __init__(self, system: fs.FileSystem, scheme: str):
        self.system, self.scheme = system, scheme

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatientHandler) and self.system == other.system

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _insist(self, path: str, work: Callable[[], T], gone_is_done: bool = False) -> T:
        return insist(f"{self.scheme}://{path}", work, gone_is_done)

    def get_type_name(self) -> str:
        """Arrow's name of the kind."""
        return f"patient+{self.system.type_name}"

    def normalize_path(self, path: str) -> str:
        """As the store spells it."""
        return self.system.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """What is there."""
        return self._insist(paths[0] if paths else "", lambda: self.system.get_file_info(paths))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """What lies in a folder."""
        return self._insist(selector.base_dir, lambda: self.system.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        """Make a folder."""
        self._insist(path, lambda: self.system.create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        """Remove a folder."""
        self._insist(path, lambda: self.system.delete_dir(path), gone_is_done=True)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Empty a folder."""
        self._insist(path, lambda: self.system.delete_dir_contents(path, missing_dir_ok=missing_dir_ok))

    def delete_root_dir_contents(self) -> None:
        """Never."""
        raise io.UnsupportedOperation("a whole store is not emptied")

    def delete_file(self, path: str) -> None:
        """Remove a file."""
        self._insist(path, lambda: self.system.delete_file(path), gone_is_done=True)

    def move(self, src: str, dest: str) -> None:
        """Rename."""
        self._insist(src, lambda: self.system.move(src, dest), gone_is_done=True)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy within the store."""
        self._insist(src, lambda: self.system.copy_file(src, dest))

    def open_input_file(self, path: str) -> pa.NativeFile:
        """A file for reading, from anywhere."""
        def opened() -> tuple[pa.NativeFile, int]:
            file = self.system.open_input_file(path)
            if file.closed:  # Google's asks for its bytes only now, and where they do not come (pyarrow 25.0) says that it is closed, not why
                raise ConnectionError("the file does not open")
            return file, file.size()

        file, size = self._insist(path, opened)
        return pa.PythonFile(PatientFile(f"{self.scheme}://{path}", file, size), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """A file for reading, from its front."""
        return self.open_input_file(path)

    def open_output_stream(self, path: str, metadata: dict | None) -> pa.NativeFile:
        """A file for writing. `pyarrow.fs.copy_files` (25.0) ignores all that is raised when a file is closed: who writes closes it otherwise."""
        return pa.PythonFile(PatientUpload(lambda file: self.upload(file, path, metadata)), mode="w")

    def upload(self, file: BinaryIO, path: str, metadata: dict | None = None) -> None:
        """Write the whole of an open file of this machine."""
        def send() -> None:
            file.seek(0)
            with self.system.open_output_stream(path, metadata=metadata) as stream:  # a store may say only at its end that it took nothing
                shutil.copyfileobj(file, stream, UPLOAD_CHUNK)

        self._insist(path, send)

    def open_append_stream(self, path: str, metadata: dict | None) -> pa.NativeFile:
        """Objects do not grow."""
        raise io.UnsupportedOperation("an object cannot be appended to")
