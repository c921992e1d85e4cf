"""Fixtures that every folder of tests shares."""

import os

from hypothesis import settings

pytest_plugins = ["kafka_fixture"]

# No example is timed: machines differ. In CI the examples are the same every time, so that a change
# is judged by what it changed; elsewhere each run looks at new ones.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
