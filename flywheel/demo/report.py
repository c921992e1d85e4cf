"""The demo's end: one table, and the same as demo-report.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flywheel.contracts.percentages import rounded

Json = dict[str, Any]


def release_rows(releases: list[Json], rollouts: list[Json]) -> list[Json]:
    """One row a release, oldest first, from what the registry's and the rollouts' APIs say."""
    releases = sorted(releases, key=lambda release: str(release["created_at"]))
    outcomes: dict[str, tuple[str, str]] = {}
    for rollout in rollouts:
        outcomes.setdefault(rollout["challenger"], (rollout["state"], rollout["reason"]))
    rows = []
    for index, release in enumerate(releases):
        first = ("serving", "first release") if index == 0 else ("registered", "no rollout yet")
        outcome, reason = outcomes.get(release["release"], first)
        metrics = release["metrics"]
        rows.append(
            {
                "release": release["release"],
                "dataset_version": release["dataset_version"],
                "expert_labels": release["expert_labels"],
                "seed_labels": release["seed_labels"],
                "auto_labels": release["auto_labels"],
                "auto_label_error": release["auto_label_error"],
                "accuracy": release["accuracy"],
                "accuracy_low": release["accuracy_low"],
                "accuracy_high": release["accuracy_high"],
                "size_bytes": release["size_bytes"],
                "p50_ms": metrics.get("latency_p50_ms"),
                "p95_ms": metrics.get("latency_p95_ms"),
                "outcome": outcome,
                "reason": reason,
            }
        )
    return rows


def write_report(path: Path, rows: list[Json], counts: Json, seconds: float) -> Json:
    """Write demo-report.json and return what is in it."""
    report = {"releases": rows, "counts": counts, "seconds": round(seconds, 1)}
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return report


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def _said(outcome: str, reason: str) -> str:
    return reason if reason.startswith(outcome) else f"{outcome}: {reason}"


def print_table(report: Json, console: Console) -> None:
    """The table a person reads."""
    table = Table(title="One row per release", title_justify="left", show_lines=True)
    for name in ("release", "dataset"):
        table.add_column(name, no_wrap=True)
    for name in ("labels", "held-out accuracy", "size", "p50 / p95"):
        table.add_column(name, justify="right")
    table.add_column("rollout", ratio=1)
    for row in report["releases"]:
        error = row["auto_label_error"]
        audited = "" if error is None else f"\n  error audited {rounded(error)}%"
        table.add_row(
            row["release"],
            row["dataset_version"],
            f"{row['expert_labels']} expert, {row['seed_labels']} seed\n"
            f"{row['auto_labels']} auto{audited}",
            f"{row['accuracy']:.3f}\n[{row['accuracy_low']:.3f}, {row['accuracy_high']:.3f}]",
            f"{row['size_bytes'] / 1e6:.1f} MB",
            f"{_number(row['p50_ms'], '.1f')} / {_number(row['p95_ms'], '.1f', ' ms')}",
            _said(row["outcome"].replace("_", " "), row["reason"]),
        )
    console.print(table)
    counts = report["counts"]
    console.print(
        f"{counts['requests']} requests, {counts['failed_requests']} failed · "
        f"{counts['traffic_recorded']} recorded, {counts['lost']} lost, "
        f"{counts['doubled']} doubled · {report['seconds']:.0f} s"
    )
