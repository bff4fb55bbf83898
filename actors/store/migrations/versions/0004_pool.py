"""Machines of a pool."""

import sqlalchemy as sa
from alembic import op

from actors.store.migrations.types import TEXT

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. The machines that there are were made for one task each."""
    op.add_column("machines", sa.Column("pool", TEXT))
