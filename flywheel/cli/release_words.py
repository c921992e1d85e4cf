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


def diff_lines(found: ReleaseDiff) -> list[str]:
    """What differs, for people."""
    lines = [f"{found.a} → {found.b}"]
    lines.append(f"size       {found.size_bytes[0] / 1e6:.1f} → {found.size_bytes[1] / 1e6:.1f} MB")
    if found.dataset:
        lines.append(f"dataset    {found.dataset[0]} → {found.dataset[1]}")
    for part, labels in found.labels.items():
        counts = ", ".join(f"{label} {one} → {two}" for label, (one, two) in labels.items())
        lines.append(f"labels     {part}: {counts}")
    for title, values in (
        ("recipe", found.recipe),
        ("served", found.served),
        ("id", found.parts),
    ):
        lines += [f"{title:10} {key}: {one} → {two}" for key, (one, two) in values.items()]
    lines += [
        f"{'metric':10} {name}: {_number(one)} → {_number(two)}"
        for name, (one, two) in found.metrics.items()
    ]
    answers = found.answers
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


def served_lines(found: Served, utc: bool = False) -> list[str]:
    """What served at a moment, for people."""
    assert found.since is not None  # noqa: S101 - a release that serves began to
    settings = found.settings
    steps = ", ".join((settings.get("method", "?"), *settings.get("steps", ())))
    lines = [
        f"{found.release}  champion since {moment(found.since, utc)}, by {found.decided_by}: "
        f"{found.reason}",
        f"asked of   {moment(found.at, utc)}",
        f"traffic    {percent(found.champion_share)} to the champion"
        + (
            f", {percent(found.challenger_share)} to {found.challenger} ({found.rollout_state})"
            if found.challenger
            else ""
        ),
        f"data       {found.dataset_version}"
        + (
            f": {_labels(found.dataset)} labels, git {found.dataset.git_commit[:10]}, "
            f"dvc {found.dataset.dvc_hash}"
            if found.dataset
            else ""
        ),
        f"serving    {found.engine or '?'}: {steps}, temperature "
        f"{settings.get('temperature', '?')}",
        f"prompt     {json.dumps(found.prompt, ensure_ascii=False) if found.prompt else 'none'}",
    ]
    recipe = json.dumps(found.recipe, ensure_ascii=False, sort_keys=True)
    return [*lines, f"code       git {found.git_commit[:10]}", f"recipe     {recipe}"]


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
    found, data = family.release, family.dataset
    interval = f"{rounded(found.accuracy_low)}% to {rounded(found.accuracy_high)}%"
    asked = found.metrics.get("samples")
    quality = {
        "accuracy": f"{rounded(found.accuracy)}% ({interval}"
        + (f", {asked} held-out samples)" if asked is not None else ")"),
        **{
            title: words.format(found.metrics[name])
            for name, (title, words) in _METRICS.items()
            if isinstance(found.metrics.get(name), int | float)
        },
    }
    past = found.override
    gate = {
        "verdict": "passed" if found.gate_passed else "refused",
        "why": found.gate_reason,
        "put past it": f"by {past.by}: {past.why}" if past else "",
    }
    made_of = {
        "dataset": found.dataset_version,
        "labels": _labels(found) + (f", {data.holdout_labels} held out" if data else ""),
        "label error": f"at most {rounded(found.auto_label_error)}% of the automatic ones"
        if found.auto_label_error is not None
        else "",
        "git, dvc": f"{data.git_commit[:10]}, {data.dvc_hash}" if data else found.git_commit[:10],
        "parent": found.parent or "none: it is the first",
        "before that": ", ".join(one.release for one in family.ancestors[1:]),
        "children": ", ".join(one.release for one in family.descendants),
    }
    about = {
        "task": found.task,
        "status": status.replace("_", " "),
        "registered": moment(found.created_at, utc),
        "size": f"{found.size_bytes / 1e6:.1f} MB",
        "kept at": found.address or "",
    }
    return [
        (found.release, about),
        ("Quality", quality),
        ("Gate", gate),
        ("Made of", made_of),
        ("Recipe", dict(_flat(found.recipe))),
    ]


def _flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Every key of nested tables, with dots, and its value in words."""
    found: list[tuple[str, str]] = []
    for key, one in value.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(one, Mapping) and one:
            found += _flat(one, name)
        elif one not in ({}, [], "", None):
            words = one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
            found.append((name, words))
    return found


def history_cells(change: StatusChange) -> tuple[str, str, str, str]:
    """A row of a release's history, after its time."""
    share = percent(change.share) if change.share else "–"
    return change.status.replace("_", " "), share, change.by, change.reason
