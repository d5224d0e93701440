"""What Alembic executes to migrate: uses the connection (and transaction) that it is given."""

from __future__ import annotations

from alembic import context

from llmgw_core.store.metadata import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
