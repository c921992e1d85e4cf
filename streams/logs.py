"""The ids of topics: one that is deleted and made again under its name is another log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flywheel.errors import BrokerError
from streams.connection import METADATA_SECONDS
from streams.topics import admin_client

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings


class TopicLogs:
    """Asks the broker which logs its topics are; one connection, for one thread at a time."""

    def __init__(self, kafka: KafkaSettings, topics: Iterable[str]) -> None:
        self._kafka = kafka
        self._topics = sorted(set(topics))
        self._admin: Any = None
        self._asked_at = float("-inf")
        self._known: dict[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """Topic → its id, empty where the broker gives none. Raises BrokerError."""
        from kafka.errors import KafkaError

        try:
            if self._admin is None:
                self._admin = admin_client(self._kafka)
            described = self._admin.describe_topics(self._topics)
        except (KafkaError, OSError) as error:
            self.close()
            raise BrokerError(f"Kafka does not say which logs its topics are: {error}") from error
        self._asked_at = time.monotonic()
        return {topic["name"]: _id(topic) for topic in described if not topic["error_code"]}

    def others(self, known: Mapping[str, str]) -> list[str]:
        """Topics that are another log than ``known``; asked again when the last answer is old."""
        if time.monotonic() - self._asked_at < METADATA_SECONDS:
            return []
        found = self.read()
        return [name for name, log in known.items() if found.get(name, log) != log]

    def close(self) -> None:
        """Close the connection."""
        if self._admin is not None:
            with suppress(Exception):
                self._admin.close()
            self._admin = None


def topic_logs(kafka: KafkaSettings, topics: Iterable[str]) -> Mapping[str, str]:
    """Topic → its id, asked once. Raises BrokerError."""
    logs = TopicLogs(kafka, topics)
    try:
        return logs.read()
    finally:
        logs.close()


def _id(topic: Mapping[str, Any]) -> str:
    found = topic.get("topic_id")
    return "" if not getattr(found, "int", found) else str(found)
