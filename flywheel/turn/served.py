"""Models that answer through what will serve them, as the turn asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from flywheel.compression.compare import Speed
from flywheel.settings import FlywheelSettings
from flywheel.turn.measure import Answer, ServedFolder


class Answering(Protocol):
    """A model that answers through what serves it."""

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """An answer for each text, in order."""
        ...

    def speed(self, texts: Sequence[str], seconds: float) -> Speed:
        """How fast it answers."""
        ...


# (folder, bases, whether it answers with labels) → the model, answering.
Serve = Callable[[Path, Path, bool], AbstractContextManager[Answering]]


def served_folder(settings: FlywheelSettings) -> Serve:
    """Model folders answered by a server process of their own, by the workspace's engine."""

    @contextmanager
    def serve(folder: Path, bases: Path, labels: bool) -> Iterator[Answering]:
        server = ServedFolder(
            folder,
            engine=settings.serving.engine,
            labels=labels,
            bases=bases,
            workspace=settings.workspace,
            threads=settings.serving.threads,
        )
        try:
            server.ready()
            yield server
        finally:
            server.stop()

    return serve
