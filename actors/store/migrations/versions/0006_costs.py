"""What batches cost."""

import sqlalchemy as sa
from alembic import op

from actors.store.migrations.types import TEXT

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the columns. What was done before has cost nothing that is known."""
    op.create_table(
        "costs",
        sa.Column("job_id", TEXT, primary_key=True, nullable=False),
        sa.Column("machines", sa.Integer, nullable=False),
        sa.Column("spawns", sa.Integer, nullable=False),
        sa.Column("starts", sa.Integer, nullable=False),
        sa.Column("machine_ms", sa.BigInteger, nullable=False),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
    )
    op.add_column("machines", sa.Column("price", sa.BigInteger))
    op.add_column("machines", sa.Column("charged_at", sa.BigInteger))
    op.add_column("jobs", sa.Column("retries", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("throttled_ms", sa.BigInteger, nullable=False, server_default="0"))
