"""leases have tokens, and the controller has them too; ticks are reserved."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What was held before runs out meanwhile: whoever held it has to start anew."""
    op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.drop_table("turn_leases")
    if op.get_bind().dialect.name == "postgresql":
        # Ticks that several workers reserve at once: later than all that were given.
        op.execute("CREATE SEQUENCE label_ticks")
        op.execute("SELECT setval('label_ticks', 1 + coalesce(max(ticks), 0)) FROM label_clocks")


def downgrade() -> None:
    op.create_table(
        "turn_leases",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("task"),
    )
    op.drop_table("leases")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP SEQUENCE label_ticks")
