"""What changed between two dataset versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from flywheel.contracts.dataset_folder import PARTS, DatasetLine, read_manifest, read_part
from flywheel.datasets.build import kind_of


class DatasetDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over all parts. ``moved`` samples changed part; ``by_label`` is label → (before,
    after), free texts together."""

    before: str
    after: str
    added: int
    removed: int
    relabelled: int
    moved: int
    by_label: dict[str, tuple[int, int]]


def diff_datasets(before: Path, after: Path) -> DatasetDiff:
    """Compare two dataset folders, sample by sample. Raises ArtefactError when one is damaged."""
    earlier, later = read_manifest(before, check=False), read_manifest(after, check=False)
    old, new = _samples(before), _samples(after)
    both = old.keys() & new.keys()
    counts = [_counts(old, earlier.labels), _counts(new, later.labels)]
    return DatasetDiff(
        before=earlier.version,
        after=later.version,
        added=len(new.keys() - old.keys()),
        removed=len(old.keys() - new.keys()),
        relabelled=sum(old[key][1].label != new[key][1].label for key in both),
        moved=sum(old[key][0] != new[key][0] for key in both),
        by_label={
            label: (counts[0][label], counts[1][label])
            for label in sorted({*counts[0], *counts[1]})
        },
    )


def _samples(folder: Path) -> dict[str, tuple[str, DatasetLine]]:
    return {line.sample_id: (part, line) for part in PARTS for line in read_part(folder, part)}


def _counts(samples: dict[str, tuple[str, DatasetLine]], labels: Sequence[str]) -> Counter[str]:
    return Counter(kind_of(line.label, labels) for _, line in samples.values())
