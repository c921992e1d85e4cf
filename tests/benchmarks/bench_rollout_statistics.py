"""How often rollouts are decided rightly and how soon, beside simpler rules, by simulation.

    python tests/benchmarks/bench_rollout_statistics.py [--rollouts 4000] [--out build/bench]

Every line is a kind of challenger; every rule sees the same simulated audits. A "threshold" rule
is what a metric threshold gives when it is put on labelled accuracy: the canary's accuracy in
windows of 20 labelled answers must reach a fixed bar; the third failed check rolls back, the tenth
check promotes. The "peeking" rule is a z-test at 5 % after every audited pair from the 20th on.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from flywheel.rollout.analysis import simulation
from flywheel.rollout.analysis.simulation import Pairs
from flywheel.rollout.config import RolloutSettings
from flywheel.rollout.plan import look_sizes

CHAMPION = 0.85
LABELS = 300
# name, share of pairs that only the challenger (only the champion) gets right
CHALLENGERS: tuple[tuple[str, Pairs], ...] = (
    ("broken (15 % right)", Pairs(0.02, 0.72)),
    ("20 points worse", Pairs(0.03, 0.23)),
    ("10 points worse", Pairs(0.03, 0.13)),
    ("at the margin (5 worse)", Pairs(0.04, 0.09)),
    ("equal, 10 % differ", Pairs(0.05, 0.05)),
    ("equal, 30 % differ", Pairs(0.15, 0.15)),
    ("2 points better", Pairs(0.06, 0.04)),
    ("8 points better", Pairs(0.12, 0.04)),
    ("10 points better", Pairs(0.13, 0.03)),
)


def outcome(rollback: np.ndarray, promote: np.ndarray) -> dict[str, float | None]:
    """Shares of outcomes and the median labels of each, given when each would have come."""
    back = np.isfinite(rollback) & (rollback <= promote)
    up = np.isfinite(promote) & (promote < rollback)

    def median(at: np.ndarray) -> float | None:
        return float(np.median(at)) if len(at) else None

    return {
        "rolled_back": float(back.mean()),
        "promoted": float(up.mean()),
        "person": float((~back & ~up).mean()),
        "median_labels_rolled_back": median(rollback[back]),
        "median_labels_promoted": median(promote[up]),
    }


def threshold(pairs: Pairs, rollouts: int, margin: float, seed: int) -> dict[str, float | None]:
    """Windows of the canary's own labelled answers against a bar."""
    rng = np.random.default_rng(seed)
    accuracy = CHAMPION + pairs.only_challenger - pairs.only_champion
    right = rng.binomial(20, accuracy, (rollouts, 10))
    failed = np.cumsum(right < 20 * (CHAMPION - margin), axis=1)
    third = failed >= 3
    rollback = np.where(third.any(axis=1), 20.0 * (third.argmax(axis=1) + 1), math.inf)
    return outcome(rollback, np.where(third.any(axis=1), math.inf, 200.0))


def peeking(pairs: Pairs, rollouts: int, margin: float, seed: int) -> dict[str, float | None]:
    """z-tests after every pair, as if each were the only one."""
    rng = np.random.default_rng(seed)
    u = rng.random((rollouts, LABELS))
    d = (u < pairs.only_challenger).astype(float) - (u > 1 - pairs.only_champion)
    n = np.arange(1, LABELS + 1)
    mean = np.cumsum(d, axis=1) / n
    error = np.sqrt(np.maximum(np.cumsum(d**2, axis=1) / n - mean**2, 1e-9) / n)
    late = n >= 20
    worse, fine = (mean / error < -1.645) & late, ((mean + margin) / error > 1.645) & late
    first = [np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, math.inf) for hit in (worse, fine)]
    return outcome(first[0], first[1])


def accuracy_table(settings: RolloutSettings, rollouts: int) -> list[dict[str, Any]]:
    """One row a challenger, with what each rule does."""
    rows = []
    for seed, (name, pairs) in enumerate(CHALLENGERS):
        harm, proof = simulation.accuracy(settings, pairs, rollouts, LABELS, seed)
        rows.append(
            {
                "challenger": name,
                "flywheel": outcome(harm, proof),
                "threshold": threshold(pairs, rollouts, settings.accuracy_margin, seed),
                "peeking": peeking(pairs, rollouts, settings.accuracy_margin, seed),
            }
        )
    return rows


