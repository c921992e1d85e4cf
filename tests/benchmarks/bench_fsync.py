"""What `[gateway] fsync` costs: records that are as safe as it says, per second.

    python tests/benchmarks/bench_fsync.py [--records N]

The gateway's own capture on this folder's disk, without HTTP and without a model. Rounds of the
three settings alternate, so that a noisy machine is unfair to none. Prints one table.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec
from rich.console import Console
from rich.table import Table

from flywheel.contracts.codec import Record
from flywheel.contracts.events import Event, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.gateway.capture import Capture
from flywheel.gateway.config import Fsync
from flywheel.gateway.spill import SpillLog

SETTINGS: tuple[Fsync, ...] = get_args(Fsync)
IN_FLIGHT = (1, 8, 32)


class Nowhere:
    """A broker that has everything at once."""

    def publish(self, events: Sequence[Event]) -> None:
        """Nothing to do."""

    def publish_records(self, records: Sequence[Record]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


async def _records_per_second(capture: Capture, count: int, in_flight: int) -> float:
    async def client(records: int) -> None:
        for _ in range(records):
            capture.record(
                TrafficRecorded(
                    event_id=new_id(), occurred_at=utc_now(), task="t", sample_id=new_id(),
                    content="What is the distance between the gateway and its disk?",
                )
            )  # fmt: skip
            await capture.durable()
            await asyncio.sleep(0)

    started = time.perf_counter()
    await asyncio.gather(*(client(count // in_flight) for _ in range(in_flight)))
    return count // in_flight * in_flight / (time.perf_counter() - started)


def run(count: int, folder: Path, rounds: int = 3) -> dict[str, dict[int, float]]:
    """Setting → records in flight → median records per second."""
    found: dict[str, dict[int, list[float]]] = {s: {n: [] for n in IN_FLIGHT} for s in SETTINGS}
    for turn in range(rounds):
        for fsync in SETTINGS:
            spill = SpillLog(folder / f"{fsync}-{turn}", fsync=fsync != "never")
            capture = Capture(spill, Nowhere(), fsync=fsync)
            capture.start()
            for in_flight in IN_FLIGHT:
                measured = asyncio.run(_records_per_second(capture, count, in_flight))
                found[fsync][in_flight].append(measured)
            capture.close()
    return {
        fsync: {number: statistics.median(values) for number, values in row.items()}
        for fsync, row in found.items()
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        report = run(options.records, Path(folder))
    table = Table(title="Records per second that are as safe as fsync says (median)")
    table.add_column("fsync")
    for number in IN_FLIGHT:
        table.add_column(f"{number} in flight", justify="right")
    for fsync, row in report.items():
        table.add_row(fsync, *(f"{row[number]:,.0f}" for number in IN_FLIGHT))
    Console().print(table)
    (options.out / "fsync.json").write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
