"""Resolve Kafka's jars anew and print the pins: `python -m streams.local_broker.pin > …`."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from streams.local_broker.jars import KAFKA, LOG_BINDING, render_pins


def resolve(folder: Path) -> list[tuple[str, str, str]]:
    """(file name, coordinates, SHA-256) of Kafka, what it needs, and the log binding."""
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=folder)
    jars: dict[tuple[str, str], tuple[str, str, str]] = {}
    # One at a time, Kafka first: resolved together, the binding's dependencyManagement would
    # win over Kafka's own and pull in an older kafka-clients.
    for root in (KAFKA, LOG_BINDING):
        given, needed = context.resolver.resolve([context.create_dependency(root)])
        for dependency in [*given, *needed]:
            if dependency.scope not in (None, "compile", "runtime"):
                continue
            artifact = dependency.artifact
            key = (artifact.groupId, artifact.artifactId)
            if key in jars:
                continue
            sha256 = hashlib.sha256(Path(artifact.resolve()).read_bytes()).hexdigest()
            coordinates = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            jars[key] = (artifact.filename, coordinates, sha256)
    return sorted(jars.values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.stdout.write(render_pins(resolve(Path(temporary))))
