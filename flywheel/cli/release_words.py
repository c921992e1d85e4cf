"""What `flywheel releases` says of differences, and of what served when, in lines for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flywheel.registry.diff import ReleaseDiff
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


def _number(value: Any) -> str:
    if value is None:
        return "–"
    interval = f" ({value['low']:.3f}–{value['high']:.3f})" if "low" in value else ""
    return f"{value['value']:.3f}{interval}"


def served_lines(found: Served) -> list[str]:
    """What served at a moment, for people."""
    assert found.since is not None  # noqa: S101 - a release that serves began to
    settings = found.settings
    steps = ", ".join((settings.get("method", "?"), *settings.get("steps", ())))
    lines = [
        f"{found.release}  champion since {found.since:%Y-%m-%d %H:%M:%S}, by {found.decided_by}: "
        f"{found.reason}",
        f"traffic    {found.champion_share:.0%} to the champion"
        + (
            f", {found.challenger_share:.0%} to {found.challenger} ({found.rollout_state})"
            if found.challenger
            else ""
        ),
        f"data       {found.dataset_version}"
        + (
            f": {found.dataset.expert_labels} expert and {found.dataset.auto_labels} automatic "
            f"labels, git {found.dataset.git_commit[:10]}, dvc {found.dataset.dvc_hash}"
            if found.dataset
            else ""
        ),
        f"serving    {found.engine or '?'}: {steps}, temperature "
        f"{settings.get('temperature', '?')}",
        f"prompt     {json.dumps(found.prompt, ensure_ascii=False) if found.prompt else 'none'}",
    ]
    recipe = json.dumps(found.recipe, ensure_ascii=False, sort_keys=True)
    return [*lines, f"code       git {found.git_commit[:10]}", f"recipe     {recipe}"]
