"""What a gateway that is gone had captured is published by one that runs, each record once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from flywheel.contracts.codec import Record
from flywheel.contracts.events import Event
from flywheel.errors import BrokerError
from flywheel.gateway.left_spills import LeftSpills
from flywheel.gateway.spill import SpillLog

WRITER = Path(__file__).parents[1] / "faults" / "spill_writer.py"


class Log:
    """A broker in memory, which may be away."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.away = False

    def publish(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def publish_records(self, records: Sequence[Record]) -> None:
        if self.away:
            raise BrokerError("away")
        self.keys += [record.key.decode() for record in records]

    def close(self) -> None:
        return


def record(number: int) -> Record:
    return Record("t", str(number).encode(), b"value", ())


def left_behind(folder: Path, numbers: range) -> None:
    """A spill log whose gateway was closed before it had published."""
    log = SpillLog(folder)
    for number in numbers:
        log.append(record(number))
    log.close()


def test_the_spill_of_a_killed_gateway_is_published_by_another(tmp_path: Path) -> None:
    folder = tmp_path / "gateway-host-2"
    writer = subprocess.Popen(
        [sys.executable, str(WRITER), str(folder), "0"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    safe = [writer.stdout.readline().strip() for _ in range(300)]
    own, log = SpillLog(tmp_path / "gateway-host-1"), Log()
    left = LeftSpills(tmp_path, log)
    assert left.take_up() == 0, "whoever lives publishes its own"
    os.kill(writer.pid, signal.SIGSTOP)
    assert left.take_up() == 0, "and may wake"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert left.take_up() >= len(safe)
    assert log.keys[: len(safe)] == safe
    assert len(log.keys) == len(set(log.keys))
    assert left.take_up() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["gateway-host-1"]
    own.close()


def test_what_waits_while_the_broker_is_away_is_neither_lost_nor_held(tmp_path: Path) -> None:
    left_behind(tmp_path / "gateway-8080", range(1200))
    log = Log()
    left = LeftSpills(tmp_path, log)
    log.away = True
    with pytest.raises(BrokerError):
        left.take_up()
    # The gateway of that name may come again meanwhile, and goes on itself.
    again = SpillLog(tmp_path / "gateway-8080")
    again.append(record(1200))
    log.away = False
    assert left.take_up() == 0
    again.close()
    assert left.take_up() == 1201
    assert log.keys == [str(number) for number in range(1201)]


def test_a_gateway_that_comes_while_its_spill_is_taken_away_makes_it_anew(tmp_path: Path) -> None:
    left_behind(tmp_path / "gateway-a-1", range(3))
    log = Log()
    LeftSpills(tmp_path, log).take_up()
    made = SpillLog(tmp_path / "gateway-a-1")
    made.append(record(3))
    made.close()
    assert LeftSpills(tmp_path, log).take_up() == 1
    assert log.keys == ["0", "1", "2", "3"]
