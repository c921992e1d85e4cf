"""What the release page shows of a release's mistakes: the matrix, and what is confused most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from flywheel.console.ports import TrafficOverview
from flywheel.contracts.release import Release
from flywheel.registry.diff import HeldOutAnswer
from flywheel.registry.release_folder import PREDICTIONS_FILE

Counts = Mapping[str, Mapping[str, int]]
_CONFUSIONS = 15
_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Confusion:
    """One label taken for another: ``count`` of ``total`` held-out samples, and texts of some."""

    label: str
    answer: str
    count: int
    total: int
    texts: tuple[str, ...] = ()


def confusions(tx: TrafficOverview, release: Release) -> list[Confusion]:
    """The commonest confusions of a release, with texts of a few samples each where they are known:
    those need the answers in its folder, and the samples in the database."""
    found = _commonest(release.metrics.get("confusion", {}))
    examples = {(one.label, one.answer): _examples(release.path, one) for one in found}
    ids = [sample for some in examples.values() for sample in some]
    texts = tx.texts(release.task, ids) if ids else {}
    return [
        Confusion(
            one.label,
            one.answer,
            one.count,
            one.total,
            tuple(texts[sample] for sample in examples[one.label, one.answer] if sample in texts),
        )
        for one in found
    ]


def _commonest(table: Counts) -> list[Confusion]:
    """Of equal counts the one of the rarer label first: there it weighs more."""
    wrong = [
        Confusion(label, answer, count, sum(row.values()))
        for label, row in table.items()
        for answer, count in row.items()
        if count and answer != label
    ]
    return sorted(wrong, key=lambda one: (-one.count, one.total, one.label))[:_CONFUSIONS]


def _examples(path: str, one: Confusion) -> list[str]:
    try:
        return list(_mistakes(path).get((one.label, one.answer), ()))[:_SAMPLES]
    except (OSError, msgspec.MsgspecError):
        return []  # an imported release, or one whose folder was cleared: the counts stand alone


@lru_cache(maxsize=8)
def _mistakes(path: str) -> dict[tuple[str, str], list[str]]:
    """(label, answer) → samples. A release's folder never changes; its page asks each second."""
    raw = (Path(path) / PREDICTIONS_FILE).read_bytes()
    found: dict[tuple[str, str], list[str]] = {}
    for one in msgspec.json.Decoder(HeldOutAnswer).decode_lines(raw):
        if one.label != one.prediction:
            found.setdefault((one.label, one.prediction), []).append(one.sample_id)
    return found


def heat(table: Counts) -> list[tuple[str, list[tuple[int, int, bool]]]]:
    """Each row of a confusion matrix as (count, heat 0–4 within its row, whether it is right)."""
    rows = []
    for truth, answers in table.items():
        total = sum(answers.values()) or 1
        counts = [(answers.get(label, 0), label == truth) for label in table]
        rows.append(
            (truth, [(n, min(4, math.ceil(n / total * 10)) if n else 0, ok) for n, ok in counts])
        )
    return rows
