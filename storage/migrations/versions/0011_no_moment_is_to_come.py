"""what writers dated ahead is dated to the upgrade: later words come after it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flywheel.contracts.ids import utc_now
from storage.tables.columns import UtcDateTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_DATED = ("traffic", "labels", "settled_labels", "evidence_scores", "evidence_truths")


def upgrade() -> None:
    now = utc_now()
    for name in _DATED:
        table = sa.table(name, sa.column("occurred_at", UtcDateTime))
        op.execute(sa.update(table).where(table.c.occurred_at > now).values(occurred_at=now))


def downgrade() -> None:
    """When they were said to have been is not known any more."""
