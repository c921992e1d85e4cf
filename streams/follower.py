"""Following topics from their beginning, without a consumer group, on a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event as Signal
from typing import TYPE_CHECKING, Any

import structlog

from flywheel.contracts.codec import decode
from flywheel.contracts.events import Event
from flywheel.errors import EventError, FlywheelError
from flywheel.monitoring.threads import LastingThread
from streams import connection
from streams.clients import made
from streams.odd_headers import read_any_header

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

# How long a broker may keep a question for more records that there are none for; one that comes is
# answered at once. The client's own default has every process ask twice a second for nothing.
FETCH_SECONDS = 2.0
# How often it is looked whether to stop, and whether the topics are other ones.
_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_LONGEST_RETRY = 5.0
# Events of which a repeat is known: many times what one sender has in flight.
_REMEMBERED = 20_000

_log = structlog.get_logger(__name__)


class Follower:
    """Calls ``handle`` with every event of its topics, old ones first, in order by key.

    For small topics whose whole story each process needs (splits, releases). A restart reads all
    of it again, so ``handle`` must be idempotent; so does a topic, or a broker, that was made anew:
    where following stood is of the log before. A record that cannot be decoded is logged and
    skipped; a retryable error of ``handle`` is retried in place, any other logged and skipped.

    An event that comes again is not handled again, for it may come late: whoever sent it hung, and
    another sent it and what followed it meanwhile. ``repeated`` is told of those.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        topics: Sequence[str],
        handle: Callable[[Event], None],
        client_id: str,
        repeated: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._kafka = kafka
        self._repeated = repeated
        self._handled: dict[str, None] = {}
        self._topics = tuple(topics)
        self._handle = handle
        self._client_id = client_id
        self._positions: dict[Any, int] = {}
        self._ids: dict[str, Any] = {}
        self._caught_up = Signal()
        self._stopping = Signal()
        self._thread = LastingThread(f"follower-{client_id}", self._run)

    def start(self) -> None:
        """Follow from now on; returns at once, also while Kafka cannot be reached."""
        self._thread.start()

    def caught_up(self, timeout: float) -> bool:
        """Wait until all that was in the topics at the first contact has been handled."""
        return self._caught_up.wait(timeout)

    def stop(self, timeout: float = 5.0) -> None:
        """Stop following."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = _RETRY_SECONDS
        while not self._stopping.is_set():
            try:
                self._follow()
                pause = _RETRY_SECONDS
                self._stopping.wait(pause)
            except Exception as error:  # noqa: BLE001 - the thread's boundary
                # Whatever broke the connection, following goes on from the last handled record.
                _log.warning(
                    "following interrupted, trying again",
                    topics=self._topics,
                    reason=f"{type(error).__name__}: {error}",
                )
                self._stopping.wait(pause)
                pause = min(_LONGEST_RETRY, pause * 2)

    def _follow(self) -> None:
        from kafka import KafkaConsumer, TopicPartition

        connection.require_listener(self._kafka)
        read_any_header()
        consumer = made(
            KafkaConsumer,
            **connection.kafka_python(self._kafka, self._client_id),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=int(FETCH_SECONDS * 1000),
        )
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in self._topics
                for number in self._partitions_of(consumer, topic)
            ]
            if self._stopping.is_set():
                return
            known = self._logs(consumer)
            self._forget_other_logs(known)
            consumer.assign(partitions)
            for partition in partitions:
                if partition in self._positions:
                    consumer.seek(partition, self._positions[partition])
                else:
                    consumer.seek_to_beginning(partition)
            targets = consumer.end_offsets(partitions)
            while not self._stopping.is_set():
                batch = consumer.poll(timeout_ms=int(_LOOK_SECONDS * 1000), max_records=500)
                if self._logs(consumer) != known:
                    _log.warning("topics were made anew or grew", topics=self._topics)
                    return
                for partition, records in batch.items():
                    for record in records:
                        self._take(record)
                        self._positions[partition] = record.offset + 1
                if not self._caught_up.is_set() and all(
                    consumer.position(partition) >= end for partition, end in targets.items()
                ):
                    self._caught_up.set()
        finally:
            consumer.close()

    def _logs(self, consumer: Any) -> dict[str, tuple[Any, frozenset[int]]]:
        """Topic → its id, which a topic that is made anew has not, and its partitions."""
        return {
            topic: (
                consumer._cluster.topic_id(topic),
                frozenset(consumer._cluster.partitions_for_topic(topic) or ()),
            )
            for topic in self._topics
        }

    def _forget_other_logs(self, known: Mapping[str, tuple[Any, frozenset[int]]]) -> None:
        for topic, (topic_id, _) in known.items():
            if self._ids.setdefault(topic, topic_id) != topic_id:
                _log.warning("topic was made anew, following it from its beginning", topic=topic)
                self._handled.clear()
                self._ids[topic] = topic_id
                self._positions = {
                    place: offset
                    for place, offset in self._positions.items()
                    if place.topic != topic
                }

    def _partitions_of(self, consumer: Any, topic: str) -> list[int]:
        """The topic's partitions, waiting while it does not exist yet."""
        warned = False
        while not self._stopping.is_set():
            partitions = consumer.partitions_for_topic(topic)
            if partitions:
                return sorted(partitions)
            if not warned:
                _log.warning("topic is not there yet, waiting", topic=topic)
                warned = True
            self._stopping.wait(_RETRY_SECONDS)
        return []

    def _take(self, record: Any) -> None:
        where = f"{record.topic}/{record.partition}/{record.offset}"
        try:
            event = decode(record.value, dict(record.headers))
        except EventError as error:
            _log.warning("record skipped", where=where, code=error.code, reason=str(error))
            return
        if event.event_id in self._handled:
            self._repeated(event)
            return
        self._handled[event.event_id] = None
        if len(self._handled) > _REMEMBERED:
            del self._handled[next(iter(self._handled))]
        pause = _RETRY_SECONDS
        while not self._stopping.is_set():
            try:
                self._handle(event)
            except FlywheelError as error:
                if not error.retryable:
                    _log.error("event skipped", where=where, code=error.code, reason=str(error))
                    return
                _log.warning("event not handled, trying again", where=where, reason=str(error))
                time.sleep(pause)
                pause = min(_LONGEST_RETRY, pause * 2)
            except Exception:  # noqa: BLE001 - the thread's boundary
                # One event that surprises its handler must not end the following of all others.
                _log.exception("event skipped", where=where)
                return
            else:
                return
