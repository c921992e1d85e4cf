"""What an agent makes of a batch, on its way out until the broker has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import structlog

from flywheel.contracts.codec import Record
from flywheel.errors import BrokerError
from streams.dead_letters import letter_of_refused, record_of_letter
from streams.figures import dead_lettered
from streams.publisher import is_refusal

_log = structlog.get_logger(__name__)


class Sender:
    """Sends by the producer of a Faust app."""

    def __init__(self, group: str, app: Any) -> None:
        self._group = group
        self._app = app

    async def send(self, records: Sequence[Record]) -> None:
        """Return when the broker has acknowledged all, or a dead letter in the stead of one that
        its topic does not take. Raises BrokerError for what no other try would mend."""
        pending = records
        while pending:
            pending = await self._try(pending)

    async def _try(self, records: Sequence[Record]) -> list[Record]:
        """Send all and await every broker's acknowledgement; returns what is to be sent again.

        With a record that its topic does not take, Kafka refuses what shares its batch: each of
        them goes again by itself, and what is refused alone becomes a dead letter.
        """
        began = time.monotonic()
        results = await asyncio.gather(*[await self._begin(one) for one in records])
        refused = [one for one, error in zip(records, results, strict=True) if is_refusal(error)]
        failed = [
            one
            for one, error in zip(records, results, strict=True)
            if error is not None and not is_refusal(error) and self._passes(one, error)
        ]
        for record in refused:
            error = await (await self._begin(record))
            if is_refusal(error):
                failed.append(self._letter(record, error))
            elif error is not None and self._passes(record, error):
                failed.append(record)
        if failed:
            _log.warning("records not acknowledged, sending again", records=len(failed))
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
        return failed

    async def _begin(self, record: Record) -> Awaitable[BaseException | None]:
        """Hand a record to the client; to be awaited, what went wrong with it."""
        try:
            sent = await self._app.producer.send(
                record.topic, record.key, record.value, None, None, list(record.headers)
            )
        except Exception as error:  # noqa: BLE001 - judged by the caller, as what comes later is
            return _outcome(error)
        return _outcome(sent)

    def _passes(self, record: Record, error: BaseException) -> bool:
        """True when the same record may be taken another time; raises otherwise."""
        if getattr(error, "retriable", False):
            return True
        raise BrokerError(f"Kafka refused a record of {record.topic}: {error!r}") from error

    def _letter(self, record: Record, error: BaseException | None) -> Record:
        letter = letter_of_refused(record, self._group, str(error))
        dead_lettered.labels(self._group, letter.code).inc()
        _log.error("record refused, kept as a dead letter", topic=record.topic, why=str(error))
        return record_of_letter(letter)


async def _outcome(sent: Awaitable[Any] | Exception) -> BaseException | None:
    if isinstance(sent, Exception):
        return sent
    try:
        await sent
    except Exception as error:  # noqa: BLE001 - judged by the caller
        return error
    return None
