"""Java's cache of Kafka's classes: made once for a Java and its jars, and never needed."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from pathlib import Path

import pytest

from flywheel.errors import BrokerError
from streams.local_broker.class_cache import class_cache


class Trainer:
    """Writes what Java would write at the end of a broker's life, and counts."""

    def __init__(self, *, fails: bool = False) -> None:
        self.runs, self.fails = 0, fails

    def __call__(self, java: Path, jars: Sequence[Path], into: Path) -> None:
        self.runs += 1
        if self.fails:
            raise BrokerError("Kafka did not start")
        into.write_bytes(f"classes {self.runs}".encode())


@pytest.fixture
def java(tmp_path: Path) -> Path:
    return a_java(tmp_path / "java", "25.0.2")


@pytest.fixture
def jars(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "kafka"
    folder.mkdir()
    (folder / "one.jar").write_bytes(b"jar")
    return [folder / "one.jar"]


def a_java(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "release").write_text(f'JAVA_VERSION="{version}"\nMODULES="java.base"\n')
    return home / "bin" / "java"


def cached(java: Path, jars: list[Path], trainer: Trainer) -> Path | None:
    return class_cache(jars[0].parent, java, jars, trainer)


def test_it_is_made_once(java: Path, jars: list[Path]) -> None:
    trainer = Trainer()
    first = cached(java, jars, trainer)
    assert first is not None
    assert first.parent == jars[0].parent
    assert cached(java, jars, trainer) == first
    assert trainer.runs == 1
    # Nothing is left of making it.
    assert {path.suffix for path in first.parent.iterdir()} == {".jar", ".aot", ".json", ".lock"}


@pytest.mark.parametrize("damaged", [b"classes 9", b"", None])
def test_a_damaged_one_is_made_anew(java: Path, jars: list[Path], damaged: bytes | None) -> None:
    trainer = Trainer()
    file = cached(java, jars, trainer)
    assert file is not None
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    assert cached(java, jars, trainer) == file
    assert file.read_bytes() == b"classes 2"


@pytest.mark.parametrize("notes", ["", "[]", '{"x": 1}'])
def test_one_of_which_nothing_is_known_is_not_taken(
    java: Path, jars: list[Path], notes: str
) -> None:
    trainer = Trainer()
    file = cached(java, jars, trainer)
    assert file is not None
    file.with_suffix(".json").write_text(notes)
    assert cached(java, jars, trainer) == file
    assert trainer.runs == 2


def test_other_jars_and_another_java_have_their_own(
    java: Path, jars: list[Path], tmp_path: Path
) -> None:
    trainer = Trainer()
    found = {cached(java, jars, trainer), cached(a_java(tmp_path / "25.1", "25.1"), jars, trainer)}
    jars[0].write_bytes(b"a later jar")
    found.add(cached(java, jars, trainer))
    assert len(found) == trainer.runs == 3
    assert None not in found


def test_a_copy_of_java_elsewhere_takes_the_same(
    java: Path, jars: list[Path], tmp_path: Path
) -> None:
    trainer = Trainer()
    elsewhere = a_java(tmp_path / "environment", "25.0.2")
    assert cached(java, jars, trainer) == cached(elsewhere, jars, trainer) is not None
    assert trainer.runs == 1


def test_those_of_earlier_versions_go(java: Path, jars: list[Path]) -> None:
    trainer = Trainer()
    for number in range(6):
        jars[0].write_bytes(b"x" * (number + 1))
        latest = cached(java, jars, trainer)
    left = list(jars[0].parent.glob("classes-*.aot"))
    assert len(left) == len(list(jars[0].parent.glob("classes-*.json"))) == 3
    assert latest in left


def test_where_it_cannot_be_made_kafka_starts_without(java: Path, jars: list[Path]) -> None:
    trainer = Trainer(fails=True)
    assert cached(java, jars, trainer) is None
    assert cached(java, jars, trainer) is None
    assert trainer.runs == 1, "it is not tried at each start"


def test_nobody_waits_for_another_who_makes_it(java: Path, jars: list[Path]) -> None:
    trainer = Trainer()
    with (jars[0].parent / ".classes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cached(java, jars, trainer) is None
    assert trainer.runs == 0
    assert cached(java, jars, trainer) is not None


@pytest.mark.parametrize("version", ["24.0.1", "21", "unknown"])
def test_a_java_that_writes_none_goes_without(
    jars: list[Path], tmp_path: Path, version: str
) -> None:
    trainer = Trainer()
    assert cached(a_java(tmp_path / "old", version), jars, trainer) is None
    assert trainer.runs == 0


def test_a_java_of_which_nothing_is_known_goes_without(jars: list[Path], tmp_path: Path) -> None:
    assert cached(tmp_path / "nowhere" / "bin" / "java", jars, Trainer()) is None
