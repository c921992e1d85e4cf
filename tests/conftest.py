"""Fixtures that every folder of tests shares."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest_plugins = ["kafka_fixture", "s3_server", "schedule"]

# Models of tests are tiny, and workers share the cores: threads that wait for each other take more
# than they give. Torch and numpy read this when they are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No example is timed: machines differ. In CI the examples are the same every time, so that a change
# is judged by what it changed; elsewhere each run looks at new ones.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """A turn that a test runs in this process sets variables for the stages that it starts."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
