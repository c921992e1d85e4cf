"""consumer groups have positions instead of every event that they handled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A group that has handled anything is marked: its positions begin at what is committed."""
    positions = op.create_table(
        "positions",
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("log", sa.String(), nullable=False),
        sa.Column("next", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("gaps", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "topic", "partition"),
    )
    seen = sa.table("seen", sa.column("consumer"))
    counted = sa.select(seen.c.consumer, sa.func.count().label("events")).group_by(seen.c.consumer)
    marks = [
        {"consumer": row.consumer, "topic": "", "partition": -1, "log": "", "next": 0}
        | {"records": row.events, "gaps": []}
        for row in op.get_bind().execute(counted)
    ]
    if marks:
        op.bulk_insert(positions, marks)
    op.drop_table("seen")
    op.create_table(
        "review_words",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("sample_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task", "sample_id"),
    )


def downgrade() -> None:
    op.drop_table("review_words")
    op.create_table(
        "seen",
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "event_id"),
        sqlite_with_rowid=False,
    )
    op.drop_table("positions")
