"""Kafka's clients say the same thing many times a second while a broker is away: once will do."""

from __future__ import annotations

import logging
import time

_LOGGERS = (
    # "socket.send() raised exception", for every write to a connection that the broker has closed.
    "asyncio",
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.client",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
    "faust.transport.drivers.aiokafka",
    "kafka.net.manager",
    "kafka.net.selector",
)


class OnceIn(logging.Filter):
    """Lets a message (by its template) through once in ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is said."""
        now = time.monotonic()
        key = (record.name, record.msg)
        if now - self._last.get(key, -self._seconds) < self._seconds:
            return False
        self._last[key] = now
        return True


def _no_slow_step(record: logging.LogRecord) -> bool:
    """kafka-python warns of each step of its own that took a tenth of a second, as on a busy
    machine any does; nobody can act on that."""
    return "blocking the event loop" not in str(record.msg)


def quieten(seconds: float = 10.0) -> None:
    """Limit the clients' loggers; call once a process."""
    for name in _LOGGERS:
        # A filter works on the logger that a record is made with, not on that logger's parents.
        logger = logging.getLogger(name)
        if not any(isinstance(one, OnceIn) for one in logger.filters):
            logger.addFilter(OnceIn(seconds))
    logging.getLogger("kafka.net.selector").addFilter(_no_slow_step)
