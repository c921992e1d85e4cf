"""One stage of dvc.yaml: run by DVC unless its inputs are unchanged, and its outputs kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flywheel.contracts.layout import Layout
from flywheel.contracts.private_files import private_folder
from flywheel.datasets.dvc_repository import causes, opened
from flywheel.datasets.workspace import keep_stage
from flywheel.turn import stage_failure, watchdog
from flywheel.turn.stage_failure import failure, memory_kills


def reproduce(workspace: Path, stage: str) -> None:
    """Run one stage of dvc.yaml unless its inputs are unchanged, and see to it that DVC holds what
    it left.

    Raises PipelineError, by the words of the stage's own last error, when it fails, and StageKilled
    when a signal ended it; WorkspaceError when what it left cannot be kept.
    """
    from dvc.exceptions import DvcException

    layout = Layout(workspace)
    private_folder(layout.state)
    report = layout.stage_failure
    _prepare_environment(workspace, report)
    report.unlink(missing_ok=True)
    before = memory_kills()
    with opened(workspace) as repo:
        try:
            repo.reproduce(targets=[stage], single_item=True)
        except DvcException as error:
            left = report.read_text("utf-8", "replace").strip() if report.is_file() else ""
            raise failure(causes(error), left, memory_kills() - before) from error
    keep_stage(workspace, stage)


def _prepare_environment(workspace: Path, report: Path) -> None:
    """DVC starts stages through a shell: they find this installation's `flywheel` first, know the
    workspace, and end when this process does. The shell is one that runs commands, whatever the
    user's is: that of a service's user is often /usr/sbin/nologin."""
    folder = str(Path(sys.executable).parent)
    if os.environ["PATH"].split(os.pathsep)[0] != folder:
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    os.environ["SHELL"] = "/bin/sh"
    os.environ["FLYWHEEL_WORKSPACE"] = str(workspace)
    os.environ[watchdog.VARIABLE] = str(os.getpid())
    os.environ[stage_failure.VARIABLE] = str(report)
