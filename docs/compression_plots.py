"""Writes the tables of docs/compression.md and its plots from what the benchmark stored.

python docs/compression_plots.py [build/bench/compression.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MEASURED = HERE / "images" / "compression.json"
TITLES = {
    "trec": "MiniLM on TREC questions, 6 classes",
    "sms": "MiniLM on SMS spam, 2 classes",
    "smollm2": "SmolLM2-135M with LoRA on TREC questions, 6 classes",
}
INK, SOFT, GOOD, BAD, SPAN = "#1f2937", "#9ca3af", "#2563eb", "#b91c1c", "#e5e7eb"


def table(found: dict[str, Any]) -> str:
    """The Markdown table of one case."""
    lines = [
        "| variant | size | smaller | accuracy (95 %) | difference (95 %) | no worse? "
        "| p50 / p95 | answers/s | | compute | | memory |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [" | ".join(["", *_cells(row, found), ""]).strip() for row in found["rows"]]
    return "\n".join(lines)


def _cells(row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    name = f"**{row['name']}**" if row["name"] == found["chosen"] else row["name"]
    if not row["samples"]:
        return [name, *["–"] * 4, f"failed: {row['reason']}", *["–"] * 6]
    claims, speed = found["claims"][row["name"]], row["speed"]
    reference = row["standing"] == "reference"
    low, high = row["difference_low"] * 100, row["difference_high"] * 100
    timed = ["–"] * 6
    if speed:
        timed = [
            f"{speed['p50_ms']:.1f} / {speed['p95_ms']:.1f} ms",
            f"{speed['per_second']:.0f}",
            "1 ×" if reference else f"{claims['faster']:.2f} ×",
            f"{speed['cost_ms']:.2f} ms",
            "1 ×" if reference else f"{claims['less_compute']:.2f} ×",
            f"{speed['memory_bytes'] / 1e6:.0f} MB",
        ]
    words = {"reference": "–", "equal": "yes", "doubtful": "not proven", "worse": "no"}
    if row["difference_high"] < -found["margin"]:
        words["doubtful"] = "no"
    return [
        name,
        f"{row['bytes'] / 1e6:.1f} MB",
        "–" if reference else f"{claims['smaller']:.0%}",
        f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f}–{row['accuracy_high']:.3f})",
        "–" if reference else f"{row['difference'] * 100:+.2f} ({low:+.2f} to {high:+.2f})",
        words[row["standing"]],
        *timed,
    ]


def claims_table(measured: dict[str, Any]) -> str:
    """What the article says beside what was measured."""
    lines = [
        "| task | variant | −75 % size | <1 % accuracy, points | the article: faster "
        "| answers/s | compute an answer | p50 |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case, found in measured.items():
        for row in found["rows"]:
            claims = found["claims"].get(row["name"])
            if not claims or row["method"] == "none":
                continue
            low, high = claims["article_faster"]
            lines.append(
                f"| {case} | {row['name']} | {_met(claims['met_size'])} {claims['smaller']:.0%} "
                f"| {_met(claims['met_loss'])} {row['difference'] * 100:+.2f} "
                f"| {low:g}–{high:g} × | {_met(claims['met_speed'])} {claims['faster']:.2f} × "
                f"| {claims['less_compute']:.2f} × | {claims['faster_alone']:.2f} × |"
            )
    return "\n".join(lines)


def _met(met: bool) -> str:
    return "met:" if met else "not met:"


def plot(case: str, found: dict[str, Any]) -> None:
    """Three panels: what is lost, how much faster, how much smaller."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "flywheel", "font.size": 9, "axes.edgecolor": SOFT})
    rows = [row for row in found["rows"] if row["samples"] and row["standing"] != "reference"]
    rows.reverse()
    places = range(len(rows))
    figure, (lost, faster, smaller) = pyplot.subplots(
        1, 3, figsize=(10.5, 0.42 * len(rows) + 1.5), sharey=True
    )
    margin = found["margin"] * 100
    lost.axvspan(-margin, 0, color=SPAN)
    lost.axvline(0, color=SOFT, linewidth=1)
    for place, row in zip(places, rows, strict=True):
        colour = GOOD if row["standing"] == "equal" else BAD
        ends = [row["difference_low"] * 100, row["difference_high"] * 100]
        lost.plot(ends, [place, place], color=colour, linewidth=2)
        lost.plot(row["difference"] * 100, place, "o", color=colour, markersize=5)
    lost.set_yticks(list(places), [row["name"] for row in rows])
    lost.set_xlabel(f"accuracy − reference, points (grey: allowed {margin:g})")
    claims = [found["claims"][row["name"]] for row in rows]
    if all(claims):
        for place, said in zip(places, claims, strict=True):
            low, high = said["article_faster"]
            if rows[place]["method"] != "none":
                faster.barh(place, high - low, left=low, height=0.7, color=SPAN)
            faster.barh(place, said["less_compute"], height=0.38, color=GOOD)
        faster.axvline(1, color=SOFT, linewidth=1)
    faster.set_xlabel("× less compute an answer (grey: the article)")
    smaller.barh(list(places), [said["smaller"] * 100 for said in claims], 0.38, color=GOOD)
    smaller.axvline(75, color=SOFT, linewidth=1)
    smaller.set_xlabel("% smaller (line: the article)")
    for axis in (lost, faster, smaller):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, length=2)
    figure.suptitle(TITLES[case], color=INK, x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(HERE / "images" / f"compression-{case}.svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Keep the measurements, draw them, and put the tables between the document's marks."""
    if len(sys.argv) > 1:
        MEASURED.write_bytes(Path(sys.argv[1]).read_bytes())
    measured = json.loads(MEASURED.read_text("utf-8"))
    document = HERE / "compression.md"
    text = document.read_text("utf-8")
    sections = (
        f"\n### {TITLES[case]}\n\n![Loss, speed and size of each variant: {TITLES[case]}]"
        f"(images/compression-{case}.svg)\n\n{table(measured[case])}\n"
        for case in TITLES
        if case in measured
    )
    for name, body in {"measured": "".join(sections), "claims": claims_table(measured)}.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{body}\n{end}{after}"
    document.write_text(text, "utf-8")
    for case, found in measured.items():
        plot(case, found)


if __name__ == "__main__":
    main()
