"""One trainer, several tasks: what fails when one is looked at keeps no other's turn from it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from settings_file import load

import flywheel.processes.trainer
from flywheel.contracts.events import DatasetVersioned, LabelRecorded, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Override, Release
from flywheel.errors import ArtefactError
from flywheel.processes.leasing import Leases
from flywheel.processes.trainer import OWNER, Trainer, gather
from flywheel.retraining.ports import GateRefusal, Turn, TurnRequest
from flywheel.retraining.trigger import Facts
from storage.database import Database, Transaction

TASKS = ("bad", "good")
CONFIG = "".join(
    f'\n[tasks.{task}]\nlabels = ["a", "b"]\ntraining.base_model = "/none"\n' for task in TASKS
)


class Quick:
    """A pipeline that makes datasets of nothing."""

    def prepare(self, turn: Turn, request: TurnRequest | None, watermark: str) -> None:
        return

    def prepared(self, turn: Turn) -> bool:
        return True

    def run(self, task: str, stage: str) -> None:
        return

    def stages(self, task: str) -> Sequence[str]:
        return ()

    def commit_dataset(self, task: str) -> DatasetVersioned:
        return DatasetVersioned(
            event_id=new_id(),
            occurred_at=utc_now(),
            task=task,
            version=f"d-{task}",
            parent=None,
            git_commit="abc",
            dvc_hash="def.dir",
            watermark="000000000001",
            expert_labels=1,
            auto_labels=0,
            holdout_labels=0,
        )

    def assemble(
        self, turn: Turn, dataset: DatasetVersioned, override: Override | None
    ) -> Release | GateRefusal:
        return GateRefusal(reason="it is a test")


@pytest.fixture
def trainer(database: Database, tmp_path: Path) -> Trainer:
    leases = Leases(database, OWNER, "one", seconds=600.0)
    made = Trainer(load(tmp_path, CONFIG), database, threading.Event(), leases)
    made._pipeline = Quick()
    with database.transaction() as tx:
        for task in TASKS:
            tx.label_intake.record(
                [
                    TrafficRecorded(
                        event_id=new_id(),
                        occurred_at=utc_now(),
                        task=task,
                        sample_id="s",
                        content="text",
                    ),
                    LabelRecorded(
                        event_id=new_id(),
                        occurred_at=utc_now(),
                        task=task,
                        sample_id="s",
                        value="a",
                        source="seed",
                        annotator="ann",
                    ),
                ]
            )
            tx.turns.request(
                TurnRequest(request_id=f"of-{task}", task=task, by="ada", why="", at=utc_now())
            )
    return made


@pytest.mark.parametrize("error", [ArtefactError("damaged"), ZeroDivisionError("a surprise")])
def test_an_error_of_one_task_aborts_no_round(
    trainer: Trainer, database: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(tx: Transaction, task: str) -> Facts:
        if task == "bad":
            raise error
        return gather(tx, task)

    monkeypatch.setattr(flywheel.processes.trainer, "gather", failing)
    trainer.step()
    with database.transaction(read_only=True) as tx:
        (turn,) = tx.turns.history("good")
        assert tx.turns.history("bad") == []
    assert (turn.turn_id, turn.state) == ("of-good", "succeeded")
    assert str(error) in (trainer.problem() or "")
    monkeypatch.setattr(flywheel.processes.trainer, "gather", gather)
    trainer._seen.clear()  # as ten seconds later
    trainer.step()
    with database.transaction(read_only=True) as tx:
        assert [turn.turn_id for turn in tx.turns.history("bad")] == ["of-bad"]
    assert trainer.problem() is None


def test_an_idle_task_is_looked_at_when_something_changed(
    trainer: Trainer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def noting(tx: Transaction, task: str) -> Facts:
        looked.append(task)
        return gather(tx, task)

    monkeypatch.setattr(flywheel.processes.trainer, "gather", noting)
    for _ in range(3):
        trainer.step()
    made = len(looked)
    for _ in range(5):
        trainer.step()
    assert len(looked) == made, "nothing happened, so nothing is counted"
    with database.transaction("cli") as tx:
        tx.turns.request(TurnRequest(request_id="more", task="bad", by="ada", why="", at=utc_now()))
    trainer.step()
    with database.transaction(read_only=True) as tx:
        assert "more" in {turn.turn_id for turn in tx.turns.history("bad")}
    assert set(looked[made:]) == {"bad"}
