"""Tasks whose inputs are more than a text, and samples of them that wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from images import picture

from flywheel.contracts.events import ReviewRequested
from flywheel.contracts.ids import new_id
from flywheel.contracts.sample import Content, Message, TextPart
from flywheel.kinds.images import image_of
from flywheel.settings import FlywheelSettings, TaskSettings
from storage.database import Database
from storage.objects import open_artefacts

AT = datetime(2026, 1, 1, tzinfo=UTC)

TALK_TASK = "support"
TALK: Content = (
    Message("system", (TextPart("You help customers of a lamp shop."),)),
    Message("user", (TextPart("Where is\nmy <b>lamp</b>?"),)),
    Message("assistant", (TextPart("Which one do you mean?"),)),
    Message("user", (TextPart("أين هو؟"),)),
)

SHAPE_TASK = "shapes"
PICTURES = tuple(picture("image/png", (640, 400), colour) for colour in ("teal", "tomato"))
PARTS = tuple(image_of(data).part for data in PICTURES)
SHAPES: tuple[Content, ...] = (
    (Message("user", (PARTS[0], TextPart("from the <i>north</i> gate"))),),
    (Message("user", (PARTS[1],)),),
)


def talk_settings(workspace: Path) -> FlywheelSettings:
    return _settings(
        workspace,
        TALK_TASK,
        kind="dialogue",
        title="What is it about?",
        labels=("refund", "delivery"),
        training={"base_model": "base"},
    )


def talks(database: Database) -> None:
    """A conversation of several messages, then one of a user's alone."""
    scores = {"refund": 0.3, "delivery": 0.7}
    said = {"prediction": "delivery", "scores": scores, "release": "r1"}
    _queue(database, TALK_TASK, [TALK, "Hello?"], **said)


def shape_settings(workspace: Path, **more: object) -> FlywheelSettings:
    """Its pictures are in the store as well."""
    settings = _settings(
        workspace, SHAPE_TASK, kind="image-classification", labels=("disc", "square")
    )
    settings = FlywheelSettings.model_validate(
        {"workspace": workspace, "tasks": settings.tasks, **more}
    )
    for data in PICTURES:
        open_artefacts(settings).put_bytes(data)
    return settings


def shapes(database: Database) -> None:
    """An image with a text beside it, then one without."""
    _queue(database, SHAPE_TASK, SHAPES)


def _settings(workspace: Path, task: str, **fields: object) -> FlywheelSettings:
    return FlywheelSettings(workspace=workspace, tasks={task: TaskSettings.model_validate(fields)})


def _queue(database: Database, task: str, contents: Sequence[Content], **fields: object) -> None:
    """Queues these inputs as s0, s1 and so on, in that order."""
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
            **fields,  # type: ignore[arg-type]
        )
        for number, content in enumerate(contents)
    ]
    with database.transaction() as tx:
        tx.intake.open(requests)
