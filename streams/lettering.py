"""A publisher whose queue no record can stop: what Kafka refuses for good becomes a dead letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter

from flywheel.contracts.codec import Record, encode
from flywheel.contracts.events import Event
from flywheel.contracts.publishing import Publisher
from flywheel.errors import RecordRefused
from streams.dead_letters import letter_of_refused, record_of_letter
from streams.publisher import KafkaPublisher

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

_refused = Counter(
    "flywheel_published_refused", "Records that Kafka refused, kept as dead letters.", ["topic"]
)
_log = structlog.get_logger(__name__)


class LetteringPublisher:
    """A publisher for an outbox or a spill log, whose first record would hold up all after it.

    ``group`` is who sends, as its dead letters name it.
    """

    def __init__(self, inner: Publisher, group: str) -> None:
        self._inner, self._group = inner, group

    def publish(self, events: Sequence[Event]) -> None:
        """Send and wait. Raises BrokerError when an acknowledgement does not come in time."""
        self.publish_records([encode(event) for event in events])

    def publish_records(self, records: Sequence[Record]) -> None:
        """The same for encoded records. Raises RecordRefused only where no dead letter of a record
        is taken either."""
        try:
            self._inner.publish_records(records)
        except RecordRefused as error:
            if not error.refused:
                raise
            letters = []
            for number, reason in error.refused.items():
                record = records[number]
                letters.append(record_of_letter(letter_of_refused(record, self._group, reason)))
                _refused.labels(record.topic).inc()
                _log.error("record refused, kept as a dead letter", topic=record.topic, why=reason)
            self.publish_records(letters)

    def close(self) -> None:
        """Flush and release the connection."""
        self._inner.close()


def lettering(kafka: KafkaSettings, name: str, client_id: str = "") -> LetteringPublisher:
    """The publisher of a process: ``name`` is that of its kind, as its dead letters have it."""
    return LetteringPublisher(KafkaPublisher(kafka, client_id or name), name)
