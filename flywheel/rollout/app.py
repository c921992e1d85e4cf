"""The rollout API: what is served to whom and why, and commands to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from flywheel.contracts.bounds import release_problem
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.release import Override
from flywheel.errors import ArtefactError, ArtefactStoreError, Conflict, NotFound
from flywheel.monitoring.answers import answers, json_answer
from flywheel.rollout.commands import ask
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.judged import RunningJudged
from flywheel.rollout.ports import Command, CommandKind, CommandRecord
from flywheel.rollout.view import RolloutView, TaskView, Viewing, rollout_view, task_view

# What the routes below answer with.
ANSWERS = (TaskView, RolloutView, Command, CommandRecord)

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


def _release(name: str) -> str:
    problem = release_problem(name)
    if problem is not None:
        raise ValueError(problem)
    return name


class CommandRequest(BaseModel):
    """A command: what, who asks for it, and why.

    ``rollout`` is the ``rollout_id`` of the rollout that is meant: the running one, for ``start``
    the latest one. ``promote``, ``resume`` and ``start`` also give its ``revision`` as they saw it,
    and are refused when it has changed since. ``override`` lets ``start`` take a release that did
    not pass the gate; who and why are then recorded as the override's.
    """

    model_config = ConfigDict(extra="forbid")

    kind: CommandKind
    by: Words
    why: Words
    rollout: str | None = Field(None, max_length=200)
    revision: int | None = Field(None, ge=0, le=2**31 - 1)
    release: Annotated[str, AfterValidator(_release)] | None = None
    override: bool = False


def router(
    transactions: Viewing,
    reading: Viewing,
    tasks: Mapping[str, RolloutSettings],
    clock: Callable[[], datetime] = utc_now,
    verify: Callable[[str], object] | None = None,
) -> APIRouter:
    """The API over every task in ``tasks``. ``reading`` opens transactions that can't write.

    ``verify`` raises ArtefactError unless a release's folder is what was released; without it
    no restore can be asked for here.
    """
    api = APIRouter(prefix="/api/rollouts", tags=["rollouts"])
    judged = RunningJudged()

    def settings_of(task: str) -> RolloutSettings:
        try:
            return tasks[task]
        except KeyError:
            raise NotFound(f"no task {task!r}; known: {', '.join(sorted(tasks))}") from None

    @api.get("/{task}", responses=answers(TaskView, "The rollouts of a task at this moment."))
    def show(task: str, skip: Annotated[int, Query(ge=0, le=10**9)] = 0) -> Response:
        settings = settings_of(task)
        with reading() as tx:
            return json_answer(task_view(tx, task, settings, clock(), skip, judged))

    @api.get("/{task}/{rollout_id}", responses=answers(RolloutView, "One rollout."))
    def show_one(task: str, rollout_id: str) -> Response:
        settings = settings_of(task)
        with reading() as tx:
            rollout = tx.rollouts.find(rollout_id)
            if rollout is None or rollout.task != task:
                raise NotFound(f"no rollout {rollout_id!r} of task {task!r}")
            return json_answer(rollout_view(tx, rollout, settings, clock(), judged))

    @api.post(
        "/{task}/commands",
        status_code=202,
        responses={
            **answers(Command, "It waits for the controller.", 202),
            409: {"description": "It could not be carried out as things are."},
        },
    )
    def command(task: str, asked: CommandRequest) -> Response:
        settings_of(task)
        if asked.kind == "restore":
            _verify(asked.release, verify)
        made = _command(task, asked, clock())
        with transactions() as tx:
            refused = ask(tx, made)
        if refused:
            raise Conflict(refused)
        return json_answer(made, 202)

    @api.get(
        "/{task}/commands/{command_id}",
        responses=answers(CommandRecord, "The command, and how it went once it was carried out."),
    )
    def outcome(task: str, command_id: str) -> Response:
        settings_of(task)
        with reading() as tx:
            asked = tx.commands.asked(command_id)
        if asked is None or asked.command.task != task:
            raise NotFound(f"no command {command_id!r} of task {task!r}")
        return json_answer(asked)

    return api


def _command(task: str, asked: CommandRequest, now: datetime) -> Command:
    override = Override(by=asked.by, why=asked.why) if asked.override else None
    return Command(
        command_id=new_id(),
        task=task,
        kind=asked.kind,
        by=asked.by,
        why=asked.why,
        at=now,
        rollout_id=asked.rollout,
        revision=asked.revision,
        release=asked.release if asked.kind in ("start", "restore") else None,
        override=override,
    )


def _verify(release: str | None, verify: Callable[[str], object] | None) -> None:
    if verify is None:
        raise Conflict("releases do not lie here: ask with `flywheel releases restore`")
    if release:
        try:
            verify(release)
        except ArtefactStoreError:
            raise
        except ArtefactError as error:
            raise Conflict(f"{release} is not what was released: {error}") from error
