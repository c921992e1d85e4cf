"""inputs may be messages of parts, not plain text alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TABLES = ("traffic", "review_tasks")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("messages", sa.Text(), nullable=True))


def downgrade() -> None:
    for table in _TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("messages")
