"""The files in a tar, read once from front to end: POSIX ustar and pax, GNU and the old format; gzip by its first bytes.

Own, since the standard library's reader takes a header that is damaged, or a file that ends too early, for the end of the archive,
and keeps every header in memory. (POSIX.1-2017, "pax: Extended Description"; GNU tar manual, "Basic Tar Format".)
"""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
ZEROS = bytes(BLOCK)
MOST_BYTES = 1 << 28  # of a member that is read into memory
MOST_NAME_BYTES = 1 << 20
OCTAL, DECIMAL = re.compile(rb"[0-7]*"), re.compile(rb"[0-9]{1,18}")  # `int` takes signs, underscores and other scripts' digits for numbers too
SKIPPED_AT_ONCE = 1 << 20
REGULAR = (b"0", b"\0", b"7")
WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes, whatever size their headers give
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK, SPARSE = b"x", b"g", b"L", b"K", b"S"


class BrokenTar(Exception):
    """The archive ends too early or is damaged; the message says what was found."""


class Member(NamedTuple):
    """A regular file of the archive."""

    name: str  # bytes that are not UTF-8 as surrogate escapes
    size: int  # bytes
    data: bytes | None  # None if it was not wanted, or is larger than MOST_BYTES


class TarReader:
    """Reads an archive from a file object that is read forward only.

        for member in TarReader(stream).members(lambda name: name.endswith(".jpg")): ...
    """

    def __init__(self, stream: io.RawIOBase):
        packed = io.BufferedReader(stream, 1 << 20)
        self._file = gzip.GzipFile(fileobj=packed) if packed.peek(2)[:2] == b"\x1f\x8b" else packed
        self.offset = 0  # bytes read so far, unpacked

    def members(self, wanted: Callable[[str], bool]) -> Iterator[Member]:
        """The regular files in their order, with the content of the wanted ones. Folders, links and devices are left out.

        Archives that were written one behind another are read as one. Raises BrokenTar.
        """
        ended, overrides = False, {}
        while header := self._take(BLOCK, "a header", may_end=ended):
            if header == ZEROS:
                ended = True
                continue
            ended = False
            _check_sum(header, self.offset - BLOCK)
            kind, size = header[156:157], _number(header[124:136])
            if kind in (PAX, LONG_NAME):
                if size > MOST_NAME_BYTES:
                    raise BrokenTar(f"a name of {size} bytes at byte {self.offset - BLOCK}")
                found = self._content(size, "a name")
                overrides |= _pax(found) if kind == PAX else {"path": _text(found)}
                continue
            if kind == SPARSE:
                raise BrokenTar(f"a sparse file at byte {self.offset - BLOCK}, which this reader does not know")
            if kind in (PAX_GLOBAL, LONG_LINK):
                self._skip(size)
                continue
            name, size = overrides.get("path") or _name(header), int(overrides.get("size", size))
            overrides = {}
            if kind in WITHOUT_DATA or name.endswith("/"):
                continue
            if kind not in REGULAR:
                self._skip(size)
                continue
            data = self._content(size, name) if size <= MOST_BYTES and wanted(name) else self._skip(size)
            yield Member(name, size, data)

    def _content(self, size: int, what: str) -> bytes:
        data = self._take(size, what)
        self._take(-size % BLOCK, what)
        return data

    def _skip(self, size: int) -> None:
        left = size + -size % BLOCK
        while left:
            left -= len(self._take(min(left, SKIPPED_AT_ONCE), "a file"))

    def _take(self, size: int, what: str, may_end: bool = False) -> bytes:
        """The next `size` bytes; nothing at the end, if it may end here."""
        try:
            data = self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
            raise BrokenTar(f"broken gzip after byte {self.offset} ({problem})") from problem
        if len(data) < size and not (may_end and not data):
            where = "no end mark" if what == "a header" and not data else f"an end within {what}"
            raise BrokenTar(f"{where}, at byte {self.offset + len(data)}")
        self.offset += len(data)
        return data


def _check_sum(header: bytes, offset: int) -> None:
    """The sum of a header's bytes, its own field as spaces. Some old writers summed signed bytes."""
    try:
        stored = _number(header[148:156])
    except BrokenTar:
        stored = -1
    summed = header[:148] + b" " * 8 + header[156:]
    # The low half of Adler-32 is one more than the sum, modulo 65521, and a hundred times as fast as adding in Python.
    if zlib.adler32(summed) & 0xFFFF != (stored + 1) % 65521 and stored != sum(byte - 256 if byte > 127 else byte for byte in summed):
        raise BrokenTar(f"no tar header at byte {offset}")


def _number(field: bytes) -> int:
    """Octal digits, or base 256 after a set bit (GNU)."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not OCTAL.fullmatch(digits):
        raise BrokenTar(f"no number in a header ({field!r})")
    return int(digits or b"0", 8)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(data: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n`; only path and size matter here."""
    found = {}
    while data and data[:1] != b"\0":
        length, space, _ = data.partition(b" ")
        if not space or not DECIMAL.fullmatch(length) or not len(length) + 1 < int(length) <= len(data):
            raise BrokenTar("a pax header without lengths")
        key, _, value = data[len(length) + 1:int(length)].removesuffix(b"\n").partition(b"=")
        if key == b"size" and not DECIMAL.fullmatch(value):
            raise BrokenTar(f"a pax header with a size that is no number ({value[:40]!r})")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[int(length):]
    return found
