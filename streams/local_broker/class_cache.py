"""Java's cache of the classes that Kafka loads, which halves what each start costs: never needed.

Java writes it when a broker ends that was started for the purpose, once for each set of jars and
each Java. A cache that is damaged or another's is not used; where none can be had, Kafka starts
without.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from flywheel.errors import BrokerError, FlywheelError
from streams.local_broker.answers import answers
from streams.local_broker.configuration import (
    JVM_FLAGS,
    java_command,
    log_properties,
    server_properties,
)
from streams.local_broker.verified import (
    is_intact,
    read_stamps,
    sha256_of,
    stamp,
    write_stamps,
)

# From this version on Java writes a cache at the end of an ordinary run.
_FIRST_JAVA = 25
_KEPT = 3
_PATIENCE = 120.0
_AGAIN_AFTER = 24 * 3600.0
_CLUSTER_ID = base64.urlsafe_b64encode(b"flywheel-classes").decode().rstrip("=")
# It ends with us, however we end: what it reads closes then.
_UNTIL_INPUT_CLOSES = '"$@" </dev/null & broker=$!; read -r _; kill $broker; wait $broker'

_log = structlog.get_logger(__name__)

Train = Callable[[Path, Sequence[Path], Path], None]


def class_cache(
    folder: Path, java: Path, jars: Sequence[Path], train: Train | None = None
) -> Path | None:
    """The cache for this Java and these jars, made now if there is none; None goes without.

    ``folder`` holds the jars. ``train`` writes a cache to the path that it is given. Never raises:
    whoever finds the cache being made, or that it could not be made within the last day, goes
    without.
    """
    try:
        key = _key(java, jars)
        if key is None:
            return None
        file = folder / f"classes-{key}.aot"
        if _is_sound(file):
            return file
        with (folder / ".classes.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file if _is_sound(file) or _make(file, java, jars, train or record) else None
    except OSError:  # the lock is another's, or nothing can be written here
        return None


def _key(java: Path, jars: Sequence[Path]) -> str | None:
    """What Java compares before it takes a cache; None for a Java that writes none."""
    home = java.parent.parent
    release = (home / "release").read_text("utf-8")
    version = re.search(r'^JAVA_VERSION="(\d+)', release, re.MULTILINE)
    if version is None or int(version[1]) < _FIRST_JAVA:
        return None
    # A Java may lie elsewhere, with another environment; a jar may not.
    own = [(name, home / name) for name in ("lib/modules", "lib/server/libjvm.so")]
    named = [(name, path.stat()) for name, path in own if path.exists()]
    named += [(str(path), path.stat()) for path in jars]
    compared = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in named]
    about = json.dumps([release, compared, JVM_FLAGS])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def _is_sound(file: Path) -> bool:
    notes = file.with_suffix(".json")
    stamps = read_stamps(notes)
    noted = stamps.get(file.name)
    if not isinstance(noted, list) or len(noted) != 3:
        return False
    return is_intact(file, str(noted[2]), stamps)


def _make(file: Path, java: Path, jars: Sequence[Path], train: Train) -> bool:
    failed = file.with_suffix(".failed")
    if failed.exists() and time.time() - failed.stat().st_mtime < _AGAIN_AFTER:
        return False
    _log.info("teaching Java the classes of Kafka, once: each start is quicker then")
    with tempfile.TemporaryDirectory(prefix=".classes-", dir=file.parent) as temporary:
        made = Path(temporary) / file.name
        try:
            train(java, jars, made)
            digest = sha256_of(made)
        except (OSError, subprocess.SubprocessError, FlywheelError) as error:
            _log.info("Kafka starts without a cache of its classes", reason=str(error))
            failed.touch()
            return False
        os.replace(made, file)
    write_stamps(file.with_suffix(".json"), {file.name: stamp(file, digest)})
    failed.unlink(missing_ok=True)
    _forget_old(file.parent)
    return True


def _forget_old(folder: Path) -> None:
    """Each takes tens of MB: those of earlier versions go. A running Java keeps what it opened."""
    files = sorted(folder.glob("classes-*.aot"), key=lambda path: -path.stat().st_mtime)
    for old in files[_KEPT:]:
        for path in (old, old.with_suffix(".json")):
            path.unlink(missing_ok=True)


def record(java: Path, jars: Sequence[Path], into: Path) -> None:
    """Run a broker from its first start to its end in the folder of ``into``, which Java writes.

    Raises BrokerError, OSError or SubprocessError where it does not come to that.
    """
    folder = into.parent
    properties, logs = folder / "server.properties", folder / "log4j2.properties"
    port = _two_free_ports()
    properties.write_text(server_properties(folder / "data", port), "utf-8")
    logs.write_text(log_properties(folder / "kafka.log"), "utf-8")
    format_data = ("format", "-t", _CLUSTER_ID, "-c", str(properties))
    subprocess.run(
        java_command(java, jars, logs, "kafka.tools.StorageTool", *format_data),
        check=True,
        capture_output=True,
        timeout=_PATIENCE,
    )
    command = java_command(java, jars, logs, "kafka.Kafka", str(properties))
    command.insert(1, f"-XX:AOTCacheOutput={into}")
    broker = subprocess.Popen(
        ["/bin/sh", "-c", _UNTIL_INPUT_CLOSES, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_answer(broker, port)
        broker.communicate(timeout=_PATIENCE)  # closes what it reads, and waits
    finally:
        if broker.poll() is None:
            os.killpg(broker.pid, signal.SIGKILL)
            broker.communicate()


def _await_answer(broker: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not answers(f"127.0.0.1:{port}"):
        if broker.poll() is not None or time.monotonic() > deadline:
            raise BrokerError("Kafka did not start")
        time.sleep(0.1)


def _two_free_ports() -> int:
    """A port that is free, and the next one too: the broker's controller takes that."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
