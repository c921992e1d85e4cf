"""The direction of imports, what the command line may load, and what the repository may say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "feast", "dvc", "faust", "kafka", "sqlalchemy", "fastapi"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def tracked() -> list[Path]:
    listed = run("git", "ls-files", "-z").stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_imports_go_one_way() -> None:
    linted = run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, click.testing; from flywheel.cli import cli;"
        "r = click.testing.CliRunner().invoke(cli, ['--help']); assert r.exit_code == 0, r.output;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("command", ["up", "ingest", "retrain", "rollout", "kafka", "doctor"])
def test_every_command_explains_itself(command: str) -> None:
    from click.testing import CliRunner

    from flywheel.cli import cli

    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Usage" in shown.output


def test_nothing_names_a_registry_or_a_path_of_one_machine() -> None:
    # Put together here, so that this file does not match itself.
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "maven" + ".org"]
    pattern = re.compile("|".join(map(re.escape, hosts)) + "|" + re.escape("/work" + "/"))
    found = []
    for path in tracked():
        if path.suffix in {".png", ".svg"}:
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_the_lock_is_hashed_and_has_no_addresses() -> None:
    lock = (ROOT / "requirements" / "lock.txt").read_text("utf-8")
    assert "://" not in lock
    pinned = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert pinned
    assert all("==" in line and line.endswith("\\") for line in pinned)
