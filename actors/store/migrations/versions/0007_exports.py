"""When exports are removed."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns: batches have none."""
    op.add_column("jobs", sa.Column("removed_since", sa.BigInteger))
    op.add_column("jobs", sa.Column("expires_at", sa.BigInteger))
