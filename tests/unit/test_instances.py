"""Names of processes: a host and a free number, kept while the process lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from settings_file import TASK, load

from flywheel.contracts.file_locks import FileLock
from flywheel.errors import ConfigurationError
from flywheel.gateway.spill import SpillLog
from flywheel.processes.gateway import _named
from flywheel.processes.instance import claim

CLAIM = """
import sys, time
from pathlib import Path
from flywheel.processes.instance import claim
from flywheel.settings import load_settings
print(claim(load_settings(Path(sys.argv[1]), {}), "gateway").name, flush=True)
time.sleep(600)
"""


def started(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that claimed a name, and the name."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_each_process_has_a_name_of_its_own_which_a_killed_one_leaves(tmp_path: Path) -> None:
    settings = load(tmp_path, '[instances]\nname = "edge"\n' + TASK)
    first, name = started(tmp_path)
    assert name == "edge-1"
    second = claim(settings, "gateway")
    assert second.name == "edge-2"
    assert claim(settings, "console").name == "edge-1", "kinds are counted each by itself"
    first.kill()
    first.wait()
    third = claim(settings, "gateway")
    assert third.name == "edge-1", "a restart has the name, and what lies under it, again"
    assert third.holder != second.holder
    second.lock.release()
    assert claim(settings, "gateway").name == "edge-2"
    if first.stdout is not None:
        first.stdout.close()


def test_a_name_is_of_a_kind_of_all_or_of_the_host(tmp_path: Path) -> None:
    told = '[instances]\nname = "edge"\ngateway = "front"\n' + TASK
    settings = load(tmp_path, told)
    assert (settings.instances.of("gateway"), settings.instances.of("worker")) == ("front", "edge")
    settings = load(tmp_path, told, FLYWHEEL_INSTANCE="pod-7")
    assert (settings.instances.of("gateway"), settings.instances.of("worker")) == ("front", "pod-7")
    settings = load(tmp_path, TASK)
    name = claim(settings, "worker").name
    assert name.endswith("-1")
    assert claim(settings, "worker").name == f"{name[:-1]}2"


@pytest.mark.parametrize("name", ["../up", "a/b", "-a", ".a", "a b", "ä", "a" * 101])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"instances\.name"):
        load(tmp_path, TASK, FLYWHEEL_INSTANCE=name)


def test_a_lock_of_a_file_that_was_deleted_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    first = FileLock.take(path)
    assert first is not None
    assert FileLock.take(path) is None
    path.unlink()
    second = FileLock.take(path)
    assert second is not None
    first.release()
    assert FileLock.take(path) is None
    second.release()
    assert FileLock.take(path) is not None


def test_a_gateway_whose_spill_is_being_taken_up_takes_the_next_name(tmp_path: Path) -> None:
    settings = load(tmp_path, '[instances]\nname = "edge"\n' + TASK)
    taken_up = SpillLog(settings.layout.spill("edge-1"))
    instance, spill = _named(settings)
    assert instance.name == "edge-2"
    taken_up.close()
    spill.close()
    again, spill = _named(settings)
    assert again.name == "edge-1", "nobody keeps the name that could not be used"
    spill.close()
