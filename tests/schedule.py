"""How xdist's workers share the files: what is long first, and vLLM's servers one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

# Each starts vLLM, which takes gigabytes: one worker runs them all.
VLLM = frozenset(
    {
        "tests/contract/test_serving_contract.py",
        "tests/contract/test_serving_vllm_adapters.py",
        "tests/faults/test_vllm_kill.py",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """vLLM's files begin, the longest of the slow part; unit tests, which are short, fill the end.

    pytest-randomly's order stays within each part. xdist keeps it by ``--no-loadscope-reorder``.
    """
    items.sort(key=lambda item: _turn(_file(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """``--dist loadfile``, but for vLLM's files."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = _file(nodeid)
            return "vllm" if file in VLLM else file

    return ByFile(config, log)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _turn(file: str) -> int:
    if file in VLLM:
        return 0
    return 2 if file.startswith("tests/unit/") else 1
