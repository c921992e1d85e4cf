"""releases have addresses instead of paths."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is there lies at its id in the workspace that made it, which the path only repeated."""
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("address", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("base_address", sa.String(), nullable=True))
        batch_op.drop_column("path")


def downgrade() -> None:
    with op.batch_alter_table("releases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("path", sa.String(), nullable=False, server_default=""))
        batch_op.drop_column("base_address")
        batch_op.drop_column("address")
