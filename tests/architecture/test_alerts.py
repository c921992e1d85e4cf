"""The alert rules, by Prometheus's own promtool (Debian's package `prometheus`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

OBSERVABILITY = Path(__file__).parents[2] / "deploy" / "observability"


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("FLYWHEEL_REQUIRE_PROMTOOL"):
        pytest.fail("promtool is missing: apt-get install prometheus")
    return found or pytest.skip("promtool is not installed")


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"],
                                     ["test", "rules", "alerts.test.yml"]])  # fmt: skip
def test_the_rules_hold_and_fire_when_they_should(promtool: str, command: list[str]) -> None:
    done = subprocess.run(
        [promtool, *command], cwd=OBSERVABILITY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
