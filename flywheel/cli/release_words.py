"""What `flywheel releases` says of differences, and of what served when, in lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flywheel.cli.render import moment
from flywheel.contracts.percentages import rounded
from flywheel.rollout.plan import percent

if TYPE_CHECKING:
    from flywheel.contracts.events import DatasetVersioned
    from flywheel.contracts.release import Release
    from flywheel.registry.diff import ReleaseDiff
    from flywheel.registry.history import StatusChange
    from flywheel.registry.lineage import Lineage
    from flywheel.registry.served import Served


def diff_lines(difference: ReleaseDiff) -> list[str]:
    """What differs, for people."""
    lines = [f"{difference.a} → {difference.b}"]
    lines.append(
        f"size       {difference.size_bytes[0] / 1e6:.1f} → {difference.size_bytes[1] / 1e6:.1f} MB"
    )
    if difference.dataset:
        lines.append(f"dataset    {difference.dataset[0]} → {difference.dataset[1]}")
    for part, labels in difference.labels.items():
        counts = ", ".join(f"{label} {one} → {two}" for label, (one, two) in labels.items())
        lines.append(f"labels     {part}: {counts}")
    for title, values in (
        ("recipe", difference.recipe),
        ("served", difference.served),
        ("id", difference.parts),
    ):
        lines += [f"{title:10} {key}: {one} → {two}" for key, (one, two) in values.items()]
    lines += [
        f"{'metric':10} {name}: {_number(one)} → {_number(two)}"
        for name, (one, two) in difference.metrics.items()
    ]
    answers = difference.answers
    if answers is None:
        return [*lines, "answers    one of them left no held-out answers"]
    lines.append(
        f"answers    {answers.changed} of {answers.compared} held-out answers changed: "
        f"{answers.fixed} fixed, {answers.broken} broken"
    )
    return lines + [
        f"           {one.sample_id}: {one.before} → {one.after} (label {one.label})"
        for one in answers.examples
    ]


def _labels(counted: DatasetVersioned | Release) -> str:
    seed = f", {counted.seed_labels} seed" if counted.seed_labels else ""
    return f"{counted.expert_labels} expert{seed} and {counted.auto_labels} automatic"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    interval = f" ({value['low']:.3f}–{value['high']:.3f})" if "low" in value else ""
    return f"{value['value']:.3f}{interval}"


def served_lines(served: Served, utc: bool = False) -> list[str]:
    """What served at a moment, for people."""
    assert served.since is not None  # noqa: S101 - a release that serves began to
    settings = served.settings
    steps = ", ".join((settings.get("method", "?"), *settings.get("steps", ())))
    lines = [
        f"{served.release}  champion since {moment(served.since, utc)}, by {served.decided_by}: "
        f"{served.reason}",
        f"asked of   {moment(served.at, utc)}",
        f"traffic    {percent(served.champion_share)} to the champion"
        + (
            f", {percent(served.challenger_share)} to {served.challenger} ({served.rollout_state})"
            if served.challenger
            else ""
        ),
        f"data       {served.dataset_version}"
        + (
            f": {_labels(served.dataset)} labels, git {served.dataset.git_commit[:10]}, "
            f"dvc {served.dataset.dvc_hash}"
            if served.dataset
            else ""
        ),
        f"serving    {served.engine or '?'}: {steps}, temperature "
        f"{settings.get('temperature', '?')}",
        f"prompt     {json.dumps(served.prompt, ensure_ascii=False) if served.prompt else 'none'}",
    ]
    recipe = json.dumps(served.recipe, ensure_ascii=False, sort_keys=True)
    return [*lines, f"code       git {served.git_commit[:10]}", f"recipe     {recipe}"]


# Of metrics.json, in the order of what people ask first; what is not there is left out.
_METRICS = {
    "macro_f1": ("macro F1", "{:.3f}"),
    "chrf": ("chrF", "{:.1f}"),
    "token_f1": ("token F1", "{:.3f}"),
    "ece": ("calibration", "{:.3f} expected error (ECE)"),
    "nll": ("log loss", "{:.3f}"),
    "latency_p50_ms": ("p50", "{:.1f} ms"),
    "latency_p95_ms": ("p95", "{:.1f} ms"),
    "texts_per_second": ("throughput", "{:.0f} texts/s"),
}


def release_facts(family: Lineage, status: str, utc: bool) -> list[tuple[str, dict[str, str]]]:
    """(title, name → words) of each part of what is known of a release."""
    release, data = family.release, family.dataset
    interval = f"{rounded(release.accuracy_low)}% to {rounded(release.accuracy_high)}%"
    asked = release.metrics.get("samples")
    quality = {
        "accuracy": f"{rounded(release.accuracy)}% ({interval}"
        + (f", {asked} held-out samples)" if asked is not None else ")"),
        **{
            title: words.format(release.metrics[name])
            for name, (title, words) in _METRICS.items()
            if isinstance(release.metrics.get(name), int | float)
        },
    }
    past = release.override
    gate = {
        "verdict": "passed" if release.gate_passed else "refused",
        "why": release.gate_reason,
        "put past it": f"by {past.by}: {past.why}" if past else "",
    }
    made_of = {
        "dataset": release.dataset_version,
        "labels": _labels(release) + (f", {data.holdout_labels} held out" if data else ""),
        "label error": f"at most {rounded(release.auto_label_error)}% of the automatic ones"
        if release.auto_label_error is not None
        else "",
        "git, dvc": f"{data.git_commit[:10]}, {data.dvc_hash}" if data else release.git_commit[:10],
        "parent": release.parent or "none: it is the first",
        "before that": ", ".join(one.release for one in family.ancestors[1:]),
        "children": ", ".join(one.release for one in family.descendants),
    }
    about = {
        "task": release.task,
        "status": status.replace("_", " "),
        "registered": moment(release.created_at, utc),
        "size": f"{release.size_bytes / 1e6:.1f} MB",
        "kept at": release.address or "",
    }
    return [
        (release.release, about),
        ("Quality", quality),
        ("Gate", gate),
        ("Made of", made_of),
        ("Recipe", dict(_flat(release.recipe))),
    ]


def _flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Every key of nested tables, with dots, and its value in words."""
    pairs: list[tuple[str, str]] = []
    for key, one in value.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(one, Mapping) and one:
            pairs += _flat(one, name)
        elif one not in ({}, [], "", None):
            words = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
            pairs.append((name, words))
    return pairs


def history_cells(change: StatusChange) -> tuple[str, str, str, str]:
    """A row of a release's history, after its time."""
    share = percent(change.share) if change.share else "–"
    return change.status.replace("_", " "), share, change.by, change.reason
