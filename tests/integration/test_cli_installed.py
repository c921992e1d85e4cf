"""The command as it is installed, and a folder that nothing could run in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flywheel.cli import cli
from flywheel.errors import FlywheelError
from flywheel.ops.workspace import prepare
from flywheel.settings import load_settings


def test_a_comma_in_the_path_is_refused_before_kafka_would_split_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "one,two"
    assert CliRunner().invoke(cli, ["-w", str(folder), "init"]).exit_code == 0
    with pytest.raises(FlywheelError, match="comma"):
        prepare(load_settings(folder, {}))


def test_the_installed_command_fails_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flywheel", "-w", str(tmp_path), "status"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
