"""The plain way to classify: transformers in FP32, one process, batches in the order they come.

    python transformers_loop.py FOLDER TEXTS.json THREADS

Reads lines `BATCH SECONDS` or `labels` from standard input and answers each with a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Predict = Callable[[list[str]], list[int]]


def load(folder: Path, threads: int) -> Predict:
    """Texts → index of the most probable label, as its documentation would have one write it."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.set_num_threads(threads)
    about = json.loads((folder / "release.json").read_text())
    weights = load_file(folder / "model.safetensors")
    config = BertConfig.from_pretrained(folder)
    encoder = BertModel(config, add_pooling_layer=False).eval()
    encoder.load_state_dict(
        {k.removeprefix("bert."): v for k, v in weights.items() if k.startswith("bert.")},
        strict=False,
    )
    head, bias = weights["classifier.weight"].T, weights["classifier.bias"]
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def predict(texts: list[str]) -> list[int]:
        given = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=about["max_tokens"],
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = encoder(**given).last_hidden_state
            kept = given["attention_mask"][..., None].to(states.dtype)
            mean = (states * kept).sum(dim=1) / kept.sum(dim=1)
            probabilities = torch.softmax(mean @ head + bias, dim=-1)
        best: list[int] = probabilities.argmax(dim=-1).tolist()
        return best

    return predict


def measure(predict: Predict, batches: Iterator[list[str]], seconds: float) -> dict[str, Any]:
    """Texts per second, processor time of a text, and the milliseconds of a batch."""
    predict(next(batches))
    started, cpu = time.perf_counter(), time.process_time()
    took: list[float] = []
    texts = 0
    while (now := time.perf_counter()) - started < seconds:
        batch = next(batches)
        predict(batch)
        texts += len(batch)
        took.append((time.perf_counter() - now) * 1000)
    took.sort()
    return {
        "texts_per_second": texts / (time.perf_counter() - started),
        "cpu_ms": (time.process_time() - cpu) * 1000 / texts,
        "batch_p50_ms": took[len(took) // 2],
        "batch_p95_ms": took[int(len(took) * 0.95)],
    }


def endless(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Batches of ``size`` over and over."""
    ring = itertools.cycle(texts)
    while True:
        yield list(itertools.islice(ring, size))


def main() -> None:
    """Answer until standard input ends."""
    folder, texts_file, threads = sys.argv[1:]
    texts: list[str] = json.loads(Path(texts_file).read_text())
    predict = load(Path(folder), int(threads))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        if line.strip() == "labels":
            print(json.dumps([predict([text])[0] for text in texts]), flush=True)
            continue
        size, seconds = line.split()
        found = measure(predict, endless(texts, int(size)), float(seconds))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
