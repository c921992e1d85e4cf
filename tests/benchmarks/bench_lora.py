"""A LoRA challenger that joins the champion on a running vLLM: how soon, at what price.

    python tests/benchmarks/bench_lora.py [--rounds N]

SmolLM2-135M as a classifier, W8A8, adapters of rank 8. The champion is asked all the time while
challengers under new names are added; then base, adapter and an adapter merged into its base
are measured in alternating rounds. Needs the environment that `make vllm` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from bench_vllm import missing
from models import PROMPT, llm_variant, questions
from rich.console import Console
from rich.table import Table
from servers import MODEL, Measured, Server, client, load, ready, start

from flywheel.contracts.chat import Chat
from flywheel.contracts.model_folder import read_description

HERE = Path(__file__).parent
CHALLENGERS = ("challenger-1", "challenger-2", "challenger-3")
IN_FLIGHT = 4


def choose_body(model: str, folder: Path) -> Callable[[str], bytes]:
    """A request for vLLM itself, as our model server sends it: tokens made beforehand, one letter
    back with the probability of each. ``folder`` is a release of the model."""
    about = read_description(folder)
    chat = Chat.of_folder(folder, PROMPT)
    choices = sorted(chat.trained_letters(about).values())
    prompts = {text: chat.ids(text) for text in questions()}

    def body(text: str) -> bytes:
        return msgspec.json.encode(
            {
                "model": model,
                "prompt": prompts[text],
                "max_tokens": 1,
                "temperature": 1.0,
                "logprobs": len(choices),
                "allowed_token_ids": choices,
                "return_tokens_as_token_ids": True,
            }
        )

    return body


def named_body(model: str) -> Callable[[str], bytes]:
    """A request for the model server."""
    return lambda text: msgspec.json.encode({"model": model, "input": text})


@dataclasses.dataclass
class Watch:
    """The champion's latencies: when each request was sent, and the milliseconds it took."""

    server: Server
    texts: Sequence[str]
    seen: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    done: bool = False

    async def run(self) -> None:
        """Keep some requests in flight until ``done``."""
        async with client() as session:
            await asyncio.gather(*(self._ask(session, n) for n in range(IN_FLIGHT)))

    async def _ask(self, session: aiohttp.ClientSession, index: int) -> None:
        while not self.done:
            sent = time.perf_counter()
            body = self.server.body(self.texts[index % len(self.texts)])
            async with session.post(self.server.url, data=body) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"the champion answered {response.status}")
            self.seen.append((sent, (time.perf_counter() - sent) * 1000))
            index += IN_FLIGHT

    def between(self, begin: float, end: float) -> list[float]:
        """Latencies of the requests that were under way at some time from begin to end."""
        return [took for sent, took in self.seen if sent + took / 1000 > begin and sent < end]


