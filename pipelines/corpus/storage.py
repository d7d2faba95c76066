"""Files on this machine or in an object store: s3://, gs://, hf:// and file:// through pyarrow.fs (hf:// by fsspec).

Everything else names files by their path or URI, a plain string, so that it can be pickled, printed and put into a manifest.
Credentials and endpoints come from the environment, as every S3 tool takes them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT_URL; GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST; HF_TOKEN.
"""

import fcntl
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from pipelines.corpus.patience import insist, passes, patient
from pipelines.errors import BadInput, Unavailable, without_credentials

GOOGLE_PATIENCE = timedelta(seconds=10)  # its client would try for 15 minutes without a word; `patience` goes on and says so
SCHEMES = ("s3", "gs", "hf", "file")
ONE_SLASH = re.compile(r"(s3|gs|hf):(?!//)")  # which pathlib makes of two


class FileEntry(NamedTuple):
    """One file below a folder."""

    path: str  # relative to the folder, with slashes
    size: int  # bytes
    changed: int  # nanoseconds since 1970; 0 where the store does not say


def is_remote(path: str) -> bool:
    """Whether a path is a URI of an object store and not a path of this machine."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.isalnum() and scheme != "file"


def join(folder: str, *names: str) -> str:
    """A path or URI below a folder."""
    return posixpath.join(folder, *names)


def parent(path: str | os.PathLike) -> str:
    """The folder, a path or URI, in which something lies."""
    return posixpath.dirname(absolute(os.fspath(path)))


def absolute(path: str) -> str:
    """A local path from the root (tasks may run in another folder), a URI as it is. Raises BadInput for a URI with credentials or without a slash."""
    if ONE_SLASH.match(path) and not os.path.exists(path):
        raise BadInput(f"{path}: expected a URI such as {path.partition(':')[0]}://BUCKET/PATH, found one without its two slashes: correct it")
    if is_remote(path):
        return _without_credentials(path).rstrip("/")
    return os.path.abspath(unquote(path.removeprefix("file://")) if path.startswith("file://") else path)


def _without_credentials(uri: str) -> str:
    """The URI, which is stored in manifests and shown in logs, if it holds no credentials."""
    if without_credentials(uri) != uri:
        raise BadInput(f"{uri}: expected a URI without credentials, found some: leave them out, and put them into the environment "
                       "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; GOOGLE_APPLICATION_CREDENTIALS; HF_TOKEN)")
    return uri


def shown(path: str) -> str:
    """A place as a user reads it: what lies below the working folder from there, all else whole."""
    here = os.getcwd()
    return os.path.relpath(path, here) if not is_remote(path) and absolute(path).startswith(here + os.sep) else path


def here(path: str | os.PathLike, option: str) -> Path:
    """A path of this machine, for what cannot be written or read elsewhere. Raises BadInput for a URI."""
    if is_remote(os.fspath(path)):
        raise BadInput(f"{option} {path}: expected a path of this machine, found a URI: use a disk, and copy from or to there")
    return Path(absolute(os.fspath(path)))


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """The file system that a path or URI belongs to, and the path within it. Raises BadInput for an unknown scheme, and for no UTF-8."""
    if path != path.encode("utf-8", "replace").decode("utf-8"):
        raise BadInput(f"{ascii(path)}: expected a path in UTF-8, found other bytes: rename it")
    if not is_remote(path):
        return _local(), absolute(path)
    scheme, _, rest = _without_credentials(path).partition("://")
    if scheme not in SCHEMES:
        raise BadInput(f"{path}: expected a path or a URI that begins with {', '.join(f'{name}://' for name in SCHEMES)}, "
                       f"found {scheme}://: correct it")
    if rest.startswith("/") or "//" in rest.rstrip("/"):
        raise BadInput(f"{path}: expected {scheme}://BUCKET/NAME, found an empty part: leave it out")
    return _filesystem(scheme, rest.partition("/")[0]), rest.rstrip("/")


@lru_cache(maxsize=1)
def _local() -> fs.FileSystem:
    return fs.LocalFileSystem()


@lru_cache(maxsize=16)
def _filesystem(scheme: str, bucket: str) -> fs.FileSystem:
    if scheme == "gs":
        return patient(_google(), scheme)
    try:
        return patient(insist(f"{scheme}://{bucket}", lambda: fs.FileSystem.from_uri(f"{scheme}://{bucket}/")[0]), scheme)
    except pa.ArrowInvalid as problem:
        raise BadInput(f"{scheme}://{bucket}: expected a bucket's name after {scheme}://, found {problem}: correct it") from problem
    except ImportError as problem:
        raise BadInput(f"{scheme}://{bucket}: expected the package that reads {scheme}://, found none: "
                       f"pip install 'textray[{scheme}]' ({problem})") from problem


def _google() -> fs.FileSystem:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator is None:
        return fs.GcsFileSystem(retry_time_limit=GOOGLE_PATIENCE)
    scheme, _, host = emulator.rpartition("://")
    return fs.GcsFileSystem(anonymous=True, scheme=scheme or "http", endpoint_override=host, retry_time_limit=GOOGLE_PATIENCE)


@contextmanager
def reaching(path: str) -> Iterator[None]:
    """Turns what a store's permissions do to `path` into BadInput; a local file's errors pass. One that is away is waited for (`patience`)."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as problem:
        if str(problem).startswith("No such file or directory"):  # Google's client says so without the error's number
            raise FileNotFoundError(str(problem)) from problem
        if not is_remote(path):
            raise
        if passes(problem):
            raise Unavailable(f"{path}: the store is away ({str(problem).splitlines()[0][:200]}): repeat the command when it is back") from problem
        raise BadInput(f"{path}: expected to reach it, found: {str(problem).splitlines()[0][:200]}: check the name, the credentials "
                       "and the endpoint (AWS_ENDPOINT_URL, AWS_REGION; GOOGLE_APPLICATION_CREDENTIALS)") from problem


