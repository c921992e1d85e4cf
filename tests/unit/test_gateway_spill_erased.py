"""What waited to be published and was erased meanwhile is waited for no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from flywheel.contracts.codec import Record
from flywheel.contracts.events import Event, LabelRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.errors import BrokerError
from flywheel.gateway.capture import Capture
from flywheel.gateway.spill import SpillLog, scrub


@pytest.mark.parametrize("erased", [{0, 1, 2}, {0}, {2}, {1, 2}])
def test_nothing_waits_any_more_once_what_waited_was_erased(
    tmp_path: Path, erased: set[int]
) -> None:
    """Kafka is away meanwhile: then an erasure finds in the log what waits for it."""

    class Broker:
        def __init__(self) -> None:
            self.away = True
            self.published: list[str] = []

        def publish_records(self, records: Sequence[Record]) -> None:
            if self.away:
                raise BrokerError("away")
            self.published += [one.key.decode() for one in records if one.key]

        def publish(self, events: Sequence[Event]) -> None: ...

        def close(self) -> None: ...

    broker = Broker()
    capture = Capture(SpillLog(tmp_path), broker)
    for number in range(3):
        capture.record(said(f"s{number}"))
    names = {f"s{number}".encode() for number in erased}
    assert scrub(tmp_path, lambda one: one.key in names) == len(erased)
    assert capture.lag_seconds() > 0
    broker.away = False
    capture.start()
    try:
        assert capture.flush(10.0)
        assert capture.lag_seconds() == 0.0
        capture.record(said("later"))
        assert capture.flush(10.0)
    finally:
        capture.close()
    assert broker.published == [*(f"s{n}" for n in range(3) if n not in erased), "later"]


def said(sample: str) -> LabelRecorded:
    return LabelRecorded(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="t",
        sample_id=sample,
        value="v",
        source="user",
        annotator="a",
    )
