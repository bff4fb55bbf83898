"""The first schema: jobs, tasks, files, machines, singletons."""

import sqlalchemy as sa
from alembic import op

from actors.store.migrations.types import BIG_COUNT, TEXT

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "jobs",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("phases", TEXT, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("placement", TEXT),
        sa.Column("alarm_at", sa.BigInteger),
        sa.Column("tasks_total", sa.Integer, nullable=False),
        sa.Column("tasks_completed", sa.Integer, nullable=False),
        sa.Column("tasks_failed", sa.Integer, nullable=False),
        sa.Column("tasks_in_flight", sa.Integer, nullable=False),
        sa.Column("files_total", sa.Integer, nullable=False),
        sa.Column("history", TEXT, nullable=False),
        sa.Column("error", TEXT),
        sa.Column("code", TEXT),
        sa.Column("refused_since", sa.BigInteger),
        sa.Column("delivery", TEXT, nullable=False),
        sa.Column("delivery_tries", sa.Integer, nullable=False),
        sa.Column("delivery_at", sa.BigInteger),
        sa.Column("delivery_error", TEXT),
        sa.Column("delivered_runs", sa.Integer, nullable=False),
        sa.Column("body_digest", TEXT),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("source_cursor", TEXT),
        sa.Column("owner", TEXT),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("queued_at", sa.BigInteger),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
    )
    op.create_index("jobs_alarm", "jobs", ["alarm_at"])
    op.create_index("jobs_completed", "jobs", ["completed_at"])
    op.create_index("jobs_created", "jobs", ["created_at", "id"])
    op.create_index("jobs_delivery", "jobs", ["delivery", "delivery_at"])
    op.create_index("jobs_placement", "jobs", ["state", "placement", "created_at"])
    op.create_index("jobs_state", "jobs", ["state", "created_at", "id"])
    op.create_table(
        "tasks",
        sa.Column("job_id", TEXT, primary_key=True, nullable=False),
        sa.Column("phase", sa.Integer, primary_key=True, nullable=False),
        sa.Column("n", sa.Integer, primary_key=True, nullable=False),
        sa.Column("task_id", TEXT, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("input_r2_key", TEXT, nullable=False),
        sa.Column("output_r2_key", TEXT, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("machine", TEXT),
        sa.Column("claim", TEXT),
        sa.Column("assigned_at", sa.BigInteger),
        sa.Column("heard_at", sa.BigInteger),
        sa.Column("deadline_at", sa.BigInteger),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("error", TEXT),
        sa.Column("output_file_name", TEXT),
        sa.Column("output_file_size", sa.BigInteger),
        sa.Column("performance", TEXT),
        sa.Column("cpu_ms", sa.BigInteger),
        sa.Column("pages", BIG_COUNT),
        sa.Column("notes", TEXT, nullable=False),
    )
    op.create_index("tasks_output", "tasks", ["job_id", "output_r2_key"])
    op.create_index("tasks_status", "tasks", ["job_id", "status", "phase", "run", "not_before", "n"])
    op.create_index("tasks_task_id", "tasks", ["job_id", "task_id"], unique=True)
    op.create_table(
        "files",
        sa.Column("job_id", TEXT, primary_key=True, nullable=False),
        sa.Column("phase", sa.Integer, primary_key=True, nullable=False),
        sa.Column("n", sa.Integer, primary_key=True, nullable=False),
        sa.Column("doc", TEXT, nullable=False),
        sa.Column("r2_key", TEXT, nullable=False),
    )
    op.create_index("files_key", "files", ["job_id", "r2_key"])
    op.create_table(
        "machines",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("name", TEXT),
        sa.Column("provider", TEXT, nullable=False),
        sa.Column("provider_id", TEXT),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("job_id", TEXT),
        sa.Column("task_id", TEXT),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("reason", TEXT),
    )
    op.create_index("machines_state", "machines", ["state", "ended_at"])
    op.create_table(
        "singletons",
        sa.Column("name", TEXT, primary_key=True, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop everything."""
    for table in ("singletons", "machines", "files", "tasks", "jobs"):
        op.drop_table(table)
