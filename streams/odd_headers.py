"""Header names that are not UTF-8, which Kafka takes and both of its clients stop at for ever.

librdkafka and others send any bytes as the name of a header. aiokafka and kafka-python decode names
as UTF-8 and raise, at every try, so that one such record would end whoever reads its topic.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

_LENGTH = struct.Struct(">i")
_LENGTH_AT = 8  # behind the batch's first offset
_HEAD_BYTES = _LENGTH_AT + _LENGTH.size


def read_any_header() -> None:
    """Have both clients, in this process, read such names with a backslash for each odd byte.

    To be called before a consumer is made; again changes nothing.
    """
    _patch_aiokafka()
    _patch_kafka_python()


class _Name(bytearray):
    def decode(self, *_: Any) -> str:
        return bytes(self).decode("utf-8", "backslashreplace")


class _Lenient(bytearray):
    """A batch's bytes whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Name(part) if isinstance(key, slice) else part


def _patch_aiokafka() -> None:
    from aiokafka.consumer import fetcher
    from aiokafka.record.default_records import _DefaultRecordBatchPy

    fast = fetcher.MemoryRecords
    if getattr(fast, "reads_any_header", False):
        return

    class Batch:
        """A batch of the fast reader, and the slow one from the first name on that it refuses."""

        def __init__(self, batch: Any, data: memoryview) -> None:
            self._batch = batch
            self._data = data

        def __getattr__(self, name: str) -> Any:
            return getattr(self._batch, name)

        def __next__(self) -> Any:
            return next(self._batch)

        def __iter__(self) -> Iterator[Any]:
            read = 0
            try:
                for record in self._batch:
                    yield record
                    read += 1
            except UnicodeDecodeError:
                slow = iter(_DefaultRecordBatchPy(self._data))
                slow._buffer = _Lenient(slow._buffer)
                yield from islice(slow, read, None)

    class Records:
        """The batches of one partition in one answer of a broker."""

        reads_any_header = True

        def __init__(self, data: bytes) -> None:
            self._fast = fast(data)
            self._data = memoryview(data)
            self._at = 0

        def size_in_bytes(self) -> int:
            return int(self._fast.size_in_bytes())

        def has_next(self) -> bool:
            return bool(self._fast.has_next())

        def next_batch(self) -> Batch | None:
            batch = self._fast.next_batch()
            if batch is None:
                return None
            begin = self._at
            length: int = _LENGTH.unpack_from(self._data, begin + _LENGTH_AT)[0]
            self._at = begin + _HEAD_BYTES + length
            return Batch(batch, self._data[begin : self._at])

    fetcher.MemoryRecords = Records


def _patch_kafka_python() -> None:
    from kafka.record import memory_records
    from kafka.record.default_records import DefaultRecordBatch

    if memory_records.DefaultRecordBatch is not DefaultRecordBatch:
        return

    class Batch(DefaultRecordBatch):  # type: ignore[misc]
        _pos: int
        _buffer: bytearray

        def _read_msg(self) -> Any:
            begin = self._pos
            try:
                return super()._read_msg()
            except UnicodeDecodeError:
                self._pos, self._buffer = begin, _Lenient(self._buffer)
                return super()._read_msg()

    memory_records.DefaultRecordBatch = Batch