def kind(path: str) -> str | None:
    """"file", "folder", or None if nothing is there."""
    system, inside = locate(path)
    with reaching(path):
        found = system.get_file_info(inside).type
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found)


def list_files(folder: str) -> list[FileEntry]:
    """Every file below a folder, at any depth, sorted by path. Raises FileNotFoundError if there is no such folder."""
    system, inside = locate(folder)
    with reaching(folder):
        found = system.get_file_info(fs.FileSelector(inside, recursive=True))
    prefix = inside.rstrip("/") + "/"
    return sorted(FileEntry(item.path.removeprefix(prefix), item.size or 0, item.mtime_ns or 0)
                  for item in found if item.type == fs.FileType.File)


def file_sizes(folder: str) -> dict[str, int]:
    """Names and bytes of the files that lie directly in a folder. Raises FileNotFoundError if there is no such folder."""
    system, inside = locate(folder)
    with reaching(folder):
        found = system.get_file_info(fs.FileSelector(inside))
    return {item.base_name: item.size for item in found if item.type == fs.FileType.File}


def list_names(folder: str) -> list[str]:
    """Names of everything that lies directly in a folder, sorted. Raises FileNotFoundError if there is no such folder."""
    if folder.startswith("gs://"):  # pyarrow does not see what is a folder there only by the names of its files
        return sorted({entry.path.partition("/")[0] for entry in list_files(folder)})
    system, inside = locate(folder)
    with reaching(folder):
        return sorted(item.base_name for item in system.get_file_info(fs.FileSelector(inside)))


def open_file(path: str) -> pa.NativeFile:
    """A file for reading at any place. Raises FileNotFoundError."""
    system, inside = locate(path)
    with reaching(path):
        return system.open_input_file(inside)


def open_stream(path: str) -> pa.NativeFile:
    """A file for reading from its front to its end, read ahead in large pieces. Raises FileNotFoundError."""
    system, inside = locate(path)
    with reaching(path):
        return system.open_input_stream(inside, compression=None, buffer_size=1 << 20)


def read_bytes(path: str) -> bytes:
    """A whole file. Raises FileNotFoundError."""
    if not is_remote(path):
        return Path(absolute(path)).read_bytes()
    with open_file(path) as file, reaching(path):
        return file.read()


def write_bytes(path: str, data: bytes) -> None:
    """Write a whole file; whoever looks finds the old one or the new one. Makes the folder if it must."""
    with written(path) as temporary:
        Path(temporary).write_bytes(data)


@contextmanager
def written(path: str) -> Iterator[str]:
    """A name on this machine to write a file to, which takes its place at `path` when the block ends, whole or not at all.

    A killed process leaves at most a local file whose name ends in `.tmp`.
    """
    if is_remote(path):
        handle, temporary = tempfile.mkstemp(suffix=".tmp")
        os.close(handle)
    else:
        final = Path(absolute(path))
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{final}.{os.getpid()}.tmp"
    try:
        yield temporary
        if is_remote(path):  # an object appears when it is whole
            _upload(temporary, path)
        else:
            os.replace(temporary, final)
    finally:
        Path(temporary).unlink(missing_ok=True)


def bring(file: str | os.PathLike, path: str) -> None:
    """Write a whole file with what a file of this machine holds; whoever looks finds the old one or the new one."""
    if is_remote(path):
        _upload(file, path)
        return
    with written(path) as temporary:
        shutil.copyfile(file, temporary)


def _upload(file: str | os.PathLike, path: str) -> None:
    system, inside = locate(path)
    with open(file, "rb") as opened, reaching(path):
        system.handler.upload(opened, inside)


def check_replaceable(file: str, mark: bytes, option: str) -> None:
    """Raise BadInput unless `file` is free or bears the mark of what textray writes there: nobody else's file is ever replaced.

    Args:
        mark: bytes that every such file of ours holds.
        option: by which the user named the file.
    """
    found = kind(file)
    if found == "folder" or (found == "file" and mark not in read_bytes(file)):
        raise BadInput(f"{option} {file}: expected a free name, or a file that textray wrote there, found another {found}: choose another name")
    folder = posixpath.dirname(absolute(file))
    if kind(folder) == "file":
        raise BadInput(f"{option} {file}: expected a name in a folder, found a file at {folder}: choose another name")


def move(old: str, new: str) -> None:
    """Give a file another name in the same store."""
    system, inside = locate(old)
    with reaching(old):
        system.move(inside, locate(new)[1])


def remove(path: str) -> None:
    """Remove a file, or a folder with everything in it; nothing if it is not there."""
    system, inside = locate(path)
    with reaching(path):
        found = system.get_file_info(inside).type
        if found == fs.FileType.Directory:
            system.delete_dir_contents(inside, missing_dir_ok=True)
            if system.get_file_info(inside).type == found:  # a store may know folders by their files alone
                system.delete_dir(inside)
        elif found == fs.FileType.File:
            system.delete_file(inside)


@contextmanager
def held(folder: str, target: str) -> Iterator[None]:
    """Make a folder of this machine, in which `target` grows, and hold it for this process alone until the block ends.

    The lock is the kernel's: it ends with the process, however that ends. Raises BadInput if another process holds the folder, or if it
    cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(join(folder, "lock"), "w", encoding="utf-8")
    except OSError as problem:
        raise BadInput(f"{target}: expected a place to write to, found {problem.strerror} ({problem.filename}): choose another --out") from problem
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{target}: expected to be the only one writing it, found another process at work: wait for it, "
                           "or choose another --out") from None
        yield
