"""A Faust app as the boundary needs it: one consumer group, no tables, no web server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flywheel.contracts.positions import Handled
from streams import connection
from streams.odd_headers import read_any_header
from streams.topics import LARGEST_RECORD_BYTES

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings
    from streams.transport import Batch


# Never reached: ``transport.MOST_BYTES`` are. Faust pauses for a second where its queue is full.
_BATCHES_AHEAD = 1 << 20
# A partition's batches go one after the other: each is a journey to the broker and back.
_BATCH_BYTES = 1 << 18


def build_app(kafka: KafkaSettings, group: str, session_seconds: float = 10.0) -> Any:
    """A Faust app that is not started. Its id is the consumer group.

    After a kill -9 the group waits ``session_seconds`` for the dead member.

    Only ``at_least_once`` and no tables: both lost or doubled records where it was measured.
    """
    import faust

    from streams.transport import Sensor, register

    read_any_header()
    register()
    return faust.App(
        group,
        **connection.faust(kafka),
        broker_client_id=group,
        datadir=tempfile.gettempdir(),
        store="memory://",
        processing_guarantee="at_least_once",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        autodiscover=False,
        Monitor=Sensor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_buffer_maxsize=_BATCHES_AHEAD,
        stream_wait_empty=False,
        broker_commit_interval=1.0,
        broker_session_timeout=session_seconds,
        broker_heartbeat_interval=session_seconds / 5,
        producer_acks=-1,
        producer_linger=0.002,
        producer_max_batch_size=_BATCH_BYTES,
        producer_max_request_size=LARGEST_RECORD_BYTES,
        consumer_auto_offset_reset="earliest",
    )


def batches_of(app: Any, topics: Sequence[str]) -> Any:
    """The topics as an agent of this app reads them: each event's message holds a batch."""
    from streams.transport import BatchSchema

    return app.topic(*topics, schema=BatchSchema(), internal=True)


def handled_ranges(batches: Sequence[Batch], logs: Mapping[str, str]) -> list[Handled]:
    """What a group has handled with these batches; ``logs`` are the ids of its topics."""
    return [
        Handled(
            topic=batch.topic,
            partition=batch.partition,
            log=logs.get(batch.topic, ""),
            offsets=[record.offset for record in batch.records],
            end=batch.end,
        )
        for batch in batches
    ]
