"""seed labels are counted apart from experts'."""

# ruff: noqa: S608 - the names put into statements are those written here

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of what is there, experts' labels go on including them: nothing tells how many."""
    for table in ("datasets", "releases"):
        op.add_column(
            table, sa.Column("seed_labels", sa.Integer(), nullable=False, server_default="0")
        )


def downgrade() -> None:
    """Count them as experts' again."""
    for table in ("datasets", "releases"):
        op.execute(f"UPDATE {table} SET expert_labels = expert_labels + seed_labels")
        op.drop_column(table, "seed_labels")
