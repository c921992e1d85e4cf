"""The embedded engine beside a plain transformers loop, FP32 and INT8, and other server libraries.

    python tests/benchmarks/bench_embedded.py [--rounds N] [--peers PYTHON]

Every side has one inference thread and a process of its own; clients are a process more. They are
measured in alternating rounds, whoever is not measured is stopped, and medians are reported.
LitServe and mosec run the embedded engine's own classifier, so only the servers differ; they are
left out where PYTHON's environment lacks them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from models import minilm, minilm_int8, questions
from rich.console import Console
from rich.table import Table
from servers import Server, client, load, ready, serve, start

HERE = Path(__file__).parent
IN_FLIGHT = (1, 4, 16, 64)
BATCHES = (1, 4, 8, 16, 32, 64)
PEERS = ("litserve", "mosec")


class Loop:
    """The transformers loop in its process; it sleeps until it is asked."""

    def __init__(self, folder: Path, texts: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "transformers_loop.py"), str(folder), str(texts), "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read()

    def ask(self, line: str) -> Any:
        """One line there, one back."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def has(python: str, module: str) -> bool:
    """Whether ``python``'s environment has ``module``."""
    probe = [python, "-c", f"import {module}"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def servers(peers_python: str, peers: Sequence[str]) -> list[Server]:
    """Every server, starting: the embedded engine and its peers with both models."""
    folders = {"fp32": minilm(), "int8": minilm_int8()}
    found = []
    for model, folder in folders.items():
        found.append(serve(f"embedded {model}", folder, "embedded"))
    for peer in peers:
        for model, folder in folders.items():
            program = [peers_python, str(HERE / f"peer_{peer}.py"), str(folder), "{port}"]
            found.append(start(f"{peer} {model}", program, "/classify"))
    return found


async def rounds(
    loop: Loop, sides: Sequence[Server], texts: Sequence[str], count: int, seconds: float
) -> dict[str, dict[int, list[dict[str, float]]]]:
    """Side → in flight (or the loop's batch) → one measurement per round."""
    found: dict[str, dict[int, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for server in sides:
        await ready(server)
        server.pause()
    for _ in range(count):
        for batch in BATCHES:
            found["loop"][batch].append(loop.ask(f"{batch} {seconds / 2}"))
        for server in sides:
            server.resume()
            for in_flight in IN_FLIGHT:
                measured = await load(server, texts, in_flight=in_flight, seconds=seconds)
                found[server.name][in_flight].append(msgspec.to_builtins(measured))
            server.pause()
    return found


async def labels(server: Server, texts: Sequence[str]) -> list[str]:
    """The label of every text."""
    server.resume()
    async with client() as session:
        found = []
        for text in texts:
            async with session.post(server.url, data=server.body(text)) as response:
                found.append((await response.json())["data"][0]["label"])
    server.pause()
    return found


def medians(runs: Mapping[str, Mapping[int, Sequence[Mapping[str, float]]]]) -> dict[str, Any]:
    """The median of every number over the rounds, and the rates of each round."""
    result: dict[str, Any] = {}
    for side, by_load in runs.items():
        rate = "texts_per_second" if side == "loop" else "requests_per_second"
        result[side] = {
            str(at): {
                **{key: statistics.median(run[key] for run in of) for key in of[0]},
                "rounds": [round(run[rate], 1) for run in of],
            }
            for at, of in by_load.items()
        }
    return result


def ratios(
    runs: Mapping[str, Mapping[int, Sequence[Mapping[str, float]]]],
) -> dict[str, dict[str, float]]:
    """By server: its rate at 16 in flight over the loop's of the same round, the median of them."""
    best = max(
        BATCHES, key=lambda b: statistics.median(r["texts_per_second"] for r in runs["loop"][b])
    )
    found: dict[str, dict[str, float]] = {"best_batch": {"size": best}}
    for side in runs:
        if side == "loop":
            continue
        rates = [run["requests_per_second"] for run in runs[side][16]]
        for name, batch in (("of_batch_1", 1), ("of_best_batch", best)):
            of = [run["texts_per_second"] for run in runs["loop"][batch]]
            ratio = statistics.median(a / b for a, b in zip(rates, of, strict=True))
            found.setdefault(side, {})[name] = round(ratio, 2)
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Start everything, measure, stop everything."""
    texts = questions()
    peers = [peer for peer in PEERS if has(options.peers, peer)]
    for peer in PEERS:
        if peer not in peers:
            print(f"{peer}: not installed in the environment of {options.peers}, left out")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        loop = Loop(minilm(), Path(file.name))
        sides = servers(options.peers, peers)
        try:
            runs = asyncio.run(rounds(loop, sides, texts, options.rounds, options.seconds))
            report: dict[str, Any] = medians(runs)
            report["ratios_at_16"] = ratios(runs)
            report["agreement"] = agreement(loop, sides, texts)
        finally:
            loop.stop()
            for server in sides:
                server.stop()
    report["peers_left_out"] = [peer for peer in PEERS if peer not in peers]
    return report


def agreement(loop: Loop, sides: Sequence[Server], texts: Sequence[str]) -> dict[str, float]:
    """By server of our own: the share of texts to which it gives the loop's label."""
    order = json.loads((minilm() / "release.json").read_text())["labels"]
    expected = [order[index] for index in loop.ask("labels")]
    found = {}
    for server in sides:
        if server.name.startswith("embedded"):
            given = asyncio.run(labels(server, texts))
            same = sum(a == b for a, b in zip(given, expected, strict=True))
            found[server.name] = same / len(texts)
    return found


def tables(report: Mapping[str, Any], rounds: int) -> list[Table]:
    """What is printed."""
    loop = Table(title=f"Plain transformers loop, FP32, 1 thread (median of {rounds} rounds)")
    for column in ("batch", "texts/s", "batch p50", "processor"):
        loop.add_column(column, justify="right")
    for batch, row in report["loop"].items():
        rate, took, cpu = row["texts_per_second"], row["batch_p50_ms"], row["cpu_ms"]
        loop.add_row(batch, f"{rate:.0f}", f"{took:.1f} ms", f"{cpu:.2f} ms")
    ratio = report["ratios_at_16"]
    best = str(ratio["best_batch"]["size"])
    base = report["loop"]["1"]["texts_per_second"], report["loop"][best]["texts_per_second"]
    served = Table(title="Over HTTP, one text a request, 1 inference thread")
    served.add_column("server", no_wrap=True)
    for column in (
        "in flight",
        "requests/s",
        "p50",
        "p95",
        "processor",
        "of batch 1",
        f"of {best}",
    ):
        served.add_column(column, justify="right")
    for side in ratio:
        for at, row in report.get(side, {}).items():
            rate = row["requests_per_second"]
            served.add_row(
                *(side, at, f"{rate:.0f}", f"{row['p50_ms']:.1f} ms", f"{row['p95_ms']:.1f} ms"),
                f"{row['cpu_ms']:.2f} ms",
                *(f"{rate / base[0]:.2f}", f"{rate / base[1]:.2f}"),
            )
    return [loop, served]


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="Of one measurement.")
    parser.add_argument("--peers", default=sys.executable, help="Python that has the peers.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    report = run(options)
    screen = Console(width=max(100, Console().width))
    for table in tables(report, options.rounds):
        screen.print(table)
    for side, share in report["agreement"].items():
        print(f"{side}: the loop's label for {share:.1%} of {len(questions())} questions")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "embedded.json").write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
