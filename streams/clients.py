"""kafka-python's clients: one that cannot be made leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def made(make: Callable[..., Any], **arguments: Any) -> Any:
    """A consumer, producer or admin client: ``make(**arguments)``, whose errors pass.

    A client of kafka-python connects while it is made. Where that fails it has no owner and cannot
    be closed, and its thread goes on connecting for ever: what it is built on is closed here.
    """
    from kafka.net.compat import KafkaNetClient

    inner: list[Any] = []

    def remembered(**settings: Any) -> Any:
        inner.append(KafkaNetClient(**settings))
        return inner[0]

    try:
        return make(**arguments, kafka_client=remembered)
    except BaseException:
        for client in inner:
            client.close()
        raise
