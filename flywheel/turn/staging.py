"""Staging imports: what they bring waits below ``Layout.imports`` for the trainer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from flywheel.contracts.artefacts import Address, AddressText
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.layout import BASES, RELEASES
from flywheel.contracts.linked_files import link_or_copy
from flywheel.contracts.model_folder import ModelDescription
from flywheel.contracts.release import Override
from flywheel.errors import ArtefactError
from flywheel.kinds import answers_of
from flywheel.registry.archive import extract
from flywheel.registry.formats import check_folder
from flywheel.registry.hugging_face import make_model
from flywheel.registry.release_folder import verify_release
from flywheel.retraining.ports import IMPORT, TurnRequest
from flywheel.settings import FlywheelSettings
from flywheel.turn.same_answers import check_same_answers
from storage.database import Database
from storage.objects import open_artefacts

MODEL = "model"
# The key of recipe["imported"] that says what of an import was compared with transformers.
COMPARED = "compared_with_transformers"


class Staged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request says of a model that waits below ``<state>/imports/<request id>``.

    ``release`` is the id of an exported release; None for a model in the layout of Hugging Face,
    which lies in the folder ``model``. ``address`` is that of the whole folder where it waits in
    the store of artefacts instead, for a trainer that shares no folder with whoever staged it.
    """

    source: str
    release: str | None = None
    address: AddressText | None = None


def stage_archive(settings: FlywheelSettings, task: str, file: Path) -> tuple[str, Staged]:
    """Unpack and verify an exported release; the id for its request, and what it says.

    Raises ArtefactError for a file that is not exactly a release, or is one of another task.
    """
    with _staging(settings) as (request_id, folder):
        manifest = extract(file, folder)
        for held in (folder / RELEASES / manifest.release, *(folder / BASES).glob("*")):
            check_folder(held)
        description = verify_release(folder, manifest.release)
        check_fits(settings, task, description)
        return request_id, Staged(source=file.name, release=manifest.release)


def stage_model(
    settings: FlywheelSettings, task: str, folder: Path, source: str
) -> tuple[str, Staged]:
    """Copy a classifier in the layout of Hugging Face; the id for its request, and what it says.

    Raises ArtefactError when its labels are not the task's, or when it would be served otherwise
    than transformers computes it.
    """
    of_task = settings.task(task)
    with _staging(settings) as (request_id, target):
        (target / MODEL).mkdir()
        make_model(folder, task, of_task.labels, target / MODEL, source=source)
        check_same_answers(folder, target / MODEL, source)
        return request_id, Staged(source=source)


def share(settings: FlywheelSettings, request_id: str, staged: Staged) -> Staged:
    """Have what was staged wait where ``artefacts.url`` says; without any it waits where it is.

    Raises ArtefactStoreError when the store cannot be reached: nothing is then asked for.
    """
    if not settings.artefacts.url:
        return staged
    folder = settings.layout.imports / request_id
    try:
        address = open_artefacts(settings).put(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return msgspec.structs.replace(staged, address=str(address))


def staged_folder(settings: FlywheelSettings, request_id: str, staged: Staged) -> Path:
    """Where it waits, fetched if it has to be. Raises ArtefactError when it is gone."""
    folder = settings.layout.imports / request_id
    if not folder.is_dir() and staged.address is not None:
        part = settings.layout.imports / f".{request_id}"
        shutil.rmtree(part, ignore_errors=True)
        with open_artefacts(settings).fetch(Address.parse(staged.address)) as fetched:
            shutil.copytree(fetched, part, copy_function=_linked)
        part.rename(folder)
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is gone: import {staged.source} once more")
    return folder


def waits_here(settings: FlywheelSettings, request: TurnRequest) -> bool:
    """Whether what a request brings in can be had from this workspace."""
    staged = msgspec.convert(request.overrides[IMPORT], Staged)
    return staged.address is not None or (settings.layout.imports / request.request_id).is_dir()


def _linked(source: str, target: str) -> str:
    link_or_copy(Path(source), Path(target))
    return target


def request_import(
    database: Database,
    task: str,
    request_id: str,
    staged: Staged,
    *,
    by: str,
    why: str,
    override: bool,
) -> TurnRequest:
    """Ask the trainer to bring in what is staged."""
    request = TurnRequest(
        request_id=request_id,
        task=task,
        by=by,
        why=why,
        at=utc_now(),
        override=Override(by=by, why=why) if override else None,
        overrides={IMPORT: msgspec.to_builtins(staged)},
    )
    with database.transaction("cli") as tx:
        tx.turns.request(request)
    return request


def check_fits(settings: FlywheelSettings, task: str, description: ModelDescription) -> None:
    """Raises ArtefactError for a release of another task, or with other labels."""
    of_task = settings.task(task)
    if description.task != task:
        raise ArtefactError(
            f"this is a release of task {description.task!r}, not of {task!r}: the task is part of "
            "its id, so name a task the same to import it"
        )
    if set(description.labels) != set(of_task.labels):
        raise ArtefactError(
            f"it answers {answers_of(description.output, description.labels).described}; "
            f"{task} here has {of_task.answers.described}"
        )


@contextmanager
def _staging(settings: FlywheelSettings) -> Iterator[tuple[str, Path]]:
    """An empty folder that becomes ``<state>/imports/<id>`` when all went well."""
    root = settings.layout.imports
    root.mkdir(parents=True, exist_ok=True)
    request_id = new_id()
    part = root / f".{request_id}"
    part.mkdir()
    try:
        yield request_id, part
        part.rename(root / request_id)
    finally:
        shutil.rmtree(part, ignore_errors=True)
