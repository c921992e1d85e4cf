"""Whether the bytes of recorded datasets and models are kept, for `flywheel doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flywheel.datasets.remote import outside
from flywheel.datasets.versions import DatasetCommit, versions
from flywheel.datasets.workspace import Lacking, lacking_bytes
from flywheel.errors import FlywheelError
from flywheel.ops.supervisor import flywheel_command
from flywheel.settings import FlywheelSettings


def missing_bytes(
    settings: FlywheelSettings, recorded: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Problems and advice: versions and models of which bytes are missing, versions of the database
    (task → versions) that git does not know; what was pruned on purpose is no problem."""
    if not settings.layout.dvc.is_dir():
        return [], []
    root = settings.workspace
    try:
        problems = [_said(settings, one) for one in lacking_bytes(root)]
        if (place := outside(root)) is not None:
            problems.append(
                f"DVC's remote is {place}, outside the workspace: the trainer brings what is the "
                "workspace's back when it starts"
            )
        tagged = versions(root)
    except FlywheelError as error:
        return [str(error)], []
    known = {(one.task, one.version) for one in tagged}
    problems += [
        f"dataset {version} of {task} has no tag in {root}: its commit is gone"
        for task, listed in recorded.items()
        for version in listed
        if (task, version) not in known
    ]
    advice = [
        f"dataset {one.version} of {one.task} has no bytes any more: pruned by {one.pruned}"
        for one in tagged
        if one.pruned is not None
    ]
    return problems, advice


def _said(settings: FlywheelSettings, lacking: Lacking) -> str:
    if isinstance(lacking.what, DatasetCommit):
        named = f"dataset {lacking.what.version} of {lacking.what.task}"
        prune = flywheel_command(
            settings, f"datasets prune {lacking.what.version} --task {lacking.what.task}"
        )
        way_out = f"restore them from a backup, or note that they are meant to be gone: {prune}"
    else:
        named, way_out = lacking.what, "the next turn that changes it makes it anew"
    if lacking.gone:
        return f"{named}: {lacking.gone} of its files are in no store of DVC's; {way_out}"
    return (
        f"{named}: DVC's remote lacks {lacking.files} of its files; the trainer pushes them when "
        "it starts, and before each dataset"
    )
