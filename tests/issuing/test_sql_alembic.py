"""Alembic writes the tables of a store into a migration, as the documentation shows, and finds nothing more to do."""

from io import StringIO
from pathlib import Path
from secrets import token_hex

import alembic.command
import pytest
from alembic.config import Config

from jwt_middleware.issuing import SQLStore
from jwt_middleware.issuing.rotation import Outcome

from ..support.postgres import PostgresServer
from .store_steps import opened, rotated_by

pytestmark = pytest.mark.anyio

ENVIRONMENT = """
from alembic import context
from sqlalchemy import Column, Integer, MetaData, NullPool, Table, create_engine

from jwt_middleware.issuing import SQLStore

config = context.config
url, schema = config.get_main_option("sqlalchemy.url"), config.get_main_option("schema")
your_metadata = MetaData()
Table("orders", your_metadata, Column("id", Integer, primary_key=True), schema=schema)
store = SQLStore(url, schema=schema, prefix="auth_")
target_metadata = [your_metadata, store.metadata]

def include_name(name, type_, parents):
    return type_ != "schema" or name == schema

with create_engine(url, poolclass=NullPool).connect() as connection:
    context.configure(
        connection=connection, target_metadata=target_metadata, include_schemas=True, include_name=include_name,
        version_table_schema=schema,
    )
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_migration_of_alembic_makes_the_tables_and_then_nothing_is_left_to_do(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    schema = f"schema{token_hex(4)}"
    with postgres.connect() as admin:
        admin.execute(f"CREATE SCHEMA {schema}")
    config = Config(stdout=StringIO())
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("sqlalchemy.url", postgres.url("psycopg").replace("%", "%%"))
    config.set_main_option("schema", schema)
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    (tmp_path / "versions").mkdir()
    template = Path(alembic.command.__file__).parent / "templates" / "generic" / "script.py.mako"
    (tmp_path / "script.py.mako").write_text(template.read_text())
    alembic.command.revision(config, "sessions", autogenerate=True)
    alembic.command.upgrade(config, "head")
    # Raises if there were another migration to write.
    alembic.command.check(config)
    store = SQLStore(postgres.url("asyncpg"), schema=schema, prefix="auth_")
    await opened(store)
    assert await rotated_by(store, 1, grace=0) == (Outcome.NEXT, 2)
    with postgres.connect() as admin:
        admin.execute(f"DROP TABLE {schema}.auth_sessions, {schema}.auth_revocations, {schema}.auth_head")
    # Tables that the store has made itself need no migration either.
    await store.create_tables()
    alembic.command.check(config)
    await store.aclose()
