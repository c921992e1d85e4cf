"""How often an equal release passes the gate, by size of the holdout, margin and discordance.

    python tests/benchmarks/bench_holdout_size.py

Counted over all outcomes of the exact paired test at 95 % confidence, not drawn; prints the tables
of docs/your-own-task.md.
"""

from __future__ import annotations

from flywheel.statistics.sample_size import power, samples_needed

ALPHA = 0.05
MARGINS = (0.01, 0.02, 0.05)
DISCORDANCES = (0.01, 0.02, 0.05, 0.10, 0.20)
SIZES = (150, 300, 500, 1000, 2000, 4000)


def main() -> None:
    """Print one Markdown table of chances, and one of sizes."""
    heads = [f"{psi:.0%} differ" for psi in DISCORDANCES]
    print("| margin | held-out samples |", " | ".join(heads), "|")
    print("|---" * (2 + len(heads)) + "|")
    for margin in MARGINS:
        for n in SIZES:
            chances = [power(n, margin, ALPHA, psi / 2, psi / 2) for psi in DISCORDANCES]
            cells = " | ".join(f"{chance:.0%}" for chance in chances)
            print(f"| {margin * 100:g} points | {n:,} | {cells} |")
    print()
    print("| margin |", " | ".join(heads), "|")
    print("|---" * (1 + len(heads)) + "|")
    for margin in MARGINS:
        sizes = [samples_needed(psi, margin, ALPHA) for psi in DISCORDANCES]
        cells = " | ".join("–" if size is None else f"{size:,}" for size in sizes)
        print(f"| {margin * 100:g} points | {cells} |")


if __name__ == "__main__":
    main()
