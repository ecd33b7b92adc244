"""Which engines does SQLStore use? The app's own, and others like it. Checked at construction."""

import weakref
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from ...errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

POOL_SIZE = 8
"""Connections of a pool of the store's own. No others are opened under load: opening one costs more than waiting."""

POOL_SECONDS = 0.9
"""Seconds that a step waits for a connection of such a pool."""

MakeEngine: TypeAlias = "Callable[[], tuple[AsyncEngine, bool]]"
"""Gives the engine of the running event loop, and whether it is the store's own."""

DRIVERS = ("psycopg", "asyncpg")


def engine_maker(server: object) -> tuple[MakeEngine, tuple[type[Exception], ...]]:
    """The maker of engines for ``server``, an ``AsyncEngine`` or an address, and what their driver may raise.

    Raises ``ConfigurationError`` for anything else.
    """
    try:
        from sqlalchemy import Engine
        from sqlalchemy.ext.asyncio import AsyncEngine
    except ImportError:
        raise ConfigurationError("SQLStore needs SQLAlchemy 2; install asgi-jwt-middleware[sql]") from None
    if isinstance(server, Engine):
        raise ConfigurationError("engine must be an AsyncEngine, from create_async_engine(...), not a sync Engine")
    if isinstance(server, str):
        url = _read_address(server)
        _check_dialect(url.get_backend_name())
        engine = _from_address(url)
        _check_driver(engine.dialect.driver)
        return lambda: (_from_address(url), True), _errors(engine)
    if not isinstance(server, AsyncEngine):
        raise ConfigurationError(
            "engine must be an AsyncEngine or an address, postgresql+asyncpg://user@host/database for instance, not "
            f"{type(server).__name__}"
        )
    _check_dialect(server.dialect.name)
    _check_driver(server.dialect.driver)
    return _ThatOfTheApp(server), _errors(server)


def like(engine: "AsyncEngine") -> "AsyncEngine":
    """An engine that connects as ``engine`` does, with its events and arguments, and shares no connection with it."""
    from sqlalchemy.ext.asyncio import create_async_engine

    return create_async_engine(engine.url, pool=engine.pool.recreate(), hide_parameters=True)


class _ThatOfTheApp:
    """Gives the app's engine to the event loop that asks first, one like it to others: a connection has a loop."""

    def __init__(self, engine: "AsyncEngine") -> None:
        self._engine = engine
        self._first: weakref.ref[AbstractEventLoop] | None = None

    def __call__(self) -> "tuple[AsyncEngine, bool]":
        if self._first is None:
            self._first = weakref.ref(get_running_loop())
            return self._engine, False
        return like(self._engine), True


def _read_address(address: str) -> "URL":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        # It may hold a password.
        raise ConfigurationError(
            "engine must be an AsyncEngine or an address: postgresql+asyncpg://user:password@host:5432/database"
        ) from None
    if url.drivername in ("postgres", "postgresql"):
        # As hosting providers write it. psycopg understands all that may follow, sslmode for instance.
        driver = next((name for name in DRIVERS if find_spec(name)), DRIVERS[0])
        url = url.set(drivername=f"postgresql+{driver}")
    if url.drivername == "postgresql+asyncpg" and "sslmode" in url.query:
        raise ConfigurationError("engine: asyncpg takes ssl= in the address in place of sslmode=")
    return url


def _check_dialect(name: str) -> None:
    if name != "postgresql":
        advice = "; for SQLite there is SQLiteStore(path)" if name == "sqlite" else ""
        raise ConfigurationError(f"engine must be one of PostgreSQL, not of {name}{advice}")


def _from_address(url: "URL") -> "AsyncEngine":
    from sqlalchemy.exc import InvalidRequestError, NoSuchModuleError
    from sqlalchemy.ext.asyncio import create_async_engine

    arguments: dict[str, Any] = {}
    if url.get_driver_name() == "asyncpg" and url.query.get("prepared_statement_cache_size") == "0":
        # A pooler that gives each transaction another connection is behind this address.
        arguments = {"statement_cache_size": 0, "prepared_statement_name_func": lambda: f"__jwt_{uuid4()}__"}
    try:
        return create_async_engine(
            url,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            hide_parameters=True,
            connect_args=arguments,
        )
    except (ImportError, NoSuchModuleError):
        raise ConfigurationError(
            f"engine: the address needs the driver {url.get_driver_name()}; install asyncpg or psycopg[binary]"
        ) from None
    except InvalidRequestError:
        raise ConfigurationError(
            f"engine: the driver {url.get_driver_name()} is not asynchronous; use asyncpg or psycopg, "
            "postgresql+asyncpg://... for instance"
        ) from None


def _check_driver(name: str) -> None:
    """Refuse a psycopg that blocks the whole process if it cancels a query while the server hangs.

    Only libpq 17 cancels without waiting. Before it, the compiled psycopg waits for the server without letting other
    threads run. Before version 3.2, so does the one in Python.
    """
    if name != "psycopg":
        return
    import psycopg

    capabilities = getattr(psycopg, "capabilities", None)
    if capabilities is None or (psycopg.pq.__impl__ != "python" and not capabilities.has_cancel_safe()):
        raise ConfigurationError(
            "engine: a server that hangs would block the whole process, because this psycopg waits for the server when "
            "it cancels a query; install psycopg[binary]>=3.2.3, or psycopg[c]>=3.2 with libpq 17, or use asyncpg"
        )


def _errors(engine: "AsyncEngine") -> tuple[type[Exception], ...]:
    """The exceptions of an engine if the server or the connection fails. While it connects, they are the driver's."""
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    driver = import_module("asyncpg" if engine.dialect.driver == "asyncpg" else "psycopg")
    names = ("PostgresError", "InterfaceError", "InternalClientError", "Error")
    return (DBAPIError, PoolTimeout, OSError, *(getattr(driver, name) for name in names if hasattr(driver, name)))
