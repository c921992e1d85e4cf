#!/usr/bin/env bash
# kafka-python 3.0.12: KafkaConsumer and KafkaAdminClient connect while they are constructed. Where
# that fails (here: something listens and answers nothing, as a broker that is stuck), the
# constructor raises KafkaTimeoutError after bootstrap_timeout_ms, but the network thread that it
# started goes on for as long as the process lives. Nobody has the client, so nobody can close it; a
# process that tries again every half minute gathers a thread each time. The documentation of
# bootstrap_timeout_ms speaks of the error only; the Java client, whose API this follows, closes what
# a constructor that fails has opened (issue KAFKA-2121).
#
# Seen: "KafkaConsumer: KafkaTimeoutError, 1 thread left", "KafkaAdminClient: KafkaTimeoutError, 2
# threads left", and 2 threads alive still two seconds later.
#
# So: hand in a `kafka_client` callable that remembers the KafkaNetClient it makes, and close that one
# when the constructor raises: the thread ends.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install kafka-python==3.0.12
cat > "$work/left.py" <<'PY'
import gc, socket, sys, threading, time

from kafka import KafkaConsumer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

silent = socket.create_server(("127.0.0.1", 0))
asked = {"bootstrap_servers": f"127.0.0.1:{silent.getsockname()[1]}", "bootstrap_timeout_ms": 500}


def threads():
    gc.collect()
    return sum(one.name.startswith("kafka-io") for one in threading.enumerate())


for number, kind in enumerate((KafkaConsumer, KafkaAdminClient), 1):
    try:
        kind(**asked)
        sys.exit("it answered")
    except KafkaTimeoutError:
        print(f"{kind.__name__}: KafkaTimeoutError, {threads()} thread(s) left")
        if threads() != number:
            sys.exit("changed: a client that cannot be made leaves no thread")
time.sleep(2)
print(f"two seconds later: {threads()}")

made = []
try:
    KafkaConsumer(**asked, kafka_client=lambda **all: made.append(KafkaNetClient(**all)) or made[0])
except KafkaTimeoutError:
    made[0].close()
print(f"closed by the one who remembered it: {threads()}")
sys.exit(threads() != 2)
PY
"$work/venv/bin/python" -W ignore "$work/left.py"
