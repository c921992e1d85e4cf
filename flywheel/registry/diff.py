"""What differs between two releases: data, recipe, quality, size, prompt, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from flywheel.contracts.dataset_folder import Manifest, read_manifest
from flywheel.contracts.layout import PREDICTIONS_FILE
from flywheel.contracts.model_folder import ModelDescription, read_description
from flywheel.contracts.release import Release
from flywheel.errors import ArtefactError
from flywheel.kinds.predictions import is_right
from flywheel.registry.release_folder import PARTS, SERVED

INTERVALS = ("accuracy", "macro_f1", "ece", "brier", "nll", "chrf", "token_f1")
MACHINE = ("latency_p50_ms", "latency_p95_ms", "texts_per_second")
SHOWN = 20

Pair = tuple[Any, Any]


class HeldOutAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A line of predictions.jsonl, as far as a comparison needs it."""

    sample_id: str
    label: str
    prediction: str
    scores: dict[str, float] = {}

    @property
    def correct(self) -> bool:
        """Whether it equals the label."""
        return is_right(self.prediction, self.label, self.scores)


class ChangedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A held-out sample that the two answer differently."""

    sample_id: str
    label: str
    before: str
    after: str


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out answers of both: ``fixed`` are right only in the second, ``broken`` only in the
    first; ``changed`` also counts those wrong in both. ``examples`` are some, broken ones first."""

    compared: int
    changed: int
    fixed: int
    broken: int
    examples: tuple[ChangedAnswer, ...] = ()


class ReleaseDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Two releases, each difference as (of the first, of the second); what is equal is left out.

    ``labels`` is part → label → counts; ``metrics`` holds an interval where there is one:
    {"value", "low", "high"}. ``answers`` is None where one of them left no held-out answers.
    """

    a: str
    b: str
    dataset: Pair | None
    labels: dict[str, dict[str, Pair]]
    recipe: dict[str, Pair]
    served: dict[str, Pair]
    parts: dict[str, Pair]
    metrics: dict[str, Pair]
    size_bytes: Pair
    answers: Answers | None


class ReleaseFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A release and what its folder holds, as far as it does."""

    release: Release
    description: ModelDescription | None = None
    manifest: Manifest | None = None
    answers: tuple[HeldOutAnswer, ...] = ()


def read_files(
    release: Release, hold: Callable[[str], AbstractContextManager[Path]]
) -> ReleaseFiles:
    """A release with its folder; what is missing there, or the whole of it, is left out."""
    held = _or_none(lambda: hold(release.release))
    if held is None:
        return ReleaseFiles(release=release)
    with held as folder:
        return ReleaseFiles(
            release=release,
            description=_or_none(lambda: read_description(folder)),
            manifest=_or_none(lambda: read_manifest(folder, check=False)),
            answers=tuple(_or_none(lambda: _answers(folder)) or ()),
        )


def diff(a: ReleaseFiles, b: ReleaseFiles) -> ReleaseDiff:
    """What differs from ``a`` to ``b``."""
    one, two = a.release, b.release
    leave = (PARTS, SERVED, "turn", "reason")
    recipes = [{k: v for k, v in r.recipe.items() if k not in leave} for r in (one, two)]
    return ReleaseDiff(
        a=one.release,
        b=two.release,
        dataset=_pair(one.dataset_version, two.dataset_version),
        labels=_labels(a.manifest, b.manifest),
        recipe=_differences(*recipes),
        served=_differences(one.recipe.get(SERVED) or {}, two.recipe.get(SERVED) or {}),
        parts=_differences(one.recipe.get(PARTS) or {}, two.recipe.get(PARTS) or {}),
        metrics={
            name: (_interval(one, name), _interval(two, name))
            for name in (*INTERVALS, *MACHINE)
            if name in one.metrics or name in two.metrics
        },
        size_bytes=(one.size_bytes, two.size_bytes),
        answers=compare_answers(a.answers, b.answers) if a.answers and b.answers else None,
    )


def compare_answers(before: tuple[HeldOutAnswer, ...], after: tuple[HeldOutAnswer, ...]) -> Answers:
    """Sample by sample, where both answered; the label is the second's, which may be corrected."""
    known = {answer.sample_id: answer for answer in before}
    both = [(known[new.sample_id], new) for new in after if new.sample_id in known]
    was = [is_right(old.prediction, new.label, old.scores) for old, new in both]
    changes = [
        (right and not new.correct, new.correct and not right, old, new)
        for right, (old, new) in zip(was, both, strict=True)
        if old.prediction != new.prediction
    ]
    changes.sort(key=lambda change: (not change[0], not change[1], change[3].sample_id))
    return Answers(
        compared=len(both),
        changed=len(changes),
        fixed=sum(new.correct and not right for right, (_, new) in zip(was, both, strict=True)),
        broken=sum(right and not new.correct for right, (_, new) in zip(was, both, strict=True)),
        examples=tuple(
            ChangedAnswer(
                sample_id=new.sample_id,
                label=new.label,
                before=old.prediction,
                after=new.prediction,
            )
            for _, _, old, new in changes[:SHOWN]
        ),
    )


def _pair(one: Any, two: Any) -> Pair | None:
    return None if one == two else (one, two)


def _labels(one: Manifest | None, two: Manifest | None) -> dict[str, dict[str, Pair]]:
    if one is None or two is None:
        return {}
    parts = sorted({*one.label_counts, *two.label_counts})
    counted = {
        part: _differences(one.label_counts.get(part, {}), two.label_counts.get(part, {}), 0)
        for part in parts
    }
    return {part: counts for part, counts in counted.items() if counts}


def _differences(
    one: Mapping[str, Any], two: Mapping[str, Any], missing: Any = None
) -> dict[str, Pair]:
    """Dotted key → both values, where they differ."""
    flat, other = dict(_flat(one)), dict(_flat(two))
    return {
        key: (flat.get(key, missing), other.get(key, missing))
        for key in sorted({*flat, *other})
        if flat.get(key, missing) != other.get(key, missing)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _interval(release: Release, name: str) -> dict[str, float] | None:
    value = release.metrics.get(name)
    if not isinstance(value, int | float):
        return None
    ends = {end: release.metrics.get(f"{name}_{end}") for end in ("low", "high")}
    return {"value": value, **{end: v for end, v in ends.items() if isinstance(v, int | float)}}


def _answers(folder: Path) -> list[HeldOutAnswer]:
    try:
        raw = (folder / PREDICTIONS_FILE).read_bytes()
        return msgspec.json.Decoder(HeldOutAnswer).decode_lines(raw)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtefactError(f"{folder / PREDICTIONS_FILE} cannot be read: {error}") from error


def _or_none(read: Any) -> Any:
    try:
        return read()
    except ArtefactError:
        return None
