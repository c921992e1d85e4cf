"""How far an agent is behind, where offsets are missing or are no records."""

from __future__ import annotations

import pytest

from flywheel.settings import KafkaSettings
from streams import connection
from streams.behind import behind, waiting
from streams.worker_app import build_app


@pytest.mark.parametrize(
    ("end", "committed", "first", "read", "position", "expected"),
    [
        (10, 4, None, 9, 10, 6),  # taken, not handled
        (10, 10, None, 9, 10, 0),
        (10, None, 0, 9, 10, 10),  # a fresh group that is stuck from its first record
        (10, None, 0, None, 0, 10),  # and one that has taken nothing yet
        (10, 0, 0, 0, 10, 10),
        (10, None, 7, None, 7, 3),  # retention took the first seven
        (10, 4, 7, None, 7, 3),
        (7, None, 7, None, 7, 0),
        (10, 9, None, 8, 10, 0),  # the last offset is the mark of a transaction
        (1, None, 0, None, 1, 0),  # and so is the only one
        (10, 9, None, 8, 9, 1),
        (None, None, None, None, None, 0),  # not known yet
        (10, 12, None, 11, 12, 0),
    ],
)
def test_lag_is_of_records(
    end: int | None,
    committed: int | None,
    first: int | None,
    read: int | None,
    position: int | None,
    expected: int,
) -> None:
    assert behind(end, committed, first, read, position) == expected


@pytest.mark.parametrize(
    ("committed", "tail", "records", "expected"),
    [
        (9, 4, (4, 5, 6, 8), 0),  # the last offset is a mark
        (7, 4, (4, 5, 6, 8), 1),
        (4, 4, (4, 5, 6, 8), 4),
        (2, 4, (4, 5, 6, 8), 6),  # of what lies before, nobody has looked which are records
        (None, 4, (4, 5, 6, 8), 7),  # retention took the first
        (8, 4, (), 0),
        (8, 4, None, 2),  # not known
        (10, 4, None, 0),
    ],
)
def test_marks_are_no_records_where_records_are_known(
    committed: int | None, tail: int, records: tuple[int, ...] | None, expected: int
) -> None:
    assert waiting(10, committed, 1, tail, records) == expected


def test_no_client_takes_minutes_to_see_partitions_that_are_added() -> None:
    kafka = KafkaSettings()
    age = connection.METADATA_SECONDS * 1000
    assert age <= 30_000
    app = build_app(kafka, "test.metadata")
    assert app.conf.consumer_metadata_max_age_ms == age
    assert app.conf.producer_metadata_max_age_ms == age
    assert connection.kafka_python(kafka, "x")["metadata_max_age_ms"] == age
    assert connection.aiokafka(kafka, "x")["metadata_max_age_ms"] == age
