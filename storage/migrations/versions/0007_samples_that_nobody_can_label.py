"""samples that nobody can label."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SAID_OF = ("review_answers", "labels", "evidence_truths")


def upgrade() -> None:
    """An answer, a settlement and a truth may say that there is no label; a settlement has none."""
    for table in _SAID_OF:
        # The default is for the rows that are there, and for SQLite, which asks for one.
        op.add_column(
            table,
            sa.Column("unlabelable", sa.Boolean(), nullable=False, server_default=sa.false()),
        )
    with op.batch_alter_table("review_outcomes") as batch:
        batch.alter_column("value", existing_type=sa.String(), nullable=True)


def downgrade() -> None:
    """Samples that nobody can label are open again."""
    op.execute("DELETE FROM review_answers WHERE unlabelable")
    op.execute("DELETE FROM review_outcomes WHERE value IS NULL")
    with op.batch_alter_table("review_outcomes") as batch:
        batch.alter_column("value", existing_type=sa.String(), nullable=False)
    for table in _SAID_OF:
        op.drop_column(table, "unlabelable")
