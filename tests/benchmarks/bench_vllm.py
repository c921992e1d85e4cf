"""vLLM serving an encoder, asked directly, through `flywheel serve` and through the gateway.

    python tests/benchmarks/bench_vllm.py [--rounds N]

FP32 and INT8, each in its own vLLM process; the three ways to it are measured in alternating
rounds, and medians are reported. The direct client sends the tokens that it made beforehand, one
text a request. Needs the environment that `make vllm` makes; without it nothing is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from gateway_process import broker, start_gateway
from models import minilm, minilm_int8, questions
from rich.console import Console
from rich.table import Table
from servers import MODEL, Measured, Server, load, ready, serve

from flywheel.demo.data import LABELS
from flywheel.errors import ConfigurationError
from flywheel.serving.config import VllmSettings
from flywheel.serving.vllm.machine import find_installation

IN_FLIGHT = (1, 8, 32)
WAYS = ("direct", "server", "gateway")


def missing() -> str | None:
    """Why vLLM cannot be measured here, or None."""
    try:
        find_installation(VllmSettings(), os.environ)
    except ConfigurationError as error:
        return str(error)
    return None


def token_body(folder: Path) -> Callable[[str], bytes]:
    """A request for vLLM's own /classify, with the tokens that `flywheel serve` would send."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads((folder / "release.json").read_text())["max_tokens"])

    def body(text: str) -> bytes:
        return msgspec.json.encode({"model": MODEL, "input": [tokenizer.encode(text).ids]})

    return body


async def start_ways(model: str, folder: Path, state: Path, broker_port: int) -> dict[str, Server]:
    """One vLLM, the model server that started it, and a gateway before that."""
    server = serve(f"vllm {model}", folder, "vllm")
    await ready(server, 300)
    url = server.vllm_url()
    base = server.url.removesuffix("/classify")
    gateway = start_gateway(
        f"gateway {model}", state / model, model=base, broker_port=broker_port, labels=LABELS
    )
    await ready(gateway)
    direct = dataclasses.replace(server, url=f"{url}/classify", body=token_body(folder))
    await ready(direct)
    return {"direct": direct, "server": server, "gateway": gateway}


async def measure(
    models: Mapping[str, Mapping[str, Server]], rounds: int, seconds: float
) -> dict[tuple[str, str, int], list[Measured]]:
    """(model, way, in flight) → one measurement per round."""
    texts = questions()
    found: dict[tuple[str, str, int], list[Measured]] = {}
    for number in range(rounds):
        for model, ways in models.items():
            for in_flight in IN_FLIGHT:
                # Whoever goes first finds another machine than whoever goes last.
                for way in WAYS if number % 2 else reversed(WAYS):
                    measured = await load(ways[way], texts, in_flight=in_flight, seconds=seconds)
                    found.setdefault((model, way, in_flight), []).append(measured)
    return found


def report(found: Mapping[tuple[str, str, int], Sequence[Measured]]) -> dict[str, Any]:
    """Medians, and each way's rate over the direct one's of the same round."""
    result: dict[str, Any] = {}
    for (model, way, in_flight), runs in found.items():
        rates = [run.requests_per_second for run in runs]
        direct = [run.requests_per_second for run in found[model, "direct", in_flight]]
        ratios = [rate / base for rate, base in zip(rates, direct, strict=True)]
        result.setdefault(model, {}).setdefault(str(in_flight), {})[way] = {
            "requests_per_second": round(statistics.median(rates), 1),
            "p50_ms": round(statistics.median(run.p50_ms for run in runs), 2),
            "p95_ms": round(statistics.median(run.p95_ms for run in runs), 2),
            "of_direct": round(statistics.median(ratios), 3),
            "rounds_of_direct": [round(ratio, 3) for ratio in ratios],
        }
    return result


async def run(rounds: int, seconds: float) -> dict[str, Any]:
    """Start everything, measure, stop everything."""
    models: dict[str, dict[str, Server]] = {}
    with tempfile.TemporaryDirectory() as state, broker(Path(state), MODEL) as port:
        try:
            for model, folder in (("fp32", minilm()), ("int8", minilm_int8())):
                models[model] = await start_ways(model, folder, Path(state), port)
            return report(await measure(models, rounds, seconds))
        finally:
            for ways in models.values():
                ways["gateway"].stop()
                ways["server"].stop()


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.2, help="Of one measurement.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if reason := missing():
        print(f"vllm: nothing measured, {reason}")
        return
    found = asyncio.run(run(options.rounds, options.seconds))
    table = Table(title=f"MiniLM on vLLM (median of {options.rounds} rounds)")
    table.add_column("model")
    table.add_column("in flight", justify="right")
    table.add_column("way")
    for column in ("requests/s", "p50", "p95", "of direct"):
        table.add_column(column, justify="right")
    for model, by_load in found.items():
        for in_flight, ways in by_load.items():
            for way in WAYS:
                row = ways[way]
                table.add_row(
                    *(model, in_flight, way, f"{row['requests_per_second']:.0f}"),
                    *(f"{row['p50_ms']:.1f} ms", f"{row['p95_ms']:.1f} ms"),
                    f"{row['of_direct']:.2f}",
                )
    Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "vllm.json").write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
