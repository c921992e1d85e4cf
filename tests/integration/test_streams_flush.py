"""What the local broker took is written to the disk without waiting for the system to do so."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from kafka_fixture import local_kafka
from streams_harness import eventually, traffic

from streams.publisher import KafkaPublisher

STRACE = shutil.which("strace")
_LOG = re.compile(r"fsync\(\d+<[^>]*/flywheel\.traffic-(\d+)/\d+\.log>")


@pytest.mark.skipif(STRACE is None, reason="strace tells what is written to the disk")
def test_a_record_that_was_taken_is_written_to_the_disk_soon(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with local_kafka(tmp_path / "kafka") as kafka:
        publisher = KafkaPublisher(kafka, "test")
        publisher.publish(traffic(1))  # it is up
        [broker] = [
            process.pid
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "java" and str(tmp_path) in " ".join(process.info["cmdline"])
        ]
        assert STRACE is not None
        command = [STRACE, "-f", "-y", "-e", "trace=fsync", "-p", str(broker), "-o", str(trace)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            if "attached" not in said:
                pytest.skip(f"strace may not look: {said}")
            publisher.publish(traffic(40))
            # Kafka by itself never asks for it.
            eventually(lambda: len(set(_LOG.findall(trace.read_text()))) == kafka.partitions)
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=20)
            publisher.close()
