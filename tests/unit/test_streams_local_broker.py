"""The local broker's jars and folders, without starting it."""

from __future__ import annotations

import hashlib
import shutil
import socket
from pathlib import Path

import pytest
from kafka_fixture import free_port

from flywheel.errors import ArtefactError, WorkspaceError
from streams.local_broker import LocalBroker
from streams.local_broker.configuration import server_properties
from streams.local_broker.jars import (
    KAFKA_VERSION,
    PINS,
    Jar,
    cache_folder,
    ensure_jars,
    pinned_jars,
)

GONE = "org.apache.kafka:no-such-artefact-of-flywheel-tests:0"


def jar(content: bytes) -> Jar:
    return Jar("one.jar", GONE, hashlib.sha256(content).hexdigest())


def test_pins_name_kafka_and_no_host() -> None:
    text = PINS.read_text("utf-8")
    assert "://" not in text
    jars = pinned_jars()
    assert {f"kafka_2.13-{KAFKA_VERSION}.jar", f"kafka-clients-{KAFKA_VERSION}.jar"} <= {
        one.file for one in jars
    }
    assert len({one.file for one in jars}) == len(jars)
    assert all(len(one.sha256) == 64 for one in jars)


def test_a_verified_jar_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / f"kafka-{KAFKA_VERSION}"
    folder.mkdir()
    (folder / "one.jar").write_bytes(b"right")
    assert ensure_jars(tmp_path, [jar(b"right")]) == [folder / "one.jar"]
    (folder / "one.jar").chmod(0)  # a second full check could not read it (unless run by root)
    assert ensure_jars(tmp_path, [jar(b"right")]) == [folder / "one.jar"]


def test_a_damaged_cache_is_noticed_and_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"kafka-{KAFKA_VERSION}"
    folder.mkdir()
    wanted = min(pinned_jars(), key=lambda one: len(one.file))
    real = ensure_jars(cache_folder(), [wanted])[0]
    shutil.copy(real, folder / wanted.file)
    ensure_jars(tmp_path, [wanted])
    damaged = bytearray(real.read_bytes())
    damaged[100] ^= 0xFF
    (folder / wanted.file).write_bytes(damaged)
    # The network is the third party here that must not be needed: the cache stands in for it.
    monkeypatch.setattr("streams.local_broker.jars._download", lambda artifact, one: copy_of(real))

    def copy_of(path: Path) -> Path:
        return Path(shutil.copy(path, folder / "fetched"))

    assert ensure_jars(tmp_path, [wanted]) == [folder / wanted.file]
    assert (folder / wanted.file).read_bytes() == real.read_bytes()


def test_a_fetched_jar_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"something else")
    monkeypatch.setattr("streams.local_broker.jars._download", lambda artifact, one: wrong)
    with pytest.raises(ArtefactError, match=r"one\.jar.*SHA-256.*Remove"):
        ensure_jars(tmp_path, [jar(b"right")])


def test_the_cache_is_the_users_and_can_be_moved() -> None:
    assert cache_folder({"FLYWHEEL_CACHE": "/somewhere"}) == Path("/somewhere")
    assert cache_folder({"XDG_CACHE_HOME": "/xdg"}) == Path("/xdg/flywheel")
    assert cache_folder({}) == Path.home() / ".cache" / "flywheel"


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port + 1))
        holder.listen()
        with pytest.raises(WorkspaceError, match=rf"port {port + 1} .*kafka\.local_port"):
            LocalBroker(tmp_path, port).start()


def test_a_damaged_data_folder_is_not_formatted_over(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path, free_port())
    broker.data.mkdir(parents=True)
    (broker.data / "some-partition").touch()
    with pytest.raises(WorkspaceError, match="flywheel kafka reset"):
        broker.prepare()


def test_a_full_disk_is_said_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1024)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(WorkspaceError, match="free some space"):
        LocalBroker(tmp_path, free_port()).prepare()


def test_a_broker_that_does_not_run_says_so(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path, 19092)
    assert not broker.status().running
    assert broker.status().cluster_id is None
    broker.stop()
    broker.reset()


def test_settings_that_a_single_node_stands_or_falls_with(tmp_path: Path) -> None:
    lines = server_properties(tmp_path, 19092).splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["broker.session.timeout.ms"] == "2000"
    assert settings["offsets.topic.replication.factor"] == "1"
    assert all("127.0.0.1" in settings[key] for key in ("listeners", "advertised.listeners"))
