"""What Alembic runs: the connection is the caller's (`actors.store.engine.migrate`), there is no alembic.ini."""

from alembic import context

from actors.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
