"""What does an error of PostgreSQL or its driver mean, and what should the operator do? Pure."""

REPEATABLE = frozenset({"40001", "40P01"})
"""The states of a transaction that was rolled back for another's sake: it may be done again."""

UNPREPARED = frozenset({"26000", "42P05"})
"""The states of a statement that was not run because a pooler has mixed up prepared statements."""

OUTDATED = frozenset({"40001", "42P01", "42703"})
"""The states of a statement that failed because its session or its tables have changed: a table or a column is missing,
or the session is no longer READ COMMITTED, because its role or its database was set to another isolation level."""


def state(error: BaseException) -> str | None:
    """The SQLSTATE of an error of the server, whichever driver raised it. None if the server raised none."""
    for one in (error, getattr(error, "orig", None)):
        found = getattr(one, "sqlstate", None)
        if isinstance(found, str):
            return found
    return None


def explain(error: BaseException) -> str:
    """A text about ``error`` for the log.

    The message of a server may repeat the values of a statement, with the id of a session among them. So no message
    of a server is repeated, only what its state means.
    """
    found = state(error)
    if found is not None:
        return f"{found}: {_STATES.get(found) or _CLASSES.get(found[:2], 'the server refuses the statement')}"
    cause = getattr(error, "orig", None) or error
    name = type(cause).__name__
    text = str(cause)
    # psycopg does not say the state of an error that came while it connected. Its text also names the host.
    for words, meaning in _WORDS:
        if words in text:
            return f"{name}: {meaning}"
    if isinstance(cause, ConnectionRefusedError):
        return f"{name}: {_REFUSED}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{name}: {cause.strerror}"
    return f"{name}: the connection to the server failed"


_PASSWORD = "the server refuses the user name or password; check those of the address"
_DATABASE = "the server has no such database; check the last part of the address, or create it"
_ROLE = "the server has no such role, or does not let it log in"
_FULL = "the server has no connection left; use smaller pools, or raise max_connections"
_REFUSED = "the server does not listen there"
_STARTING = "the server is starting or shutting down"

_STATES = {
    "25006": "the server only reads, as a replica does; the address must lead to the primary",
    "26000": "a pooler mixes up prepared statements; turn them off in the engine, as the documentation shows",
    "28000": _ROLE,
    "28P01": _PASSWORD,
    "3D000": _DATABASE,
    "3F000": "the schema is missing; create it, or name another with schema=",
    "40001": "other transactions were in the way again and again",
    "40P01": "other transactions were in the way again and again",
    "42501": (
        "the role lacks a privilege: it needs SELECT, INSERT, UPDATE and DELETE on the tables of the store, USAGE on "
        "their schema, and CREATE there for create_tables()"
    ),
    "42703": "a column is missing: the tables are of another layout; call await store.create_tables(), or migrate",
    "42P01": "the tables are missing; call await store.create_tables(), or migrate",
    "42P05": "a pooler mixes up prepared statements; turn them off in the engine, as the documentation shows",
    "53300": _FULL,
    "55P03": "another transaction holds a lock for longer than lock_timeout",
    "57014": "the statement took longer than statement_timeout, or was cancelled",
    "57P03": _STARTING,
}
_CLASSES = {
    "08": "the connection to the server failed",
    "53": "the server lacks resources",
    "57": _STARTING,
    "58": "the server has an error of its system; see its log",
    "XX": "the server has an internal error; see its log",
}
_WORDS = (
    ("password authentication failed", _PASSWORD),
    ("no password supplied", _PASSWORD),
    ('database "', _DATABASE),
    ('role "', _ROLE),
    ("too many clients", _FULL),
    ("remaining connection slots", _FULL),
    ("starting up", _STARTING),
    ("shutting down", _STARTING),
    ("Connection refused", _REFUSED),
    ("QueuePool limit", "no connection of the pool came free; raise pool_size or max_overflow of the engine"),
    ("SSL", "TLS failed; check the certificates, and that both sides want TLS or neither does"),
    ("sslmode", "asyncpg takes ssl= in place of sslmode="),
)
