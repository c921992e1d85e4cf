"""The compress stage on a tiny encoder: real variants, real model servers, asked over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from holdout_metrics import holdout_metrics
from tiny_encoder import TOPICS, labelled, make_encoder

from flywheel.cli.compress import compress
from flywheel.compression.config import CompressionSettings
from flywheel.contracts.dataset_folder import read_manifest
from flywheel.contracts.layout import Layout
from flywheel.contracts.model_folder import read_description, write_description
from flywheel.datasets.build import build_dataset
from flywheel.datasets.config import DatasetSettings
from flywheel.errors import ArtefactError, ConfigurationError, PipelineError
from flywheel.evaluation.answered import read_predictions
from flywheel.kinds import Choice
from flywheel.ops.template import flywheel_toml
from flywheel.registry.release_folder import assemble
from flywheel.retraining.ports import Turn
from flywheel.serving.runtime import load_classifier
from flywheel.settings import load_settings
from flywheel.training.config import TrainingSettings
from flywheel.training.train import train
from flywheel.turn.compress import (
    CompressionReport,
    compare_variants,
    evaluate_chosen,
    install,
    read_comparison,
)
from flywheel.turn.measure import ServedFolder
from flywheel.turn.params import turn_params, write_params
from flywheel.turn.variants import VariantSetup

LABELS = tuple(TOPICS)
STAGES = """
import sys
from pathlib import Path
from flywheel.settings import load_settings
from flywheel.turn.stages import run_stage
for stage in ("compress", "evaluate"):
    run_stage(load_settings(Path(sys.argv[1])), stage, "topics")
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    make_encoder(root / "base")
    build_dataset(
        labelled(600, holdout=400),
        DatasetSettings(calibration_share=0.3),
        Choice(LABELS),
        task="topics",
        watermark="e",
        parent=None,
        folder=root / "data",
    )
    train(root / "data", training(root), LABELS, root / "trained")
    return root


def training(root: Path) -> TrainingSettings:
    return TrainingSettings(
        base_model=str(root / "base"),
        learning_rate=3e-3,
        head_learning_rate_factor=3.0,
        min_steps=60,
        max_tokens=32,
        threads=1,
        train_embeddings=True,
    )


def bench(root: Path, scratch: Path, **told: object) -> VariantSetup:
    fields = {"variants": ["int8-dynamic"], "measure_seconds": 0.0, "margin": 0.05} | told
    return VariantSetup(
        trained=root / "trained",
        dataset=root / "data",
        settings=CompressionSettings.model_validate(fields),
        training=training(root),
        engine="embedded",
        scratch=scratch,
        bases=scratch / "bases",
    )


def test_every_variant_is_measured_and_the_cheapest_is_installed(
    root: Path, tmp_path: Path
) -> None:
    asked = bench(root, tmp_path / "variants", measure_seconds=0.4)
    found = compare_variants(asked, tmp_path / "comparison")
    assert [row.name for row in found.rows] == ["none", "int8-dynamic"]
    for row in found.rows:
        assert row.samples == 400
        assert row.accuracy > 0.9
        assert row.speed is not None
        assert 0 < row.speed.p50_ms <= row.speed.p95_ms
        assert row.speed.per_second > 0
        assert row.speed.cost_ms > 0
        assert row.speed.memory_bytes > 50e6
    assert read_comparison(tmp_path / "comparison") == found
    assert found.row("int8-dynamic").bytes < found.row("none").bytes

    install(asked, found.chosen, tmp_path / "compressed")
    assert not (tmp_path / "variants").exists()
    report = msgspec.json.decode(
        (tmp_path / "compressed/compression.json").read_bytes(), type=CompressionReport
    )
    assert report.variant == found.chosen
    assert read_description(tmp_path / "compressed").temperature == report.temperature != 1.0


def test_metrics_come_from_what_the_chosen_one_answered_and_would_answer(
    root: Path, tmp_path: Path
) -> None:
    asked = bench(root, tmp_path / "variants")
    found = compare_variants(asked, tmp_path / "comparison")
    assert found.chosen == "int8-dynamic", "unmeasured, the smaller one is the cheaper one"
    install(asked, found.chosen, tmp_path / "compressed")
    kept = evaluate_chosen(
        tmp_path / "comparison", Choice(LABELS), tmp_path / "kept", confidence=0.95
    )
    assert "latency_p50_ms" not in kept
    fresh = holdout_metrics(
        load_classifier(tmp_path / "compressed", 1).predict,
        root / "data",
        Choice(LABELS),
        tmp_path / "fresh",
    )
    assert kept["accuracy"] == fresh["accuracy"]
    assert kept["nll"] == pytest.approx(fresh["nll"], abs=1e-3)
    pairs = zip(
        read_predictions(tmp_path / "kept/predictions.jsonl"),
        read_predictions(tmp_path / "fresh/predictions.jsonl"),
        strict=True,
    )
    for one, two in pairs:
        assert one.sample_id == two.sample_id
        assert one.scores == pytest.approx(two.scores, abs=5e-3)


def test_a_stage_that_was_ended_keeps_what_it_had_made(root: Path, tmp_path: Path) -> None:
    asked = bench(root, tmp_path / "variants")
    first = compare_variants(asked, tmp_path / "one")
    weights = tmp_path / "variants/int8-dynamic/model.safetensors"
    made = weights.stat().st_mtime_ns
    again = compare_variants(bench(root, tmp_path / "variants"), tmp_path / "two")
    assert weights.stat().st_mtime_ns == made
    for row, before in zip(again.rows, first.rows, strict=True):
        assert row.temperature == pytest.approx(before.temperature)
    weights.write_bytes(b"")
    compare_variants(bench(root, tmp_path / "variants"), tmp_path / "three")
    assert weights.stat().st_size > 1000


