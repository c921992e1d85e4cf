"""labelled samples that never came are counted as they come in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Counted when the database is next opened (``storage.totals``)."""
    op.create_table(
        "waiting_totals",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task"),
    )


def downgrade() -> None:
    op.drop_table("waiting_totals")
