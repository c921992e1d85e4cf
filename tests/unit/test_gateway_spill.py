"""The spill log: what was appended is read back, whatever a crash or a bad sector did."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.contracts.codec import Record
from flywheel.contracts.events import Event, LabelRecorded
from flywheel.contracts.ids import utc_now
from flywheel.errors import Unavailable, WorkspaceError
from flywheel.gateway.capture import Capture, GroupCommit
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
    log.sync()
    assert drain(log) == [record(1)]
    log.close()


def test_a_power_cut_after_healing_skips_nothing_that_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpillLog(tmp_path, fsync=True)
    numbered = [record(number) for number in range(10)]
    for one in numbered:
        log.append(one)
    assert drain(log) == numbered
    offset = tmp_path / "offset"
    # The disk may have written this by itself; what comes later it has once it is told to.
    on_disk = offset.read_bytes()
    real_write, real_sync = os.write, os.fdatasync

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def sync(fd: int) -> None:
        nonlocal on_disk
        real_sync(fd)
        if os.path.sameopenfile(fd, offset_fd):
            on_disk = offset.read_bytes()

    offset_fd = os.open(offset, os.O_RDONLY)
    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        log.append(record(10))
    monkeypatch.setattr(os, "write", real_write)
    assert drain(log) == []
    for one in numbered:
        log.append(one)
    log.sync()
    log.close()
    os.close(offset_fd)
    offset.write_bytes(on_disk)
    log = SpillLog(tmp_path, fsync=True)
    assert drain(log) == numbered
    log.close()


def test_the_disk_is_told_of_each_folder_on_the_way_to_a_new_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(os.fstat(fd).st_ino))
    folder = tmp_path / "spill" / "gateway-1"
    SpillLog(folder, fsync=True).close()
    assert {path.stat().st_ino for path in (tmp_path, folder.parent, folder)} <= synced


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, which only root can make."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)],
        check=False,
        capture_output=True,
    )
    if made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(log: SpillLog) -> int:
    """Append until the disk is full; how many records it took."""
    taken = 0
    while True:
        try:
            log.append(Record("t", b"k", bytes(1000), ()))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return taken
        taken += 1


@pytest.mark.parametrize("segment_bytes", [20_000, 4 << 20], ids=["segments", "one segment"])
def test_a_full_disk_heals_once_its_records_are_published(
    small_disk: Path, segment_bytes: int
) -> None:
    log = SpillLog(small_disk, segment_bytes=segment_bytes)
    for _round in range(3):
        taken = fill(log)
        # Not a byte is left, as when something else fills the disk up to the brim.
        with (small_disk / "other").open("ab", buffering=0) as other, suppress(OSError):
            while True:
                other.write(b"x")
        assert len(drain(log, 50)) == taken > 50
        assert log.pending_bytes == 0
        log.append(record(1))
        assert drain(log) == [record(1)]
        (small_disk / "other").unlink()
    log.close()
    log = SpillLog(small_disk, segment_bytes=segment_bytes)
    assert drain(log) == []
    log.close()


def test_what_is_appended_after_healing_survives_a_restart(small_disk: Path) -> None:
    log = SpillLog(small_disk)
    fill(log)
    drain(log, 50)
    for number in range(20):
        log.append(record(number))
    log.close()
    log = SpillLog(small_disk)
    assert drain(log) == [record(number) for number in range(20)]
    log.close()


def test_health_says_that_the_disk_is_full_and_when_it_is_not(small_disk: Path) -> None:
    published: list[Record] = []

    class Broker:
        def publish_records(self, records: Sequence[Record]) -> None:
            published.extend(records)

        def publish(self, events: Sequence[Event]) -> None: ...

        def close(self) -> None: ...

    log = SpillLog(small_disk)
    capture = Capture(log, Broker())
    assert capture.problem() is None
    fill(log)
    event = LabelRecorded(
        event_id="e",
        occurred_at=utc_now(),
        task="t",
        sample_id="s",
        value="v" * 5_000,
        source="user",
        annotator="a",
    )
    with pytest.raises(Unavailable, match="the disk is full"):
        capture.record(event)
    assert "the disk is full" in (capture.problem() or "")
    assert "the disk is full" in (capture.problem() or "")
    drain(log, 50)
    assert capture.problem() is None
    capture.record(event)
    capture.close()


def test_everyone_who_waits_shares_a_sync_that_began_after_they_wrote() -> None:
    written: list[int] = []
    held: list[int] = []
    syncs: list[int] = []

    def sync() -> None:
        seen = list(written)
        syncs.append(len(seen))
        held[:] = seen

    async def write(commit: GroupCommit, number: int) -> None:
        await asyncio.sleep(0.001 * (number % 7))
        written.append(number)
        await commit.wait()
        assert number in held

    async def all_of_them() -> None:
        commit = GroupCommit(sync)
        await asyncio.gather(*(write(commit, number) for number in range(200)))

    asyncio.run(all_of_them())
    assert len(syncs) < 200


def test_a_sync_that_fails_fails_for_all_who_waited_and_for_no_one_after() -> None:
    failing = [OSError(errno.EIO, "Input/output error")]

    def sync() -> None:
        if failing:
            raise failing.pop()

    async def two_rounds() -> list[object]:
        commit = GroupCommit(sync)
        first = await asyncio.gather(commit.wait(), commit.wait(), return_exceptions=True)
        await commit.wait()
        return first

    assert all(isinstance(one, OSError) for one in asyncio.run(two_rounds()))
