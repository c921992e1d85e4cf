"""A real Kafka for tests: `kafka` is the settings of a broker that runs for the whole session."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import socket
import subprocess
import warnings
from collections.abc import Iterator

import pytest

from flywheel.settings import KafkaSettings
from streams.local_broker import LocalBroker
from streams.topics import ensure_topics


def pytest_configure(config: pytest.Config) -> None:
    """kafka-python reads its message schemas in a way that Python 3.11 alone deprecates."""
    known = "ignore:(open|read)_(text|binary) is deprecated:DeprecationWarning"
    config.addinivalue_line("filterwarnings", known)


def forget_dead_sockets() -> None:
    """kafka-python leaves refused connections to the garbage collector, which would complain."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def end_with_parent(pid: int) -> None:
    """Kill ``pid`` when this process is gone, however it went."""
    watch = f"while kill -0 {os.getpid()} && kill -0 {pid}; do sleep 1; done; kill -9 {pid}"
    subprocess.Popen(  # noqa: S602 - two numbers of ours
        f"({watch}) >/dev/null 2>&1 &", shell=True, start_new_session=True
    ).wait()


def free_port() -> int:
    """A port that is free, and the next one too (the broker's controller takes it)."""
    # Below the range that systems lend to outgoing connections, or a client could take it first.
    while True:
        port = random.randint(20000, 32000)
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """Settings of a running local broker with all topics.

    It is shared: a test must use consumer groups and ids of its own, and expect foreign events.
    """
    port = free_port()
    broker = LocalBroker(tmp_path_factory.mktemp("kafka"), port)
    end_with_parent(broker.start().pid or 0)
    try:
        settings = KafkaSettings(local_port=port)
        ensure_topics(settings)
        yield settings
    finally:
        broker.stop()
        forget_dead_sockets()
