"""What a file brought in, in words."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel.ops.ingest import Ingested

# As many places in the file as a line names.
_NAMED = 10
_PARTS = {"holdout": " for the holdout", "train": " for training"}


def ingested_text(ingested: Ingested) -> list[str]:
    """How many samples first, then a line each for what a reader would not expect of the file."""
    part = _PARTS.get(ingested.split or "", "")
    lines = [f"{ingested.samples} labelled samples of {ingested.task} brought in{part}"]
    if ingested.format not in ("jsonl", "csv"):
        lines[0] += f" (read as {ingested.format})"
    if ingested.unchanged:
        lines.append(
            f"of these known with the same label, which changes nothing: {ingested.unchanged}"
        )
    if ingested.held_out:
        lines.append(f"of these in the holdout already, where they stay: {ingested.held_out}")
    if ingested.again:
        lines.append(f"repeated {ingested.unit}s, which count once: {ingested.again}")
    if ingested.relabelled:
        lines.append(
            f"{ingested.unit}s with another label further down, which counts: {ingested.relabelled}"
        )
        lines += [
            f"  {ingested.unit} {one.line} says {_short(one.label)}, "
            f"{ingested.unit} {one.counts_line} {_short(one.counts_label)}"
            for one in ingested.conflicts[:_NAMED]
        ]
        if ingested.relabelled > _NAMED:
            lines.append(f"  and {ingested.relabelled - _NAMED} more")
    for reason, places in ingested.left_out.items():
        lines.append(f"left out, {reason}: {len(places)} ({_places(ingested.unit, places)})")
    missing = [label for label, count in ingested.by_label.items() if not count]
    if missing:
        lines.append(f"no sample of {', '.join(missing)}")
    return lines


def _places(unit: str, places: Sequence[int]) -> str:
    shown = ", ".join(str(place) for place in places[:_NAMED])
    more = ", …" if len(places) > _NAMED else ""
    return f"{unit}{'s' if len(places) > 1 else ''} {shown}{more}"


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:40]}…"
