"""The life of a local broker: in the foreground, in the background, one per data folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kafka_fixture import end_with_parent, free_port
from streams_harness import ROOT, eventually, traffic

from flywheel.errors import WorkspaceError
from flywheel.settings import KafkaSettings
from streams.local_broker import LocalBroker
from streams.local_broker.answers import answers
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.topics import ensure_topics

FOREGROUND = """
import sys
from pathlib import Path
from streams.local_broker import LocalBroker
sys.exit(LocalBroker(Path(sys.argv[1]), int(sys.argv[2])).run_foreground())
"""


def test_a_broker_from_its_first_start_to_its_reset(tmp_path: Path) -> None:
    port = free_port()
    broker = LocalBroker(tmp_path, port)
    kafka = KafkaSettings(local_port=port, state=tmp_path)
    # What the supervisor runs: its process becomes Kafka, so its signals reach Kafka.
    process = subprocess.Popen(
        [sys.executable, "-c", FOREGROUND, str(tmp_path), str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    end_with_parent(process.pid)
    eventually(lambda: answers(f"127.0.0.1:{port}"))
    status = broker.status()
    assert (status.running, status.pid, status.port) == (True, process.pid, port)
    assert status.cluster_id
    ensure_topics(kafka)
    publisher = KafkaPublisher(kafka, "test")
    publisher.publish(traffic(10))
    publisher.close()

    other_port = free_port()
    with pytest.raises(WorkspaceError, match=rf"pid {process.pid}.*flywheel kafka stop"):
        LocalBroker(tmp_path, other_port).prepare()
    with pytest.raises(WorkspaceError, match=rf"port {port} .*kafka\.local_port"):
        LocalBroker(tmp_path / "elsewhere", port).start()
    with pytest.raises(WorkspaceError, match="flywheel kafka stop"):
        broker.reset()

    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, 143)
    assert not broker.status().running

    again = broker.start()
    end_with_parent(again.pid or 0)
    try:
        assert again.cluster_id == status.cluster_id
        assert len(list(read_topic(kafka, "flywheel.traffic"))) == 10
        assert broker.start() == again  # it runs: nothing to do
    finally:
        LocalBroker(tmp_path, port).stop()  # as another command would, not its parent
    assert not broker.status().running
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    broker.reset()
    assert broker.status().cluster_id is None
