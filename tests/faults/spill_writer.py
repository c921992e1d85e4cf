"""Appends numbered records to a spill log until killed, saying each number once it is safe."""

from __future__ import annotations

import sys
from pathlib import Path

from flywheel.contracts.codec import Record
from flywheel.gateway.spill import SpillLog

folder, first = Path(sys.argv[1]), int(sys.argv[2])
log = SpillLog(folder, segment_bytes=20_000)
number = first
while True:
    log.append(Record("t", str(number).encode(), b"x" * (number * 37 % 900), ()))
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()
    number += 1
