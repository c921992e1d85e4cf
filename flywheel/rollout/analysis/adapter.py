"""What of a difference in latency is the price of serving one arm as a LoRA adapter.

An adapter's matrices are multiplied beside its base's at every layer; a model that it was merged
into does without. Where the arms differ in that, their latencies differ whatever was learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from flywheel.contracts.model_folder import MERGED
from flywheel.contracts.release import Release

ServedAs = Literal["adapter", "complete"]


def served_as(release: Release | None) -> ServedAs | None:
    """How a release is served; None where it does not say."""
    row = _chosen(release)
    if release is None or row is None:
        return None
    return "adapter" if "lora" in release.recipe and _is_adapter(row) else "complete"


def adapter_note(champion: Release | None, challenger: Release | None) -> str:
    """What to bear in mind of the arms' latencies, in a sentence or two; empty where nothing."""
    kinds = served_as(champion), served_as(challenger)
    if None in kinds or kinds[0] == kinds[1]:
        return ""
    adapter, other = ("champion", "challenger")[:: 1 if kinds[0] == "adapter" else -1]
    note = (
        f"the {adapter} is served as a LoRA adapter beside its base, the {other} complete, which "
        "alone makes them differ: "
        + (_same_weights(challenger) or _same_weights(champion) or "by how much was not measured")
    )
    if kinds[1] == "adapter":
        note += (
            "; a merged variant of the challenger (merged or merged-w8a8 in "
            "tasks.NAME.compression.variants, or pinned) does without"
        )
    return note


def _same_weights(release: Release | None) -> str:
    """How much longer the same weights took as an adapter, where a release's table has both."""
    rows = [row for row in _rows(release) if row.get("speed")]
    for adapter in filter(_is_adapter, rows):
        for merged in rows:
            if _is_adapter(merged) or merged.get("method") != adapter.get("method"):
                continue
            with_, without = adapter["speed"]["p95_ms"], merged["speed"]["p95_ms"]
            if without > 0:
                return (
                    f"the same weights took {with_ / without:.2f} times as long as an adapter "
                    f"(p95 of one request at a time, {adapter['name']} {with_:.0f} ms against "
                    f"{merged['name']} {without:.0f} ms, when the release was made)"
                )
    return ""


def _chosen(release: Release | None) -> Mapping[str, Any] | None:
    comparison = release.metrics.get("comparison") if release else None
    if not isinstance(comparison, Mapping):
        return None
    return next((row for row in _rows(release) if row["name"] == comparison.get("chosen")), None)


def _rows(release: Release | None) -> Iterable[Mapping[str, Any]]:
    comparison = release.metrics.get("comparison") if release else None
    return comparison.get("rows", ()) if isinstance(comparison, Mapping) else ()


def _is_adapter(row: Mapping[str, Any]) -> bool:
    return MERGED not in row.get("steps", ())
