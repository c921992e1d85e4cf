"""Gateway overhead: the same requests to a model server directly and through the gateway.

    python tests/benchmarks/bench_gateway.py [--requests N] [--release FOLDER]

Server processes are separate, as in production. Without --release a classifier that answers at
once is served, so that what is measured is the way and not the model. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table

from flywheel.contracts.codec import Record, encode
from flywheel.contracts.events import Event, RolloutChanged
from flywheel.contracts.ids import new_id, utc_now
from flywheel.contracts.split import TrafficSplit
from flywheel.serving.engine import InProcess

LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
TEXT = "What is the distance between the gateway and the model server?"


class Constant(InProcess):
    """Answers at once."""

    labels = LABELS

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [dict.fromkeys(LABELS, 1 / len(LABELS)) for _ in texts]


class FilePublisher:
    """Appends to a file: the broker's part is not measured here."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, events: Sequence[Event]) -> None:
        self.publish_records([encode(event) for event in events])

    def publish_records(self, records: Sequence[Record]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(record.value + b"\n" for record in records))

    def close(self) -> None:
        pass


def _split() -> RolloutChanged:
    return RolloutChanged(
        event_id=new_id(),
        occurred_at=utc_now(),
        task="t",
        rollout_id="r",
        state="serving",
        split=TrafficSplit(task="t", champion="r1"),
        decided_by="benchmark",
        reason="",
    )


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
    releases.update(_split())
    releases.start()
    server = HttpServer(create_app(releases=releases), "127.0.0.1", 0)
    port.value = server.port
    server.run()
    releases.stop()


def run_gateway(port: Any, model_port: int, state: str) -> None:
    """One gateway process; tells its port through ``port``."""
    from flywheel.gateway.app import create_app
    from flywheel.gateway.capture import Capture
    from flywheel.gateway.forward import ModelServers
    from flywheel.gateway.spill import SpillLog
    from flywheel.gateway.splits import Splits
    from flywheel.monitoring.http_server import HttpServer

    splits = Splits()
    splits.update(_split())
    splits.mark_caught_up()
    capture = Capture(SpillLog(Path(state) / "spill"), FilePublisher(Path(state) / "published"))
    app = create_app(
        tasks={"t": LABELS},
        splits=splits,
        servers=ModelServers([f"http://127.0.0.1:{model_port}"], 30.0),
        capture=capture,
    )
    server = HttpServer(app, "127.0.0.1", 0)
    port.value = server.port
    server.run()


async def measure(
    session: aiohttp.ClientSession, url: str, body: bytes, count: int, in_flight: int
) -> dict[str, float]:
    """Latency in ms and requests per second with ``in_flight`` requests at a time."""
    latencies: list[float] = []

    async def client(requests: int) -> None:
        for _ in range(requests):
            started = time.perf_counter()
            async with session.post(url, data=body) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{url} answered {response.status}")
            latencies.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    await asyncio.gather(*(client(count // in_flight) for _ in range(in_flight)))
    seconds = time.perf_counter() - started
    latencies.sort()
    return {
        "p50_ms": round(latencies[len(latencies) // 2], 3),
        "p95_ms": round(latencies[int(len(latencies) * 0.95)], 3),
        "requests_per_second": round(len(latencies) / seconds, 1),
    }


async def _until(ready: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(600):
        try:
            if await ready():
                return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise RuntimeError("a server did not start within 60 s")


async def compare(model: str, gateway: str, count: int) -> dict[str, Any]:
    """Both ways in alternating rounds, so that a noisy machine is unfair to neither."""
    direct_body = msgspec.json.encode({"model": "r1", "input": [TEXT]})
    gateway_body = msgspec.json.encode({"task": "t", "text": TEXT})
    result: dict[str, Any] = {}
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def listed() -> bool:
            async with session.get(f"{model}/v1/models") as response:
                return bool((await response.json())["data"])

        async def answers() -> bool:
            async with session.post(f"{gateway}/v1/classify", data=gateway_body) as response:
                return response.status == 200

        await _until(listed)
        await _until(answers)
        ways = (
            ("direct", f"{model}/classify", direct_body),
            ("gateway", f"{gateway}/v1/classify", gateway_body),
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


def run(count: int, folder: str | None) -> dict[str, Any]:
    """Start both servers, compare, stop them."""
    context = multiprocessing.get_context("spawn")
    model_port, gateway_port = context.Value("i", 0), context.Value("i", 0)
    with tempfile.TemporaryDirectory() as state:
        model = context.Process(target=run_model_server, args=(model_port, folder))
        model.start()
        _wait_port(model_port)
        gateway = context.Process(target=run_gateway, args=(gateway_port, model_port.value, state))
        gateway.start()
        _wait_port(gateway_port)
        try:
            urls = [f"http://127.0.0.1:{port.value}" for port in (model_port, gateway_port)]
            return asyncio.run(compare(urls[0], urls[1], count))
        finally:
            for process in (gateway, model):
                process.terminate()
                process.join()


def _wait_port(port: Any) -> None:
    while not port.value:
        time.sleep(0.05)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--release", help="A release folder to serve instead of a constant.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    report = run(options.requests, options.release)
    table = Table(title="Through the gateway beside calling the model server (median)")
    for column in ("in flight", "direct p50", "gateway p50", "added", "ratio", "requests/s"):
        table.add_column(column, justify="right")
    for name, row in report.items():
        through = row["gateway"]
        table.add_row(
            name.rpartition("_")[2],
            f"{row['direct']['p50_ms']:.2f} ms",
            f"{through['p50_ms']:.2f} ms",
            f"{row['overhead_p50_ms']:.2f} ms",
            f"{row['overhead_ratio']:.2f}",
            f"{through['requests_per_second']:,.0f}",
        )
    Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gateway.json").write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
