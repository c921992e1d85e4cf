"""What a file brought in, in words."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel.ops.ingest import Ingested

# As many places in the file as a line names.
_NAMED = 10
_PARTS = {"holdout": " for the holdout", "train": " for training"}


def ingested_text(found: Ingested) -> list[str]:
    """How many samples first, then a line each for what a reader would not expect of the file."""
    part = _PARTS.get(found.split or "", "")
    lines = [f"{found.samples} labelled samples of {found.task} brought in{part}"]
    if found.format not in ("jsonl", "csv"):
        lines[0] += f" (read as {found.format})"
    if found.unchanged:
        lines.append(
            f"of these known with the same label, which changes nothing: {found.unchanged}"
        )
    if found.held_out:
        lines.append(f"of these in the holdout already, where they stay: {found.held_out}")
    if found.again:
        lines.append(f"repeated {found.unit}s, which count once: {found.again}")
    if found.relabelled:
        lines.append(
            f"{found.unit}s with another label further down, which counts: {found.relabelled}"
        )
        lines += [
            f"  {found.unit} {one.line} says {_short(one.label)}, "
            f"{found.unit} {one.counts_line} {_short(one.counts_label)}"
            for one in found.conflicts[:_NAMED]
        ]
        if found.relabelled > _NAMED:
            lines.append(f"  and {found.relabelled - _NAMED} more")
    for reason, places in found.left_out.items():
        lines.append(f"left out, {reason}: {len(places)} ({_places(found.unit, places)})")
    missing = [label for label, count in found.by_label.items() if not count]
    if missing:
        lines.append(f"no sample of {', '.join(missing)}")
    return lines


def _places(unit: str, places: Sequence[int]) -> str:
    shown = ", ".join(str(place) for place in places[:_NAMED])
    more = ", …" if len(places) > _NAMED else ""
    return f"{unit}{'s' if len(places) > 1 else ''} {shown}{more}"


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:40]}…"
