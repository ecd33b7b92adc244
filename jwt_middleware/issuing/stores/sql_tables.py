"""How are sessions laid out in PostgreSQL? The tables, for SQLAlchemy and for migration tools."""

from functools import cache

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    event,
)

from .sql_statements import Names

FILLFACTOR = 80
"""Per cent of a page that are filled with new sessions: a refresh finds room for its new row on the same page."""

VACUUM_SCALE = 0.02
"""The share of changed rows at which autovacuum runs. The default, a fifth, would let the tables grow first."""


@cache
def tables(names: Names) -> MetaData:
    """The tables that go by ``names``."""
    metadata = MetaData(schema=names.schema)
    # The collation "C" compares bytes: it is fast, and no update of the operating system changes its order.
    text = String(collation="C")
    sessions = Table(
        f"{names.prefix}sessions",
        metadata,
        Column("id", text, primary_key=True),
        Column("layout", SmallInteger, nullable=False),
        Column("realm", text, nullable=False),
        # A digest of realm and subject, which may be too long for an index.
        Column("owner", LargeBinary, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Column("parent", BigInteger),
        Column("is_used", Boolean, nullable=False),
        *(Column(name, Float(53), nullable=False) for name in MOMENTS),
        # The day of `expires_at`. An index on `expires_at` itself would have to change with each refresh.
        Column("over_day", Integer, nullable=False),
        # The mark of the last step that changed the row, and its outcome: a step that is sent twice is done once.
        Column("attempt", text, nullable=False),
        Column("granted", text, nullable=False),
    )
    Index(f"{names.prefix}sessions_by_owner", sessions.c.owner)
    Index(f"{names.prefix}sessions_by_end", sessions.c.over_day)
    revocations = Table(
        f"{names.prefix}revocations",
        metadata,
        # A digest of realm, claim and value.
        Column("key", LargeBinary, primary_key=True),
        Column("number", BigInteger, nullable=False),
        Column("mark", text, nullable=False),
        Column("realm", text, nullable=False),
        Column("claim", text, nullable=False),
        Column("value", text, nullable=False),
        Column("until", Float(53), nullable=False),
    )
    Index(f"{names.prefix}revocations_by_number", revocations.c.number, unique=True)
    Index(f"{names.prefix}revocations_by_end", revocations.c.until)
    Table(
        f"{names.prefix}head",
        metadata,
        # There is one row, whose id is 1.
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        # The layout of the tables, and the oldest one whose stores still work with them.
        Column("layout", SmallInteger, nullable=False),
        Column("oldest", SmallInteger, nullable=False),
        # The last revocation that was written, even if it was swept away since then.
        Column("number", BigInteger, nullable=False),
        Column("mark", text, nullable=False),
        # Steady time.
        Column("seen", Float(53), nullable=False),
        Column("shift", Float(53), nullable=False),
    )
    for table in metadata.tables.values():
        options = f"fillfactor = {FILLFACTOR}, autovacuum_vacuum_scale_factor = {VACUUM_SCALE}"
        event.listen(table, "after_create", DDL(f"ALTER TABLE %(fullname)s SET ({options})"))  # type: ignore[no-untyped-call]
    return metadata


MOMENTS = ("opened_at", "rotated_at", "used_at", "ends_at", "expires_at", "access_until")