async def add_challengers(server: Server, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Challengers one after another, while the champion is asked all the time."""
    watch = Watch(server, texts)
    task = asyncio.create_task(watch.run())
    took, during = [], []
    windows: dict[str, list[float]] = {}
    await asyncio.sleep(2.0)
    start_of_all = time.perf_counter()
    await asyncio.sleep(seconds)
    windows["before"] = watch.between(start_of_all, time.perf_counter())
    for name in CHALLENGERS:
        began = time.perf_counter()
        server.tell(f"{MODEL} {name}")
        await ready(dataclasses.replace(server, body=named_body(name)), 60, every=0.02)
        ended = time.perf_counter()
        took.append(ended - began)
        await asyncio.sleep(1.0)
        during += watch.between(began, ended)
    windows["during"] = during
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    windows["after, nobody asks it"] = watch.between(began, time.perf_counter())
    began = time.perf_counter()
    other = dataclasses.replace(server, body=named_body(CHALLENGERS[-1]))
    await load(other, texts, in_flight=1, seconds=seconds)
    windows["after, asked beside"] = watch.between(began, time.perf_counter())
    watch.done = True
    await task
    return {
        "seconds_until_served": [round(value, 3) for value in took],
        "champion": {name: _percentiles(of) for name, of in windows.items()},
    }


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        "requests": len(ordered),
        "p50_ms": round(ordered[len(ordered) // 2], 1),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 1),
        "max_ms": round(ordered[-1], 1),
    }


async def throughput(
    sides: Mapping[str, Server], texts: Sequence[str], rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Requests per second of each, in alternating rounds at 8 in flight."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sides if number % 2 else reversed(list(sides)):
            found[name].append(await load(sides[name], texts, in_flight=8, seconds=seconds))
    base = [run.requests_per_second for run in found["base"]]
    return {
        name: {
            "requests_per_second": round(statistics.median(m.requests_per_second for m in runs), 1),
            "p50_ms": round(statistics.median(m.p50_ms for m in runs), 1),
            "p95_ms": round(statistics.median(m.p95_ms for m in runs), 1),
            "of_base": round(
                statistics.median(
                    m.requests_per_second / b for m, b in zip(runs, base, strict=True)
                ),
                2,
            ),
        }
        for name, runs in found.items()
    }


def serve(name: str, *releases: str) -> Server:
    """The model server with vLLM."""
    program = [sys.executable, str(HERE / "adapters_server.py"), "{port}", *releases]
    return start(name, program, "/classify")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Start, measure, stop."""
    texts = questions()
    champion, challenger = llm_variant("w8a8", 0), llm_variant("w8a8", 1)
    merged = llm_variant("merged-w8a8", 0)
    base = read_description(champion).base
    assert base is not None
    named = [f"{MODEL}={champion}", *(f"{name}={challenger}" for name in CHALLENGERS)]
    servers = [serve("lora", *named)]
    try:
        began = time.perf_counter()
        await ready(servers[0], 300)
        first = time.perf_counter() - began
        report = await add_challengers(servers[0], texts, options.watch)
        report["seconds_until_first_release"] = round(first, 1)
        servers.append(serve("merged", f"{MODEL}={merged}"))
        await ready(servers[1], 300)
        urls = [server.vllm_url() + "/v1/completions" for server in servers]
        sides = {
            "base": dataclasses.replace(servers[0], url=urls[0], body=choose_body(base.id, merged)),
            "adapter": dataclasses.replace(
                servers[0], url=urls[0], body=choose_body(MODEL, merged)
            ),
            "merged": dataclasses.replace(servers[1], url=urls[1], body=choose_body(MODEL, merged)),
            "adapter, through the model server": servers[0],
        }
        report["throughput"] = await throughput(sides, texts, options.rounds, options.seconds)
        return report
    finally:
        for server in servers:
            server.stop()


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="Of one measurement.")
    parser.add_argument("--watch", type=float, default=10.0, help="Seconds of each window.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if reason := missing():
        print(f"lora: nothing measured, {reason}")
        return
    report = asyncio.run(run(options))
    waits = ", ".join(f"{value:.2f} s" for value in report["seconds_until_served"])
    print(f"the first release of a base: {report['seconds_until_first_release']} s")
    print(f"challengers on the running server, until they answered: {waits}")
    watched = Table(title=f"The champion meanwhile, {IN_FLIGHT} in flight")
    watched.add_column("challenger")
    for column in ("requests", "p50", "p95", "longest"):
        watched.add_column(column, justify="right")
    for name, row in report["champion"].items():
        times = [f"{row[key]:.0f} ms" for key in ("p50_ms", "p95_ms", "max_ms")]
        watched.add_row(name, str(row["requests"]), *times)
    rates = Table(title=f"8 in flight (median of {options.rounds} rounds)")
    rates.add_column("served")
    for column in ("requests/s", "p50", "p95", "of base"):
        rates.add_column(column, justify="right")
    for name, row in report["throughput"].items():
        rates.add_row(
            *(name, f"{row['requests_per_second']:.1f}", f"{row['p50_ms']:.0f} ms"),
            *(f"{row['p95_ms']:.0f} ms", f"{row['of_base']:.2f}"),
        )
    for table in (watched, rates):
        Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "lora.json").write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