def power_table(settings: RolloutSettings, rollouts: int) -> list[dict[str, Any]]:
    """How likely promotion is proven by each scheduled look, by true difference."""
    rows = []
    for seed, better in enumerate((-0.05, -0.02, 0.0, 0.02, 0.05, 0.08, 0.10)):
        low = 0.04
        pairs = Pairs(low + max(better, 0), low + max(-better, 0))
        _, proof = simulation.accuracy(settings, pairs, rollouts, LABELS, 100 + seed)
        by = {str(size): float((proof <= size).mean()) for size in look_sizes(settings)}
        rows.append({"difference": better, "proven_by": by})
    return rows


def other_rows(settings: RolloutSettings, rollouts: int) -> list[dict[str, Any]]:
    """Errors, latency and assignment: how often each is found, and how soon."""
    rows: list[dict[str, Any]] = []

    def add(name: str, at: np.ndarray, unit: str) -> None:
        found = at[np.isfinite(at)]
        median = float(np.median(found)) if len(found) else None
        share = float(np.isfinite(at).mean())
        rows.append({"what": name, "share": share, "median": median, "unit": unit})

    for rates in ((0.0, 0.0), (0.02, 0.02), (0.01, 0.03), (0.0, 0.1), (0.0, 0.5), (0.0, 1.0)):
        harm, proof = simulation.errors(settings, rates, min(rollouts, 1000), 4000, 0.25, 200)
        name = f"errors {rates[0]:.0%} → {rates[1]:.0%}"
        add(f"{name}: rolled back", harm, "challenger requests")
        add(f"{name}: proven harmless", proof, "challenger requests")
    for ratio in (1.0, settings.latency_margin, 2.0, 3.0):
        harm, proof = simulation.slowness(settings, ratio, 100, 2000, 0.25, 300)
        add(f"p95 × {ratio:g}: rolled back", harm, "challenger requests")
        add(f"p95 × {ratio:g}: proven harmless", proof, "challenger requests")
    for by_step, name in ((True, "within steps"), (False, "pooled over steps")):
        share = simulation.incident(settings, min(rollouts, 20), 200, 500, by_step=by_step)
        what = f"200 requests fail in both arms at 50 %, {name}: rolled back"
        rows.append({"what": what, "share": share, "median": None, "unit": ""})
    for true in (0.05, 0.08, 0.10):
        at = simulation.mismatches(0.05, true, min(rollouts, 1000), 3000, 400)
        add(f"share 5 % is really {true:.0%}: found", at, "units")
    return rows


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    console = Console(width=130)

    def told(found: dict[str, Any]) -> tuple[str, str]:
        def at(key: str) -> str:
            return "" if found[key] is None else f" at {found[key]:.0f}"

        return (
            f"{found['rolled_back']:.1%}{at('median_labels_rolled_back')}",
            f"{found['promoted']:.1%}{at('median_labels_promoted')}",
        )

    table = Table(title="Accuracy: share rolled back / promoted, at the median audited label")
    table.add_column("challenger")
    for rule in ("flywheel", "threshold", "peeking"):
        table.add_column(f"{rule}: back")
        table.add_column("promoted")
    for row in report["accuracy"]:
        cells = [cell for rule in ("flywheel", "threshold", "peeking") for cell in told(row[rule])]
        table.add_row(row["challenger"], *cells)
    console.print(table)
    sizes = list(report["power"][0]["proven_by"])
    table = Table(title="Promotion proven by the look at so many audited pairs (accuracy alone)")
    for column in ("true difference", *sizes):
        table.add_column(column)
    for row in report["power"]:
        cells = [f"{share:.1%}" for share in row["proven_by"].values()]
        table.add_row(f"{row['difference'] * 100:+.0f} points", *cells)
    console.print(table)
    table = Table(title="Errors, latency, assignment")
    for column in ("what", "share of rollouts", "median", "unit"):
        table.add_column(column)
    for row in report["other"]:
        median = "" if row["median"] is None else f"{row['median']:.0f}"
        table.add_row(row["what"], f"{row['share']:.1%}", median, row["unit"])
    console.print(table)


def main() -> None:
    """Simulate, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    settings = RolloutSettings()
    report = {
        "settings": settings.model_dump(),
        "rollouts": asked.rollouts,
        "accuracy": accuracy_table(settings, asked.rollouts),
        "power": power_table(settings, asked.rollouts),
        "other": other_rows(settings, asked.rollouts),
    }
    show(report)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "rollout-statistics.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
