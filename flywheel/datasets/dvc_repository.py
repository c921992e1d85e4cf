"""DVC's repository of a workspace, opened so that neither the current folder nor the machine's
shared folders matter."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.contracts.layout import DVC_SITE_CACHE
from flywheel.datasets import left_behind
from flywheel.errors import WorkspaceError

if TYPE_CHECKING:
    from dvc.repo import Repo

_LOGGERS = ("dvc", "dvc_data", "dvc_objects")


@contextmanager
def opened(root: Path, **options: Any) -> Iterator[Repo]:
    """The repository, with what a killed process left taken away. ``options`` are those of DVC's
    ``Repo``. The workspace is the current folder meanwhile: DVC looks for pipelines and outputs as
    seen from there. Raises WorkspaceError for what DVC refuses."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    home = root.resolve()
    left_behind.clear(home)
    left_behind.restore_cut_files(home)
    try:
        with environment(home), chdir(home), Repo(str(home), **options) as repo:
            yield repo
    except DvcException as error:
        raise WorkspaceError(f"DVC refused in {root}: {causes(error)}") from error


@contextmanager
def environment(root: Path) -> Iterator[None]:
    """What DVC would put into a folder that all users share lies in the workspace; a user without
    a name on this machine, as containers have them, is known by the number."""
    changes = {}
    if "DVC_SITE_CACHE_DIR" not in os.environ:
        changes["DVC_SITE_CACHE_DIR"] = str(root.resolve() / DVC_SITE_CACHE)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        changes["USER"] = str(os.getuid())
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            os.environ.pop(name, None)


@contextmanager
def logged_errors() -> Iterator[list[str]]:
    """The errors that DVC logs meanwhile, where it raises none: a copy that failed, above all."""
    collector = _Collector(logging.ERROR)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(collector)
    try:
        yield collector.errors
    finally:
        for logger in loggers:
            logger.removeHandler(collector)


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[1] if record.exc_info else None
        said = f"{type(raised).__name__}: {raised}" if raised is not None else record.getMessage()
        if said not in self.errors:
            self.errors.append(said)


def causes(error: BaseException) -> str:
    """An error's words and those of what caused it."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(dict.fromkeys(said))
