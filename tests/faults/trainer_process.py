"""A trainer whose pipeline only takes its time and notes what it does. Run as a process."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from quick_pipeline import Quick

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.release import Override, Release
from flywheel.processes.instance import claim
from flywheel.processes.leasing import Leases
from flywheel.processes.process import loop
from flywheel.processes.trainer import OWNER, Trainer, _end_turn
from flywheel.retraining.ports import GateRefusal, Turn, TurnRequest
from flywheel.settings import load_settings
from storage.database import Database


class Slow(Quick):
    """A pipeline that notes each stage, in one file for all trainers."""

    def __init__(self, log: Path, mark: Path) -> None:
        self._log, self._mark = log, mark

    def note(self, *words: str) -> None:
        fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, (" ".join((str(os.getpid()), *words)) + "\n").encode())
        os.close(fd)

    def prepare(self, turn: Turn, request: TurnRequest | None, watermark: str) -> None:
        self._mark.write_text(turn.turn_id)
        self.note("prepare", turn.task, turn.turn_id)

    def prepared(self, turn: Turn) -> bool:
        return self._mark.exists() and self._mark.read_text() == turn.turn_id

    def run(self, task: str, stage: str) -> None:
        self.note("begin", task, self._mark.read_text())
        time.sleep(0.4)
        self.note("end", task, self._mark.read_text())

    def stages(self, task: str) -> Sequence[str]:
        return ("train",)

    def version(self, task: str) -> str:
        return f"d-{self._mark.read_text()}"

    def assemble(
        self, turn: Turn, dataset: DatasetVersioned, override: Override | None
    ) -> Release | GateRefusal:
        self.note("assemble", turn.task, turn.turn_id)
        return super().assemble(turn, dataset, override)


def main(workspace: str, url: str, log: str) -> None:
    settings = load_settings(Path(workspace), {"FLYWHEEL_DATABASE_URL": url})
    instance = claim(settings, OWNER)
    database = Database(url)
    leases = Leases(database, OWNER, instance.holder, lost=_end_turn)
    trainer = Trainer(settings, database, threading.Event(), leases)
    trainer._pipeline = Slow(Path(log), Path(workspace) / "prepared")
    leases.start()
    sys.stdout.write(f"{instance.holder}\n")
    sys.stdout.flush()
    loop(threading.Event(), 0.1, trainer.step)


if __name__ == "__main__":
    main(*sys.argv[1:])
