"""draws have a salt that no client knows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A table of salts; tasks that have a dataset keep the holdout they have."""
    op.create_table(
        "draw_salts",
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("purpose"),
    )
    op.execute(
        "INSERT INTO draw_salts (purpose, salt)"
        " SELECT DISTINCT 'dataset:' || task, '' FROM datasets"
    )


def downgrade() -> None:
    """Draws are by what clients know again."""
    op.drop_table("draw_salts")
