"""The life of a local broker: in the foreground, in the background, one per data folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kafka_fixture import end_with_parent, free_port
from streams_harness import ROOT, WorkerProcess, eventually, traffic

from flywheel.errors import WorkspaceError
from flywheel.settings import KafkaSettings
from streams.local_broker import LocalBroker
from streams.local_broker.answers import answers
from streams.local_broker.jars import cache_folder
from streams.local_broker.runtime import Runtime, kafka_runtime
from streams.publisher import KafkaPublisher
from streams.reading import read_topic
from streams.topics import ensure_topics

# What StorageTool makes an id with.
SHARED = "org.apache.kafka.common.Uuid"
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

    # On a broker that has just begun nothing goes wrong, and a worker's log says so.
    worker = WorkerProcess(port, "a.first.worker", tmp_path)
    worker.start()
    eventually(lambda: len(worker.effects()) == 10)
    worker.end(signal.SIGTERM)
    assert not re.search('"level": "(warning|error)"', worker.log.read_text()), (
        worker.log.read_text()
    )

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


def test_java_takes_the_cache_of_its_classes_and_goes_without_one_that_is_not_its_own(
    tmp_path: Path,
) -> None:
    # Another worker may be making it.
    eventually(lambda: kafka_runtime(cache_folder()).classes is not None, 150)
    runtime = kafka_runtime(cache_folder())
    assert took(runtime, tmp_path)
    foreign = tmp_path / "foreign.aot"
    foreign.write_bytes(b"none of yours")
    assert not took(Runtime(runtime.java, runtime.jars, foreign), tmp_path)
    assert runtime.classes is not None
    shutil.copy(runtime.classes, foreign)
    with foreign.open("r+b") as file:
        file.truncate(foreign.stat().st_size // 2)
    assert not took(Runtime(runtime.java, runtime.jars, foreign), tmp_path)


def took(runtime: Runtime, folder: Path) -> bool:
    """Whether a program of Kafka's, which does its work, loads the class that it does it with, and
    that the broker has too, from the cache; Java has one of its own classes anyway."""
    logs = folder / "log4j2.properties"
    logs.write_text("rootLogger.level = off\n")
    command = runtime.command(logs, "kafka.tools.StorageTool", "random-uuid")
    loaded = folder / "loaded.log"
    # After the flags that turn logging off.
    command.insert(command.index("-cp"), f"-Xlog:class+load:file={loaded}")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.strip()) == 22, "an id in base64"
    [line] = [one for one in loaded.read_text().splitlines() if f" {SHARED} source:" in one]
    return "shared objects file" in line
