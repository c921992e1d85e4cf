"""What the release page shows of a release's mistakes: the matrix, and what is confused most."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.contracts.release import Release
from flywheel.errors import ArtefactError
from flywheel.registry.diff import HeldOutAnswer

Counts = Mapping[str, Mapping[str, int]]
Table = Mapping[tuple[str, str], Sequence[str]]
# (task, sample ids) → the texts of those that are known.
Texts = Callable[[str, Sequence[str]], Mapping[str, str]]
_CONFUSIONS = 15
_SAMPLES = 3
_REMEMBERED = 8
_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Confusion:
    """One label taken for another: ``count`` of ``total`` held-out samples, and texts of some."""

    label: str
    answer: str
    count: int
    total: int
    texts: tuple[str, ...] = ()


def confusions(release: Release, mistakes: Mistakes, texts: Texts) -> list[Confusion]:
    """The commonest confusions of a release, with texts of a few samples each where they are known:
    those need the answers in its folder, and the samples in the database."""
    mistaken = _commonest(release.metrics.get("confusion", {}))
    wrong = mistakes.of(release.release) if mistaken else {}
    examples = {
        pair: wrong.get(pair, ())[:_SAMPLES] for pair in ((o.label, o.answer) for o in mistaken)
    }
    ids = [sample for some in examples.values() for sample in some]
    known = texts(release.task, ids) if ids else {}
    return [
        Confusion(
            one.label,
            one.answer,
            one.count,
            one.total,
            tuple(known[sample] for sample in examples[one.label, one.answer] if sample in known),
        )
        for one in mistaken
    ]


def _commonest(table: Counts) -> list[Confusion]:
    """The commonest first; of equal counts the one of the rarer label, where it weighs more."""
    wrong = [
        Confusion(label, answer, count, sum(row.values()))
        for label, row in table.items()
        for answer, count in row.items()
        if count and answer != label
    ]
    return sorted(wrong, key=lambda one: (-one.count, one.total, one.label))[:_CONFUSIONS]


class Mistakes:
    """Which held-out samples each release mistook for what; thread-safe.

    ``read`` gives a file of a release's folder. That never changes, and the page asks each second:
    it is read once, and where it could not be, again after a minute.
    """

    def __init__(
        self, read: Callable[[str, str], bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._known: dict[str, tuple[float, Table]] = {}
        self._lock = threading.Lock()

    def of(self, release: str) -> Table:
        """(label, answer) → samples; none where the folder, or the answers in it, cannot be had:
        of an imported release, or one whose folder was cleared, the counts stand alone."""
        with self._lock:
            until, table = self._known.get(release, (-math.inf, {}))
            if self._clock() < until:
                return table
            until = math.inf
            try:
                table = _mistaken(self._read(release, PREDICTIONS_FILE))
            except (ArtefactError, msgspec.MsgspecError):
                until, table = self._clock() + _AGAIN_SECONDS, {}
            self._known[release] = until, table
            while len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
            return table


def _mistaken(predictions: bytes) -> Table:
    examples: dict[tuple[str, str], list[str]] = {}
    for one in msgspec.json.Decoder(HeldOutAnswer).decode_lines(predictions):
        if one.label != one.prediction:
            examples.setdefault((one.label, one.prediction), []).append(one.sample_id)
    return examples


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
