"""A whole gateway as a process: it publishes to a file, and not at all while a flag file exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flywheel import kinds
from flywheel.contracts.codec import Record, encode
from flywheel.contracts.events import Event, RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.errors import BrokerError, FlywheelError
from flywheel.gateway.app import create_app
from flywheel.gateway.capture import Capture
from flywheel.gateway.config import GatewayLimits
from flywheel.gateway.forward import ModelServers
from flywheel.gateway.spill import SpillLog
from flywheel.gateway.splits import Splits
from flywheel.monitoring.http_server import serve


class FilePublisher:
    """One JSON line a record: [sample id, event]."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._down = path.with_name("broker-down")

    def publish(self, events: Sequence[Event]) -> None:
        self.publish_records([encode(event) for event in events])

    def publish_records(self, records: Sequence[Record]) -> None:
        if self._down.exists():
            raise BrokerError("the broker does not answer")
        with self._path.open("ab") as file:
            file.write(
                b"".join(
                    msgspec.json.encode((r.key.decode(), msgspec.Raw(r.value))) + b"\n"
                    for r in records
                )
            )

    def close(self) -> None:
        pass


def main(folder: Path, port: int, model_url: str) -> int:
    splits = Splits(folder / "splits.json")
    if splits.current("t") is None:
        split = TrafficSplit(task="t", champion="r1")
        splits.mark_caught_up()
        splits.update(
            RolloutChanged(
                event_id=new_id(),
                occurred_at=utc_now(),
                task="t",
                rollout_id="r",
                state="serving",
                split=split,
                decided_by="test",
                reason="",
            )
        )
    capture = Capture(SpillLog(folder / "spill"), FilePublisher(folder / "published"))
    app = create_app(
        tasks={"t": kinds.TaskKind.of(kinds.of("classification"), ("a", "b"))},
        splits=splits,
        servers=ModelServers([model_url], 10.0),
        capture=capture,
        limits=GatewayLimits(drain_seconds=1.0),
    )
    return serve(app, "127.0.0.1", port, setting="gateway.port")


if __name__ == "__main__":
    try:
        code = main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    except FlywheelError as error:
        sys.exit(f"{error.code}: {error}")
    sys.exit(code)
