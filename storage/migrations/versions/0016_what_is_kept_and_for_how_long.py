"""what was removed, and why; what it came to; what must not come back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "gone_totals",
        sa.Column("total", sa.String(), nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("total", "part", "place"),
    )
    op.create_table(
        "retention_closed",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("before", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("task", "kind"),
    )
    op.create_table(
        "retention_images",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "archive_files",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("begun_at", _MOMENT, nullable=False),
        sa.Column("written", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_archive_files_task", "archive_files", ["task", "source", "day"])
    op.create_table(
        "erasures",
        sa.Column("erasure_id", sa.String(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=True),
        sa.Column("finished_at", _MOMENT, nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("holds", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("erasure_id"),
    )
    op.create_table(
        "erased_samples",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("erasure_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "erased_users",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("until", _MOMENT, nullable=False),
        sa.Column("erasure_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "pruned_releases",
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("release"),
    )
    op.create_index("ix_evidence_scores_time", "evidence_scores", ["task", "occurred_at"])
    op.create_index("ix_review_tasks_time", "review_tasks", ["task", "requested_at"])


def downgrade() -> None:
    op.drop_index("ix_review_tasks_time", table_name="review_tasks")
    op.drop_index("ix_evidence_scores_time", table_name="evidence_scores")
    for table in (
        "pruned_releases",
        "erased_users",
        "erased_samples",
        "erasures",
        "archive_files",
        "retention_images",
        "retention_closed",
        "gone_totals",
    ):
        op.drop_table(table)
