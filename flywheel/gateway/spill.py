"""An append-only log on disk that a killed process leaves whole: frames with length and CRC."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from flywheel.contracts.codec import Record
from flywheel.contracts.file_locks import FileLock
from flywheel.contracts.private_files import private_folder
from flywheel.errors import WorkspaceError

_log = structlog.get_logger(__name__)

# 0xFE and 0xFF occur in no UTF-8 text, so a payload of JSON cannot imitate the start of a frame.
MAGIC = b"\xfe\xff\xfeF"
_HEAD = struct.Struct("<4sII")
_OFFSET_BYTES = 64
_PROBE_BYTES = 4096
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[str, bytes, bytes, tuple[tuple[str, bytes], ...]])


class Position(NamedTuple):
    """A place in the log: the number of a segment and a byte in it. Ordered."""

    segment: int
    byte: int


def frame(record: Record) -> bytes:
    """The bytes of one record in the log."""
    payload = _encoder.encode((record.topic, record.key, record.value, record.headers))
    return _HEAD.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def frames(data: bytes, start: int = 0) -> Iterator[tuple[Record, int]]:
    """Every whole record in ``data`` from byte ``start`` on, each with the byte after it.

    A torn tail ends the iteration. Damaged bytes in the middle are stepped over to the next whole
    frame, so that damage costs only the records that it touches.
    """
    at = start
    while True:
        record, after = _frame_at(data, at)
        if record is not None:
            yield record, after
            at = after
            continue
        at = data.find(MAGIC, at + 1)
        if at < 0:
            return


def captured(folder: Path) -> Iterator[Record]:
    """Every whole record in a log's folder, also those that were published; whoever has the log
    goes on."""
    for path in sorted(folder.glob("*.log")):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # published meanwhile
            continue
        yield from (record for record, _ in frames(data))


def scrub(folder: Path, is_erased: Callable[[Record], bool]) -> int:
    """Overwrite the records in a log's folder of which ``is_erased`` says so; how many.

    Whoever has the log goes on: to its reader an overwritten frame is a damaged one, which it steps
    over. What it has read already it publishes.
    """
    scrubbed = 0
    for path in sorted(folder.glob("*.log")):
        try:
            file = path.open("r+b")
        except FileNotFoundError:  # published meanwhile
            continue
        with file:
            for record, after in frames(file.read()):
                if is_erased(record):
                    length = len(frame(record)) - _HEAD.size
                    os.pwrite(file.fileno(), b"\x00" * length, after - length)
                    scrubbed += 1
            os.fsync(file.fileno())
    return scrubbed


def _frame_at(data: bytes, at: int) -> tuple[Record | None, int]:
    if at + _HEAD.size > len(data):
        return None, at
    magic, length, crc = _HEAD.unpack_from(data, at)
    body = at + _HEAD.size
    payload = data[body : body + length]
    if magic != MAGIC or len(payload) != length or zlib.crc32(payload) != crc:
        return None, at
    topic, key, value, headers = _decoder.decode(payload)
    return Record(topic, key, value, headers), body + length


class SpillLog:
    """Segments and an offset file in one folder, held by one process at a time.

    ``append`` returns once the operating system has the bytes: a kill -9 loses nothing. With
    ``fsync``, ``sync`` returns once the disk has all that was appended before: a power cut loses
    nothing of it. Thread-safe.

    On a full disk ``append`` fails until there is room again; what was published makes room by
    itself, since ``advance`` needs none.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = 4 << 20, fsync: bool = False) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._mutex = threading.Lock()
        _make_folder(folder, fsync)
        self._lock = _exclusive(folder)
        self._done = self._read_offset()
        sizes = {_number(path): path.stat().st_size for path in folder.glob("*.log")}
        self._sizes: dict[int, int] = dict(sorted(sizes.items()))
        # Never append behind a tail that may be torn: each start opens a segment of its own.
        self._segment = max([*sizes, self._done.segment], default=0) + 1
        self._fd = self._open(self._segment)
        self._starved = False
        self._free(self._done)
        self._offset_fd = self._open_offset()
        # Its room is taken now, while there is some: later positions are written over it.
        self._note(self._done)

    def append(self, record: Record) -> None:
        """Add one record. Raises OSError (disk full, say) and leaves the log as it was."""
        data = frame(record)
        with self._mutex:
            try:
                size = self._sizes[self._segment]
                if size and size + len(data) > self._segment_bytes:
                    self._rotate()
                    size = 0
                self._write(data, size)
            except OSError:
                self._starved = True
                raise
            self._starved = False
            self._sizes[self._segment] = size + len(data)

    def probe(self) -> None:
        """Raise OSError while the disk does not take what a record needs; nothing is appended."""
        with self._mutex:
            size = self._sizes[self._segment]
            self._write(b"\x00" * _PROBE_BYTES, size)
            os.ftruncate(self._fd, size)
            self._starved = False

    def sync(self) -> None:
        """Return once the disk has what was appended before the call. Raises OSError."""
        with self._mutex:
            # Appending goes on meanwhile, and may close the segment.
            fd = os.dup(self._fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def read(self, limit: int = 500, limit_bytes: int = 1 << 20) -> tuple[list[Record], Position]:
        """The next records that are not done, with the position after the last of them."""
        with self._mutex:
            done, writing = self._done, self._segment
            sizes = dict(self._sizes)
        for number in sorted(sizes):
            start = done.byte if number == done.segment else 0
            if number < done.segment or start >= sizes[number]:
                continue
            batch, after = self._read_segment(number, start, sizes[number], limit, limit_bytes)
            if batch:
                return batch, Position(number, after)
            if number < writing:
                _log.warning("spill tail torn", segment=number, bytes=sizes[number] - start)
                done = Position(number + 1, 0)
            else:
                # Whole records alone were appended: none of these is left since (``scrub``).
                done = Position(number, sizes[number])
        return [], done

    def advance(self, position: Position) -> None:
        """Everything before ``position`` is published: delete what is finished and remember it.

        In this order, and the position in place, so that a full disk has room afterwards. A
        position that is lost costs no more than publishing again: every record keeps its id.
        """
        with self._mutex:
            if position > self._done:
                self._done = position
                self._free(position)
                self._note(position)
            written = self._sizes[self._segment]
            if self._starved and written and self._done >= Position(self._segment, written):
                self._empty_segment()

    @property
    def pending_bytes(self) -> int:
        """Bytes appended but not done."""
        with self._mutex:
            left = sum(size for n, size in self._sizes.items() if n > self._done.segment)
            return left + max(0, self._sizes.get(self._done.segment, 0) - self._done.byte)

    def close(self) -> None:
        """Release the folder; nothing is flushed because nothing is buffered."""
        with self._mutex:
            os.close(self._fd)
            if not self._sizes[self._segment]:
                self._path(self._segment).unlink(missing_ok=True)
            os.close(self._offset_fd)
            self._lock.release()

    def _write(self, data: bytes, size: int) -> None:
        """All of ``data`` behind the ``size`` bytes of the segment, or none of it."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def _free(self, done: Position) -> None:
        """Delete the segments that are published whole, but the one being written."""
        for number in [n for n in self._sizes if n != self._segment]:
            if done >= Position(number, self._sizes[number]):
                self._path(number).unlink(missing_ok=True)
                del self._sizes[number]

    def _note(self, position: Position, *, durable: bool = False) -> bool:
        """Remember ``position``, written over the one before; whether that worked.

        With ``durable``, the disk has it on return. Without, a power cut may bring an older one
        back, which costs no more than publishing again.
        """
        try:
            os.pwrite(self._offset_fd, _offset_bytes(position), 0)
            os.ftruncate(self._offset_fd, _OFFSET_BYTES)
            if durable:
                os.fdatasync(self._offset_fd)
        except OSError as error:
            _log.warning("spill offset not written", problem=str(error))
            return False
        return True

    def _empty_segment(self) -> None:
        """Give back the room of the segment being written, all of which is published.

        The position goes back to its beginning first, and on the disk where that is asked for: one
        that lay behind its end would skip what is appended from now on, after a power cut too.
        """
        start = Position(self._segment, 0)
        if self._note(start, durable=self._fsync):
            os.ftruncate(self._fd, 0)
            self._sizes[self._segment] = 0
            self._done = start

    def _open_offset(self) -> int:
        return os.open(self._folder / "offset", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _read_segment(
        self, number: int, start: int, end: int, limit: int, limit_bytes: int
    ) -> tuple[list[Record], int]:
        with self._path(number).open("rb") as file:
            file.seek(start)
            data = file.read(min(end - start, limit_bytes))
            if len(data) < end - start and next(frames(data), None) is None:
                data += file.read(end - start - len(data))
        batch: list[Record] = []
        after = 0
        for record, end_of_frame in frames(data):
            batch.append(record)
            after = end_of_frame
            if len(batch) >= limit or after >= limit_bytes:
                break
        return batch, start + after

    def _rotate(self) -> None:
        fd = self._open(self._segment + 1)
        if self._fsync:
            os.fdatasync(self._fd)
        os.close(self._fd)
        self._fd = fd
        self._segment += 1

    def _open(self, number: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path(number), flags, 0o600)
        if self._fsync:
            _sync_folder(self._folder)
        self._sizes[number] = 0
        return fd

    def _read_offset(self) -> Position:
        try:
            return msgspec.json.decode((self._folder / "offset").read_bytes(), type=Position)
        except FileNotFoundError:
            return Position(0, 0)
        except msgspec.MsgspecError:
            # Publishing all again is safe: every record keeps its event id.
            _log.warning("spill offset not readable; publishing again from the start")
            return Position(0, 0)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:010}.log"


def _offset_bytes(position: Position) -> bytes:
    return msgspec.json.encode(position).ljust(_OFFSET_BYTES)


def _make_folder(folder: Path, fsync: bool) -> None:
    """Make the log's folder; with ``fsync``, have the disk know each folder that is new."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    private_folder(folder)
    if fsync:
        for one in missing:
            _sync_folder(one.parent)


def _sync_folder(folder: Path) -> None:
    """Have the disk know the names in a folder, so that a power cut leaves its files there."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _number(path: Path) -> int:
    return int(path.stem)


def _exclusive(folder: Path) -> FileLock:
    lock = FileLock.take(folder / "lock")
    if lock is None:
        raise WorkspaceError(
            f"another gateway is using {folder}: stop it, or start this one as another instance"
        )
    return lock
