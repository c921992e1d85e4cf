"""One trainer, several tasks: what fails when one is looked at keeps no other's turn from it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from quick_pipeline import Quick, add_label
from settings_file import load

import flywheel.processes.trainer
from flywheel.contracts.ids import utc_now
from flywheel.errors import ArtefactError
from flywheel.processes.leasing import Leases
from flywheel.processes.trainer import OWNER, Trainer, gather
from flywheel.retraining.ports import TurnRequest
from flywheel.retraining.trigger import Facts
from storage.database import Database, Transaction

TASKS = ("bad", "good")
CONFIG = "".join(
    f'\n[tasks.{task}]\nlabels = ["a", "b"]\ntraining.base_model = "/none"\n' for task in TASKS
)


@pytest.fixture
def trainer(database: Database, tmp_path: Path) -> Trainer:
    leases = Leases(database, OWNER, "one", seconds=600.0)
    made = Trainer(load(tmp_path, CONFIG), database, threading.Event(), leases)
    made._pipeline = Quick()
    for task in TASKS:
        add_label(database, task)
        with database.transaction() as tx:
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
