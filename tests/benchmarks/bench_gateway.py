"""Gateway overhead: the same requests to a model server directly and through the gateway.

    python tests/benchmarks/bench_gateway.py [--requests N] [--release FOLDER]

The gateway is `flywheel gateway` itself, with keys, in a workspace of its own, and publishes to a
real broker. Without --release a classifier that answers at once is served, so that what is measured
is the way and not the model.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from adapters_server import split
from gateway_process import broker, start_gateway
from rich.console import Console
from rich.table import Table
from servers import MODEL, Server, client, ready

from flywheel.serving.engine import InProcess

LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
TEXT = "What is the distance between the gateway and the model server?"


class Constant(InProcess):
    """Answers at once."""

    labels = LABELS

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [dict.fromkeys(LABELS, 1 / len(LABELS)) for _ in texts]


def run_model_server(port: Any, folder: str | None) -> None:
    """One model server process; tells its port through ``port``."""
    from flywheel.monitoring.http_server import HttpServer
    from flywheel.serving.app import create_app
    from flywheel.serving.engine import Classifier
    from flywheel.serving.releases import ReleaseSet

    def load(_release: str) -> Classifier:
        if folder is None:
            return Constant()
        from flywheel.serving.runtime import load_classifier

        return load_classifier(Path(folder), 1)

    releases = ReleaseSet(load)
    releases.update(split([MODEL]))
    releases.start()
    server = HttpServer(create_app(releases=releases), "127.0.0.1", 0)
    port.value = server.port
    server.run()
    releases.stop()


async def measure(
    session: aiohttp.ClientSession, url: str, body: bytes, count: int, in_flight: int
) -> dict[str, float]:
    """Latency in ms and requests per second with ``in_flight`` requests at a time."""
    latencies: list[float] = []

    async def ask(requests: int) -> None:
        for _ in range(requests):
            started = time.perf_counter()
            async with session.post(url, data=body) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{url} answered {response.status}")
            latencies.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    await asyncio.gather(*(ask(count // in_flight) for _ in range(in_flight)))
    seconds = time.perf_counter() - started
    latencies.sort()
    return {
        "p50_ms": round(latencies[len(latencies) // 2], 3),
        "p95_ms": round(latencies[int(len(latencies) * 0.95)], 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)], 3),
        "requests_per_second": round(len(latencies) / seconds, 1),
    }


async def compare(model: str, gateway: Server, count: int) -> dict[str, Any]:
    """Both ways in alternating rounds, so that a noisy machine is unfair to neither."""
    direct_body = msgspec.json.encode({"model": MODEL, "input": [TEXT]})
    result: dict[str, Any] = {}
    await ready(gateway)
    async with client() as session:
        ways = (
            ("direct", f"{model}/classify", direct_body),
            ("gateway", gateway.url, gateway.body(TEXT)),
        )
        for in_flight in (1, 8, 32):
            rounds: dict[str, list[dict[str, float]]] = {"direct": [], "gateway": []}
            for _ in range(3):
                for name, url, body in ways:
                    measured = await measure(session, url, body, max(count, in_flight), in_flight)
                    rounds[name].append(measured)
            best = {name: min(of, key=lambda m: m["p50_ms"]) for name, of in rounds.items()}
            direct, through = best["direct"], best["gateway"]
            result[f"in_flight_{in_flight}"] = {
                **best,
                "overhead_p50_ms": round(through["p50_ms"] - direct["p50_ms"], 3),
                "overhead_ratio": round(through["p50_ms"] / direct["p50_ms"], 2),
            }
    return result


def run(count: int, folder: str | None, fsync: str) -> dict[str, Any]:
    """Start broker, model server and gateway, compare, stop them."""
    context = multiprocessing.get_context("spawn")
    model_port = context.Value("i", 0)
    with tempfile.TemporaryDirectory() as scratch, broker(Path(scratch), MODEL) as broker_port:
        model = context.Process(target=run_model_server, args=(model_port, folder))
        model.start()
        _wait_port(model_port)
        url = f"http://127.0.0.1:{model_port.value}"
        gateway = start_gateway(
            "gateway",
            Path(scratch) / "w",
            model=url,
            broker_port=broker_port,
            labels=LABELS,
            fsync=fsync,
        )
        try:
            return asyncio.run(compare(url, gateway, count))
        finally:
            gateway.stop()
            model.terminate()
            model.join()


def _wait_port(port: Any) -> None:
    while not port.value:
        time.sleep(0.05)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--release", help="A release folder to serve instead of a constant.")
    parser.add_argument("--fsync", default="interval", help="never, interval or always.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    report = run(options.requests, options.release, options.fsync)
    table = Table(title="Through the gateway beside calling the model server (median)")
    columns = ("in flight", "direct p50", "gateway p50", "added", "p99", "requests/s", "of direct")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in report.items():
        through = row["gateway"]
        table.add_row(
            name.rpartition("_")[2],
            f"{row['direct']['p50_ms']:.2f} ms",
            f"{through['p50_ms']:.2f} ms",
            f"{row['overhead_p50_ms']:.2f} ms",
            f"{through['p99_ms']:.2f} ms",
            f"{through['requests_per_second']:,.0f}",
            f"{through['requests_per_second'] / row['direct']['requests_per_second']:.2f}",
        )
    Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gateway.json").write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
