"""totals are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:  # noqa: PLR0915, RUF100
    op.create_table(
        "evidence_clocks",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("ticks", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task"),
    )
    op.create_table(
        "kept_totals",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "new_label_totals",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("watermark", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "watermark", "source", "split"),
    )
    op.create_table(
        "release_audits",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("sample_id", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("label", sa.String(), nullable=True),
        sa.Column("correct", sa.Boolean(), nullable=False),
        sa.Column("inclusion_probability", sa.Float(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task", "sample_id", "release"),
    )
    with op.batch_alter_table("release_audits", schema=None) as batch_op:
        batch_op.create_index("ix_release_audits_seq", ["task", "release", "seq"], unique=False)

    op.create_table(
        "review_totals",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "state"),
    )
    op.create_table(
        "rollout_judged",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("sample_id", sa.String(), nullable=False),
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("champion", sa.Boolean(), nullable=True),
        sa.Column("champion_live", sa.Boolean(), nullable=True),
        sa.Column("challenger", sa.Boolean(), nullable=True),
        sa.Column("challenger_live", sa.Boolean(), nullable=True),
        sa.Column("inclusion_probability", sa.Float(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task", "sample_id", "rollout_id"),
    )
    with op.batch_alter_table("rollout_judged", schema=None) as batch_op:
        batch_op.create_index("ix_rollout_judged_seq", ["rollout_id", "seq"], unique=False)

    op.create_table(
        "rollout_latencies",
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "share", "arm", "bucket"),
    )
    op.create_table(
        "rollout_totals",
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "share", "arm", "live"),
    )
    op.create_table(
        "rollout_units",
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "since", "arm", "unit"),
    )
    op.create_table(
        "rollout_windows",
        sa.Column("rollout_id", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("arm", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("heaviest", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "since", "arm"),
    )
    op.create_table(
        "sample_totals",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task"),
    )
    op.create_table(
        "settled_totals",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("through_gateway", sa.Boolean(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "source", "split", "through_gateway"),
    )
    op.create_table(
        "settled_values",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "value", "source", "split"),
    )
    op.create_table(
        "source_totals",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("confidences", sa.BigInteger(), nullable=False),
        sa.Column("confidence", sa.BigInteger(), nullable=False),
        sa.Column("experts", sa.BigInteger(), nullable=False),
        sa.Column("corrections", sa.BigInteger(), nullable=False),
        sa.Column("latest", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task", "source"),
    )
    op.create_table(
        "traffic_buckets",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("challenger", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "size", "start"),
    )
    op.create_table(
        "traffic_totals",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("first", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task", "release"),
    )
    with op.batch_alter_table("review_claims", schema=None) as batch_op:
        batch_op.create_index("ix_review_claims_expiry", ["task", "expires_at"], unique=False)

    with op.batch_alter_table("review_tasks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("state", sa.String(), server_default="open", nullable=False))
        batch_op.create_index(
            "ix_review_tasks_age", ["task", "state", "requested_at"], unique=False
        )

    # Nobody looks for these any more, and every row paid for them.
    op.drop_index("ix_evidence_scores_release", "evidence_scores")
    op.drop_index("ix_evidence_truths_audit", "evidence_truths")
    op.drop_index("ix_traffic_source", "traffic")


def downgrade() -> None:  # noqa: PLR0915, RUF100
    op.create_index("ix_evidence_scores_release", "evidence_scores", ["release"])
    op.create_index("ix_evidence_truths_audit", "evidence_truths", ["task", "audit"])
    op.create_index("ix_traffic_source", "traffic", ["source"])
    with op.batch_alter_table("review_tasks", schema=None) as batch_op:
        batch_op.drop_index("ix_review_tasks_age")
        batch_op.drop_column("state")

    with op.batch_alter_table("review_claims", schema=None) as batch_op:
        batch_op.drop_index("ix_review_claims_expiry")

    op.drop_table("traffic_totals")
    op.drop_table("traffic_buckets")
    op.drop_table("source_totals")
    op.drop_table("settled_values")
    op.drop_table("settled_totals")
    op.drop_table("sample_totals")
    op.drop_table("rollout_windows")
    op.drop_table("rollout_units")
    op.drop_table("rollout_totals")
    op.drop_table("rollout_latencies")
    with op.batch_alter_table("rollout_judged", schema=None) as batch_op:
        batch_op.drop_index("ix_rollout_judged_seq")

    op.drop_table("rollout_judged")
    op.drop_table("review_totals")
    with op.batch_alter_table("release_audits", schema=None) as batch_op:
        batch_op.drop_index("ix_release_audits_seq")

    op.drop_table("release_audits")
    op.drop_table("new_label_totals")
    op.drop_table("kept_totals")
    op.drop_table("evidence_clocks")
