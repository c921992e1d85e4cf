"""Prints the part of a hashed lock that a list of requirements names: the image needs no more.

Usage: python runtime_lock.py LOCK NAMES > RUNTIME_LOCK, where NAMES is the resolution of what runs
(no development groups), one ``name==version`` a line, made with LOCK as its constraints. Ends with
1 when NAMES has a version that LOCK does not.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")


def entries(lock: str) -> dict[tuple[str, str], str]:
    """(name, version) → the entry's lines, hashes included."""
    found: dict[tuple[str, str], str] = {}
    key = None
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            key = (pin[1].lower(), pin[2])
            found[key] = ""
        if key is not None and not line.lstrip().startswith("#"):
            found[key] += line + "\n"
    return found


def subset(lock: str, names: str) -> str:
    """The entries of ``lock`` for ``names``. Raises KeyError for one that is not there."""
    known = entries(lock)
    pins = [pin for line in names.splitlines() if (pin := _PIN.match(line))]
    return "".join(known[pin[1].lower(), pin[2]] for pin in pins)


if __name__ == "__main__":
    try:
        print(subset(*(Path(name).read_text("utf-8") for name in sys.argv[1:3])), end="")
    except KeyError as missing:
        sys.exit(f"not in the lock: {'=='.join(missing.args[0])}")
