"""Tasks that need a machine with more memory."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Of the tasks that there are none is known to need more."""
    op.add_column("tasks", sa.Column("memory_mb", sa.Integer))
