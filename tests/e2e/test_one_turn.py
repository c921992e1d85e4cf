"""One whole turn on a small sample: real Kafka, real processes, real training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from demo_run import report, start_demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """(workspace, exit code) of a demo of one turn."""
    folder = tmp_path_factory.mktemp("turn") / "workspace"
    demo = start_demo(folder, "--turns", "1", "--no-drill", "--holdout", "200")
    try:
        return folder, demo.wait(600)
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(60)


def run(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def test_the_wheel_turns_and_the_report_says_so(turned: tuple[Path, int]) -> None:
    folder, code = turned
    found = report(folder)
    assert code == 0, (folder.parent / "demo.log").read_text("utf-8")[-4000:]
    first, second = found["releases"]
    assert first["release"] != second["release"]
    assert first["dataset_version"] != second["dataset_version"]
    assert second["expert_labels"] > first["expert_labels"]
    assert first["accuracy_low"] <= first["accuracy"] <= first["accuracy_high"]
    assert second["outcome"] in {"promoted", "rolled_back"}
    assert second["reason"]
    assert second["p50_ms"] <= second["p95_ms"]


def test_every_request_is_recorded_once(turned: tuple[Path, int]) -> None:
    counts: dict[str, Any] = report(turned[0])["counts"]
    assert counts["requests"] > 50
    assert counts["traffic_recorded"] == counts["requests"]
    assert counts["failed_requests"] == counts["lost"] == counts["doubled"] == 0


def test_datasets_are_versions_in_git_and_dvc(turned: tuple[Path, int], tmp_path: Path) -> None:
    folder, _ = turned
    versions = [row["dataset_version"] for row in report(folder)["releases"]]
    subprocess.run(["git", "--version"], check=True, capture_output=True)
    tags = subprocess.run(
        ["git", "tag", "--list"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    for version in versions:
        assert version in tags
    assert "data" in run(folder, "dvc", "list", ".")
    assert "train@questions" in run(folder, "dvc", "dag")
    out = tmp_path / "first"
    run(folder, "flywheel", "datasets", "checkout", versions[0], str(out))
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert manifest["version"] == versions[0]
    assert (out / "train.jsonl").read_text("utf-8").count("\n") > 10


def test_releases_name_their_data_and_files(turned: tuple[Path, int]) -> None:
    folder, _ = turned
    for row in report(folder)["releases"]:
        release = folder / ".flywheel" / "releases" / row["release"]
        assert (release / "MODEL_CARD.md").exists()
        assert row["dataset_version"] in (release / "MODEL_CARD.md").read_text("utf-8")
