"""evidence knows the step that it was made in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("evidence_scores", sa.Column("challenger_share", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("evidence_scores", schema=None) as batch_op:
        batch_op.drop_column("challenger_share")
