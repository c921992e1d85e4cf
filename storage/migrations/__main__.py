"""``python -m storage.migrations "what changes"``: write the next revision from the tables."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from storage.engine import make_engine
from storage.migrations.upgrade import config, upgrade


def main() -> int:
    """Compare the tables with a database at the newest revision; write what differs."""
    from alembic import command

    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    versions = Path(__file__).parent / "versions"
    following = f"{len(list(versions.glob('[0-9]*.py'))) + 1:04d}"
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(f"sqlite:///{folder}/empty.db")
        if following != "0001":
            upgrade(engine)
        with engine.connect() as connection:
            command.revision(config(connection), sys.argv[1], autogenerate=True, rev_id=following)
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
