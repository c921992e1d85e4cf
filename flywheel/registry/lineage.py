"""From a release back to the labels it was made of."""

from __future__ import annotations

from dataclasses import dataclass

from flywheel.contracts.events import DatasetVersioned
from flywheel.contracts.release import Release
from flywheel.errors import NotFound
from flywheel.registry.ports import RegistryReading


@dataclass(frozen=True, slots=True)
class Lineage:
    """A release, the dataset it was trained on, its parents (nearest first) and its children."""

    release: Release
    dataset: DatasetVersioned | None
    ancestors: list[Release]
    descendants: list[Release]


def lineage(tx: RegistryReading, task: str, release: str) -> Lineage:
    """The lineage of one release of a task. Raises NotFound when there is none of this id."""
    releases = {one.release: one for one in tx.releases.history(task)}
    record = releases.get(release)
    if record is None:
        raise NotFound(f"no release {release!r} of task {task!r}")
    datasets = {version.version: version for version in tx.datasets.history(task)}
    ancestors: list[Release] = []
    parent = record.parent
    while parent in releases and releases[parent] not in ancestors:
        ancestors.append(releases[parent])
        parent = ancestors[-1].parent
    return Lineage(
        release=record,
        dataset=datasets.get(record.dataset_version),
        ancestors=ancestors,
        descendants=[one for one in releases.values() if one.parent == release],
    )
