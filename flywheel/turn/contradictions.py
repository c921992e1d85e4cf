"""Configuration that contradicts what is running: said at the start, before an event is lost by it.

flywheel.toml may be changed while releases serve that were made by what stood there before. Most
changes take effect with the next release. Those that cannot wait for it are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flywheel.contracts.model_folder import read_description
from flywheel.errors import ArtefactError, ConfigurationError, StorageError
from flywheel.kinds import Answers, answers_of
from flywheel.registry.release_folder import SERVED, release_folder
from flywheel.rollout.commands import described
from flywheel.settings import FlywheelSettings, TaskSettings
from storage.database import Database, Transaction
from storage.workspace import open_database


@dataclass(frozen=True, slots=True)
class Serving:
    """A release that answers a task now, as what, and how it answers."""

    release: str
    role: str
    answers: Answers
    llm: bool


def check_running(settings: FlywheelSettings, database: Database) -> None:
    """Raise ConfigurationError, naming the key and the way out, for the first contradiction."""
    with database.transaction(read_only=True) as tx:
        for problem in contradictions(settings, tx):
            raise problem


def begin_with(settings: FlywheelSettings) -> list[str]:
    """What to know before the processes start. Raises as ``check_running`` does; a database that
    is away, which each of them waits for, says nothing."""
    try:
        with open_database(settings) as database:
            check_running(settings, database)
            with database.transaction(read_only=True) as tx:
                return departed(settings, tx)
    except StorageError:
        return []


def contradictions(settings: FlywheelSettings, tx: Transaction) -> Iterator[ConfigurationError]:
    """Every key that cannot be what it is while the champions and rollouts are what they are."""
    for name, task in settings.tasks.items():
        for serving in _serving(settings, tx, name):
            yield from _of_release(settings, name, task, serving)
    for running in tx.rollouts.running():
        if running.task not in settings.tasks:
            yield ConfigurationError(
                f"tasks.{running.task}",
                f"there is no such task any more, but its rollout of {running.challenger} against "
                f"{running.champion} is {described(running)}",
                f"put [tasks.{running.task}] back, end the rollout with `flywheel rollout rollback "
                f"{running.task} --by NAME --why TEXT`, then take the task out",
            )


def departed(settings: FlywheelSettings, tx: Transaction) -> list[str]:
    """What it means for each task that serves that it is in flywheel.toml no longer."""
    return [
        f"task {task} is in flywheel.toml no longer, though {release} serves it: its requests are "
        "answered 404, and what is still under way of it becomes dead letters"
        for task, release in tx.rollouts.champions().items()
        if task not in settings.tasks
    ]


def _of_release(
    settings: FlywheelSettings, name: str, task: TaskSettings, serving: Serving
) -> Iterator[ConfigurationError]:
    who = f"{serving.release}, the {serving.role},"
    if serving.answers.output != task.of_kind.output:
        yield ConfigurationError(
            f"tasks.{name}.kind",
            f"it is {task.kind!r}, but {who} answers with {serving.answers.called}",
            "set it back, and give the new question a task of its own",
        )
        return
    gone = [one for one in serving.answers.labels if not task.kept_answers.knows(one)]
    if gone:
        some = ", ".join(map(repr, gone))
        yield ConfigurationError(
            f"tasks.{name}.labels",
            f"{who} answers with {some}, which {'is' if len(gone) == 1 else 'are'} not there: what "
            "it answers could not be kept",
            f"put {some} back; or, to be rid of {'it' if len(gone) == 1 else 'them'}, name "
            f"{'it' if len(gone) == 1 else 'them'} in tasks.{name}.retired_labels: answers go on "
            "until the next release is trained without",
        )
    if serving.llm and settings.serving.engine != "vllm" and not settings.serving.urls:
        yield ConfigurationError(
            "serving.engine",
            f"it is {settings.serving.engine!r}, which cannot serve {who} a language model",
            'set serving.engine = "vllm" until a release of the other kind is the champion',
        )


def _serving(settings: FlywheelSettings, tx: Transaction, task: str) -> Iterator[Serving]:
    """The champion, and the challenger of a running rollout, as far as they say what they are."""
    active, champion = tx.rollouts.active(task), tx.rollouts.champion(task)
    roles = {champion: "champion"}
    if active is not None:
        roles.setdefault(active.challenger, "challenger")
    for release, role in roles.items():
        served = None if release is None else _served(settings, tx, release)
        if release is not None and served is not None:
            yield Serving(
                release=release,
                role=role,
                answers=answers_of(served.get("output", "label"), served.get("labels", ())),
                llm=served.get("kind", "encoder") == "llm",
            )


def _served(settings: FlywheelSettings, tx: Transaction, release: str) -> dict[str, Any] | None:
    """What a release's record says of how it answers, else its folder; None where neither does."""
    record = tx.releases.get(release)
    if record is not None and SERVED in record.recipe:
        served: dict[str, Any] = record.recipe[SERVED]
        return served
    try:
        about = read_description(release_folder(settings.state, release))
    except ArtefactError:
        return None
    return {"labels": about.labels, "output": about.output, "kind": about.kind}
