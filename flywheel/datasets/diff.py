"""What changed between two dataset versions."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flywheel.contracts.dataset_folder import PARTS, DatasetLine, read_manifest, read_part


class DatasetDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over all parts. ``moved`` samples changed part; ``by_label`` is label → (before,
    after)."""

    before: str
    after: str
    added: int
    removed: int
    relabelled: int
    moved: int
    by_label: dict[str, tuple[int, int]]


def diff_datasets(before: Path, after: Path) -> DatasetDiff:
    """Compare two dataset folders, sample by sample. Raises ArtefactError when one is damaged."""
    old, new = _samples(before), _samples(after)
    both = old.keys() & new.keys()
    labels = sorted({line.label for _, line in (*old.values(), *new.values())})
    return DatasetDiff(
        before=read_manifest(before, check=False).version,
        after=read_manifest(after, check=False).version,
        added=len(new.keys() - old.keys()),
        removed=len(old.keys() - new.keys()),
        relabelled=sum(old[key][1].label != new[key][1].label for key in both),
        moved=sum(old[key][0] != new[key][0] for key in both),
        by_label={label: (_count(old, label), _count(new, label)) for label in labels},
    )


def _samples(folder: Path) -> dict[str, tuple[str, DatasetLine]]:
    return {line.sample_id: (part, line) for part in PARTS for line in read_part(folder, part)}


def _count(samples: dict[str, tuple[str, DatasetLine]], label: str) -> int:
    return sum(line.label == label for _, line in samples.values())
