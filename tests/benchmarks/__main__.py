"""`make bench`: every benchmark in turn, or those named; tables here, JSON in build/bench."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    """Run each in a process of its own, so that none inherits another's memory or threads."""
    every = {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.glob("bench_*.py"))}
    names = sys.argv[1:] or list(every)
    unknown = [name for name in names if name not in every]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(every)}", file=sys.stderr)
        return 2
    failed = []
    for name in names:
        print(f"── {name}", flush=True)
        if subprocess.run([sys.executable, str(every[name])], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
