"""What holds of the product's modules all together: one process imports every one of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"
IMPORT = r"""
import importlib, json, pkgutil, re, threading
import prometheus_client
import flywheel, streams, storage
for package in (flywheel, streams, storage):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not re.search(r"__main__|\.env$|\.versions", module.name):
            importlib.import_module(module.name)
ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
metrics = [
    family.name + end
    for family in prometheus_client.REGISTRY.collect()
    if family.name.startswith("flywheel_")
    for end in ends[family.type]
]
threads = [thread.name for thread in threading.enumerate()]
print(json.dumps({"threads": threads, "metrics": metrics}))
"""


@dataclass(frozen=True)
class Imported:
    """A process in which every module is imported: its threads, and the series that it exposes, as
    Prometheus names them."""

    threads: tuple[str, ...]
    metrics: frozenset[str]


@pytest.fixture(scope="module")
def imported() -> Imported:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return Imported(tuple(found["threads"]), frozenset(found["metrics"]))


def named(text: str) -> set[str]:
    return set(re.findall(r"\bflywheel_[a-z0-9_]+", text))


def test_importing_any_module_starts_nothing(imported: Imported) -> None:
    """Importing must not read configuration, open connections or start threads."""
    assert imported.threads == ("MainThread",)


def test_every_metric_in_rules_and_dashboard_is_one_that_there_is(imported: Imported) -> None:
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text("utf-8"))
    wanted = {
        name for group in rules["groups"] for rule in group["rules"] for name in named(rule["expr"])
    }
    dashboard = json.loads((OBSERVABILITY / "dashboard.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            wanted |= named(target["expr"])
    assert len(wanted) > 10
    assert wanted <= imported.metrics, wanted - imported.metrics


def test_metrics_in_the_documentation_are_ones_that_there_are(imported: Imported) -> None:
    for path in (ROOT / "docs").glob("*.md"):
        assert named(path.read_text("utf-8")) <= imported.metrics, path
