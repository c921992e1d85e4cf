"""The worker: every Faust agent in its loop, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from flywheel.errors import BrokerError, ForeignBroker
from streams import connection
from streams.agent_loop import EXIT_HOPELESS, Agent, AgentLoop, end_hopeless
from streams.groups import await_groups
from streams.logs import TopicLogs
from streams.quiet import quieten
from streams.worker_app import build_app

if TYPE_CHECKING:
    from flywheel.settings import KafkaSettings

EXIT_FORCED = 75  # stopping took too long; what was not acknowledged will be delivered again

_DEAF_SECONDS = 60.0
_KILL_SECONDS = 20.0
_MEASURE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


def run_worker(
    kafka: KafkaSettings,
    agents: Sequence[Agent],
    *,
    on_ready: Callable[[], None] | None = None,
    session_seconds: float = 10.0,
) -> int:
    """Run agents until SIGTERM or SIGINT; returns the exit status of the process.

    Topics must exist (``ensure_topics``). Each agent is a consumer group of its own. What cannot
    be mended ends the process at once with status 70, before anything is acknowledged; so does a
    topic that was made anew, since the client may go on in it where it stood in the one before.
    Raises BrokerError when Kafka does not answer.
    """
    quieten()
    with suppress(BrokerError):  # it went away again: the clients wait for it too
        await_groups(kafka, [agent.group for agent in agents])
    logs = TopicLogs(kafka, [topic for agent in agents for topic in agent.topics])
    listener = connection.ListenerWatch(kafka)
    try:
        return asyncio.run(_run(kafka, agents, logs, listener, on_ready, session_seconds))
    finally:
        listener.close()
        logs.close()


async def _run(
    kafka: KafkaSettings,
    agents: Sequence[Agent],
    logs: TopicLogs,
    listener: connection.ListenerWatch,
    on_ready: Callable[[], None] | None,
    session_seconds: float,
) -> int:
    known = logs.read()
    loops = [AgentLoop(one, build_app(kafka, one.group, session_seconds), known) for one in agents]
    stop = asyncio.Event()
    timer = threading.Timer(_KILL_SECONDS, _forced)
    timer.daemon = True

    def asked_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            timer.start()

    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, asked_to_stop)
    await asyncio.gather(*(one.app.start() for one in loops))
    _log.info("worker started", groups=[one.agent.group for one in loops])
    if on_ready is not None:
        on_ready()
    try:
        status = await _watch(loops, logs, listener, known, stop)
    except Exception as error:  # noqa: BLE001 - the process's boundary
        end_hopeless(", ".join(one.agent.group for one in loops), error)
    asked_to_stop()
    await asyncio.gather(*(one.finish() for one in loops))
    await asyncio.gather(*(one.app.stop() for one in loops))
    timer.cancel()
    _log.info("worker stopped", status=status)
    return status


async def _watch(
    loops: Sequence[AgentLoop],
    logs: TopicLogs,
    listener: connection.ListenerWatch,
    known: Mapping[str, str],
    stop: asyncio.Event,
) -> int:
    """Wait for the signal to stop, or for the reason to start anew; returns the exit status."""
    heard = time.monotonic()

    def look() -> list[str]:
        listener.require()
        return logs.others(known)

    while not stop.is_set():
        for one in loops:
            if one.app.should_stop:
                _log.error("agent stopped by itself", group=one.agent.group)
                return EXIT_HOPELESS
            with suppress(TimeoutError):  # the broker is away: the last figures stay
                async with asyncio.timeout(_MEASURE_SECONDS):
                    await one.figures.measure()
        try:
            if anew := await asyncio.to_thread(look):
                _log.error("topics were made anew, ending the process", topics=anew)
                return EXIT_HOPELESS
            heard = time.monotonic()
        except ForeignBroker as error:
            _log.error("another Kafka has the port, ending the process", reason=str(error))
            return EXIT_HOPELESS
        except BrokerError as error:
            if time.monotonic() - heard > _DEAF_SECONDS:
                # After minutes without a broker the clients have piled up retries: start clean.
                _log.error("Kafka is away too long, ending the process", reason=str(error))
                return EXIT_HOPELESS
        try:
            async with asyncio.timeout(1.0):
                await stop.wait()
        except TimeoutError:
            continue
    return 0


def _forced() -> None:
    _log.error("worker does not stop, ending it", seconds=_KILL_SECONDS)
    os._exit(EXIT_FORCED)