def test_a_variant_that_cannot_be_made_stands_in_the_table_unless_it_is_pinned(
    root: Path, tmp_path: Path
) -> None:
    told = {"recipes": {"small": {"distil_to": str(tmp_path / "nowhere")}}}
    asked = bench(root, tmp_path / "v", variants=["small", "int8-dynamic"], **told)
    found = compare_variants(asked, tmp_path / "comparison")
    row = found.row("small")
    assert (row.standing, row.samples) == ("failed", 0)
    assert "nowhere" in row.reason
    assert found.chosen == "int8-dynamic"
    pinned = bench(root, tmp_path / "v", variants=["small"], pin="small", **told)
    with pytest.raises(PipelineError, match=r"pin 'small' cannot serve"):
        compare_variants(pinned, tmp_path / "pinned")


def test_a_student_learns_from_a_teacher_that_is_served_meanwhile(
    root: Path, tmp_path: Path
) -> None:
    small = {"distil_to": "layers:1", "quantise": "none", "epochs": 1}
    told = {"recipes": {"small": small | {"teacher": str(root / "trained")}}}
    found = compare_variants(bench(root, tmp_path, variants=["small"], **told), tmp_path / "c")
    row = found.row("small")
    assert row.accuracy > 0.9
    assert row.bytes < found.row("none").bytes
    other = tmp_path / "other"
    shutil.copytree(root / "trained", other)
    described = read_description(other)
    write_description(other, msgspec.structs.replace(described, labels=("a", "b", "c")))
    told = {"recipes": {"small": small | {"teacher": str(other)}}}
    found = compare_variants(bench(root, tmp_path, variants=["small"], **told), tmp_path / "d")
    assert "gives a, b, c" in found.row("small").reason


def test_the_stages_leave_what_a_release_and_its_card_are_made_of(
    root: Path, tmp_path: Path
) -> None:
    told = {"training.threads": 1, "compression.measure_seconds": 0.4, "compression.margin": 0.05}
    text = flywheel_toml("topics", LABELS, str(root / "base"), values=told)
    (tmp_path / "flywheel.toml").write_text(text, "utf-8")
    settings = load_settings(tmp_path)
    turn = Turn(
        turn_id="t1", task="topics", state="running", stage="compress", reason="a test",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    params = turn_params(
        settings.task("topics"), turn, None, "e", parent_dataset=None, champion=None,
        engine=settings.serving.engine,
    )  # fmt: skip
    write_params(tmp_path, {"topics": params})
    shutil.copytree(root / "data", Layout(tmp_path).dataset("topics"))
    shutil.copytree(root / "trained", Layout(tmp_path).trained("topics"))
    # One process for both: what it imports takes longer than the second of them.
    subprocess.run([sys.executable, "-c", STAGES, str(tmp_path)], check=True, capture_output=True)

    comparison = Layout(tmp_path).comparison("topics")
    found = read_comparison(comparison)
    speed = found.row(found.chosen).speed
    assert speed is not None
    metrics = json.loads((Layout(tmp_path).evaluation("topics") / "metrics.json").read_bytes())
    assert metrics["latency_p50_ms"] == speed.p50_ms
    assert metrics["accuracy"] == found.row(found.chosen).accuracy
    release = assemble(
        Layout(tmp_path).compressed("topics"),
        metrics=metrics | {"comparison": msgspec.to_builtins(found)},
        manifest=read_manifest(root / "data"),
        to_root=tmp_path / "releases",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        git_commit="abc",
        parent=None,
        gate_passed=True,
        gate_reason="first release",
    )
    card = (tmp_path / "releases" / release.release / "MODEL_CARD.md").read_text("utf-8")
    assert f"| **{found.chosen}** |" in card
    assert f"as variant `{found.chosen}`" in card


def test_a_server_that_cannot_start_says_why(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    server = ServedFolder(tmp_path / "empty", engine="embedded", labels=True)
    with pytest.raises(PipelineError, match=r"release\.json"):
        server.ready(60)
    with pytest.raises(ArtefactError):
        read_comparison(tmp_path)


def test_answers_over_http_are_those_in_process_and_no_process_is_left(root: Path) -> None:
    server = ServedFolder(root / "trained", engine="embedded", labels=True)
    try:
        server.ready()
        texts = [sample.text for sample in labelled(70, seed=4)]
        for one, two in zip(
            server.answers(texts), load_classifier(root / "trained", 1).predict(texts), strict=True
        ):
            assert one == pytest.approx(two, abs=1e-3)
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(PipelineError, match="the model server is gone"):
            server.speed(texts, 60)
        with pytest.raises(PipelineError, match="the model server failed"):
            server.answers(texts)
    finally:
        server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_command_compares_any_model_by_hand(root: Path, tmp_path: Path) -> None:
    arguments = ["run", "--model", str(root / "trained"), "--dataset", str(root / "data")]
    command = [sys.executable, "-m", "flywheel", "compress", *arguments, "--seconds", "0"]
    told = subprocess.run(
        [*command, "--out", str(tmp_path / "kept"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(told.stdout)
    assert [row["name"] for row in found["rows"]] == ["none", "int8-dynamic"]
    assert (tmp_path / "kept/predictions/int8-dynamic.jsonl").exists()
    wrong = CliRunner().invoke(compress, [*arguments, "--variants", "int3"])
    assert isinstance(wrong.exception, ConfigurationError)
    assert "int3" in str(wrong.exception)
