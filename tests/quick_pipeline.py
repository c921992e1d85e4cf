"""A pipeline that makes datasets of nothing, and what a turn of it needs."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel.contracts.events import DatasetVersioned, LabelRecorded, TrafficRecorded
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Override, Release
from flywheel.retraining.ports import GateRefusal, Turn, TurnRequest
from storage.database import Database


class Quick:
    """``retraining.ports.Pipeline``. Every stage is done at once, and the gate refuses."""

    def prepare(self, turn: Turn, request: TurnRequest | None, watermark: str) -> None:
        return

    def prepared(self, turn: Turn) -> bool:
        return True

    def run(self, task: str, stage: str) -> None:
        return

    def stages(self, task: str) -> Sequence[str]:
        return ()

    def version(self, task: str) -> str:
        """What its next dataset is called."""
        return f"d-{task}"

    def commit_dataset(self, task: str) -> DatasetVersioned:
        return DatasetVersioned(
            event_id=new_id(),
            occurred_at=utc_now(),
            task=task,
            version=self.version(task),
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


def add_label(database: Database, task: str) -> None:
    """A labelled sample: without one no dataset is made."""
    at = utc_now()
    with database.transaction() as tx:
        tx.label_intake.record(
            [
                TrafficRecorded(
                    event_id=new_id(), occurred_at=at, task=task, sample_id="s", content="text"
                ),
                LabelRecorded(
                    event_id=new_id(),
                    occurred_at=at,
                    task=task,
                    sample_id="s",
                    value="a",
                    source="seed",
                    annotator="ann",
                ),
            ]
        )
