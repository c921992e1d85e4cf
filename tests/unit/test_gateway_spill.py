"""The spill log: what was appended is read back, whatever a crash or a bad sector did."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.contracts.codec import Record
from flywheel.errors import WorkspaceError
from flywheel.gateway.spill import SpillLog, frame, frames

records = st.builds(
    Record,
    topic=st.text(max_size=10),
    key=st.binary(max_size=10),
    value=st.binary(max_size=300),
    headers=st.tuples(st.tuples(st.text(max_size=5), st.binary(max_size=5))),
)


def record(number: int) -> Record:
    return Record("t", str(number).encode(), b"x" * (number % 50), (("schema", b"T/1"),))


def drain(log: SpillLog, limit: int = 3) -> list[Record]:
    found: list[Record] = []
    while True:
        batch, after = log.read(limit)
        log.advance(after)
        if not batch:
            return found
        found += batch


@given(st.lists(records, max_size=20))
def test_frames_come_back_in_order(written: list[Record]) -> None:
    data = b"".join(map(frame, written))
    assert [r for r, _ in frames(data)] == written


@given(st.lists(records, min_size=1, max_size=8), st.data())
def test_a_torn_tail_costs_only_the_record_it_tears(
    written: list[Record], data: st.DataObject
) -> None:
    whole = b"".join(map(frame, written))
    cut = data.draw(st.integers(0, len(whole) - 1))
    ends = [end for _, end in frames(whole)]
    expected = written[: sum(end <= cut for end in ends)]
    assert [r for r, _ in frames(whole[:cut])] == expected


@given(st.lists(records, min_size=1, max_size=8), st.data())
def test_a_damaged_byte_costs_only_the_record_it_is_in(
    written: list[Record], data: st.DataObject
) -> None:
    whole = bytearray(b"".join(map(frame, written)))
    at = data.draw(st.integers(0, len(whole) - 1))
    ends = [end for _, end in frames(bytes(whole))]
    hit = sum(end <= at for end in ends)
    whole[at] ^= data.draw(st.integers(1, 255))
    assert [r for r, _ in frames(bytes(whole))] == written[:hit] + written[hit + 1 :]


@given(st.binary(max_size=400))
def test_garbage_is_no_record(data: bytes) -> None:
    assert list(frames(data)) == []


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), records),
        st.tuples(st.just("publish"), st.integers(1, 5)),
        st.just(("restart", 0)),
        st.tuples(st.just("torn restart"), st.integers(1, 30)),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(operations)
def test_every_record_is_read_once_in_order_over_restarts(steps: list) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = SpillLog(folder, segment_bytes=300)
        appended: list[Record] = []
        read: list[Record] = []
        for what, value in steps:
            if what == "append":
                log.append(value)
                appended.append(value)
            elif what == "publish":
                batch, after = log.read(value)
                log.advance(after)
                read += batch
            else:
                log.close()
                if what == "torn restart":
                    # What a kill in the middle of a write leaves behind the last whole record.
                    newest = max(folder.glob("*.log"), default=folder / "0000000001.log")
                    with newest.open("ab") as file:
                        file.write(frame(record(49))[:value])
                log = SpillLog(folder, segment_bytes=300)
        read += drain(log)
        assert read == appended
        assert log.pending_bytes == 0
        log.close()


def test_without_the_offset_everything_left_is_read_again(tmp_path: Path) -> None:
    log = SpillLog(tmp_path)
    for number in range(5):
        log.append(record(number))
    batch, _ = log.read(3)
    log.close()
    (tmp_path / "offset").write_text("not json")
    log = SpillLog(tmp_path)
    assert drain(log) == [record(number) for number in range(5)]
    assert batch == [record(number) for number in range(3)]
    log.close()


def test_finished_segments_are_deleted(tmp_path: Path) -> None:
    log = SpillLog(tmp_path, segment_bytes=200)
    for number in range(50):
        log.append(record(number))
    assert len(list(tmp_path.glob("*.log"))) > 5
    assert len(drain(log)) == 50
    assert len(list(tmp_path.glob("*.log"))) == 1
    log.close()


def test_a_record_larger_than_one_read_is_read(tmp_path: Path) -> None:
    log = SpillLog(tmp_path, segment_bytes=1 << 20)
    large = Record("t", b"k", b"x" * 5_000, ())
    log.append(large)
    log.append(record(1))
    batch, after = log.read(limit_bytes=1_000)
    assert batch[0] == large
    log.advance(after)
    assert (batch + drain(log))[-1] == record(1)
    log.close()


def test_a_second_process_is_told_so(tmp_path: Path) -> None:
    log = SpillLog(tmp_path)
    with pytest.raises(WorkspaceError, match="another gateway is using"):
        SpillLog(tmp_path)
    log.close()
    SpillLog(tmp_path).close()


def test_a_disk_that_fills_up_leaves_only_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpillLog(tmp_path)
    log.append(record(1))
    real_write = os.write

    def half(fd: int, data: bytes) -> int:
        """The disk takes ten bytes more, and then is full."""
        monkeypatch.setattr(os, "write", full)
        return real_write(fd, bytes(data)[:10])

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        log.append(record(2))
    monkeypatch.setattr(os, "write", real_write)
    log.append(record(3))
    assert drain(log) == [record(1), record(3)]
    log.close()


def test_fsync_is_a_choice(tmp_path: Path) -> None:
    log = SpillLog(tmp_path, fsync=True)
    log.append(record(1))
    assert drain(log) == [record(1)]
    log.close()
