"""Fixtures that every folder of tests shares."""

import os

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
