"""A real Kafka for tests: `kafka` is the settings of a broker that runs for the whole session."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.settings import KafkaSettings
from streams.local_broker import LocalBroker
from streams.topics import ensure_topics


def pytest_configure(config: pytest.Config) -> None:
    """Three habits of kafka-python that are no fault of ours, and nothing else."""
    for known in (
        # It reads its message schemas in a way that Python 3.11 alone deprecates.
        "ignore:(open|read)_(text|binary) is deprecated:DeprecationWarning",
        # A connection that a dead broker refused is left to the garbage collector.
        "ignore:unclosed <socket.socket fd=[0-9]+, family=2, type=1, proto=6, laddr=.'0.0.0.0'"
        ":ResourceWarning",
        # So is one that is being made while its client is closed: of 12,850 clients by themselves
        # that were closed as they connected, 240 left one. Test brokers have even ports.
        "ignore:unclosed <socket.socket fd=[0-9]+, family=2, type=1, proto=6, laddr=.'127.0.0.1', "
        "[0-9]+., raddr=.'127.0.0.1', (2[0-9]|3[01])[0-9]{2}[02468].>:ResourceWarning",
    ):
        config.addinivalue_line("filterwarnings", known)


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """The filters above do not hold for what pytest itself collects after the last test."""
    forget_dead_sockets()


def forget_dead_sockets() -> None:
    """Collect refused connections now, while nobody minds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):  # what one round frees may hold more
            gc.collect()


def end_with_parent(pid: int) -> None:
    """Kill ``pid`` when this process is gone, however it went."""
    watch = f"while kill -0 {os.getpid()} && kill -0 {pid}; do sleep 1; done; kill -9 {pid}"
    subprocess.Popen(  # noqa: S602 - two numbers of ours
        f"({watch}) >/dev/null 2>&1 &", shell=True, start_new_session=True
    ).wait()


def end(broker: LocalBroker) -> None:
    """End a broker whose data nobody reads any more: at once, which takes a good end seconds."""
    pid = broker.status().pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    broker.stop()


_given: set[int] = set()


def free_port() -> int:
    """A port that is free, and the next one too (the broker's controller takes it); another one
    each time, and never the next of one that was given."""
    # Below the range that systems lend to outgoing connections, or a client could take it first.
    while True:
        port = 2 * random.SystemRandom().randint(10000, 16000)  # no seed may repeat it
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            _given.add(port)
            return port


@contextlib.contextmanager
def local_kafka(folder: Path) -> Iterator[KafkaSettings]:
    """Settings of a local broker with all topics, which runs until the end of the block."""
    broker = LocalBroker(folder, port := free_port())
    end_with_parent(broker.start().pid or 0)
    try:
        settings = KafkaSettings(local_port=port)
        ensure_topics(settings)
        yield settings
    finally:
        end(broker)
        forget_dead_sockets()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """Settings of a running local broker with all topics.

    It is shared: a test must use consumer groups and ids of its own, and expect foreign events.
    """
    with local_kafka(tmp_path_factory.mktemp("kafka")) as settings:
        yield settings
