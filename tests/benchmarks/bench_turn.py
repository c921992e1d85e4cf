"""The time of one turn, and where it goes: the demo with one turn, on this machine.

python tests/benchmarks/bench_turn.py
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1]))
from demo_run import report, start_demo


def turns(folder: Path) -> list[dict[str, Any]]:
    """Every turn of a workspace, oldest first, with the seconds of its stages."""
    with sqlite3.connect(folder / ".flywheel" / "flywheel.db") as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM turns ORDER BY started_at").fetchall()
    found = []
    for row in rows:
        seconds = json.loads(row["seconds"])
        found.append({"release": row["release"], "reason": row["reason"], "seconds": seconds})
    return found


def run() -> dict[str, Any]:
    """One demo of one turn with the demo's own settings."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "workspace"
        demo = start_demo(folder, "--turns", "1", "--no-drill", small=False)
        demo.wait(1200)
        whole = report(folder)
        return {
            "seconds": whole["seconds"],
            "counts": whole["counts"],
            "turns": turns(folder),
            "releases": whole["releases"],
        }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    found = run()
    table = Table(title=f"Seconds of a turn by stage (the whole demo: {found['seconds']:.0f} s)")
    table.add_column("release")
    for stage in ("build", "train", "compress", "evaluate", "sum"):
        table.add_column(stage, justify="right")
    for turn in found["turns"]:
        seconds = turn["seconds"]
        cells = [f"{seconds.get(s, 0):.1f}" for s in ("build", "train", "compress", "evaluate")]
        table.add_row(str(turn["release"]), *cells, f"{sum(seconds.values()):.1f}")
    Console().print(table)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "turn.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
