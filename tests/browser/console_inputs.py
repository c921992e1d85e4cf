"""A task whose inputs are more than a text, and samples of it that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.ids import new_id
from flywheel.contracts.sample import Content
from flywheel.settings import FlywheelSettings, TaskSettings
from storage.database import Database

AT = datetime(2026, 1, 1, tzinfo=UTC)


def input_settings(workspace: Path, task: str, **fields: object) -> FlywheelSettings:
    """One task of these fields; None takes out what is there by default."""
    said = {"training": {"base_model": "base"}} | fields
    told = TaskSettings.model_validate({key: one for key, one in said.items() if one is not None})
    return FlywheelSettings(workspace=workspace, tasks={task: told})


def waiting(task: str, contents: Sequence[Content], **fields: object) -> Callable[[Database], None]:
    """Queues these inputs as s0, s1 and so on, in that order."""

    def seed(database: Database) -> None:
        requests = [
            ReviewRequested(
                event_id=new_id(),
                occurred_at=AT + timedelta(minutes=number),
                task=task,
                sample_id=f"s{number}",
                content=content,
                reason="random audit",
                priority=90 - number,
                inclusion_probability=0.05,
                audit=True,
                **fields,
            )
            for number, content in enumerate(contents)
        ]
        with database.transaction() as tx:
            tx.intake.open(requests)

    return seed
