"""Sessions in Redis 6.2 or later, or in Valkey: for several machines. asyncio only."""

import json
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from inspect import signature
from math import ceil
from secrets import token_hex
from typing import Any, TypeAlias

from anyio.lowlevel import current_token

from ..._support.arguments import check_count
from ..._support.loops import PerLoop
from ...errors import ConfigurationError, StoreUnavailable
from ...events import Advice
from ...revocation.log import RevocationPage
from ...revocation.revoked import RETENTION, Claim, Revocation
from ...telling import Events
from ..rotation import Opening, Outcome, Realm, RevocationRequest, Rotation, Session
from ..session_store import SESSION_RETENTION
from ..steady import SET_BACK, UNKNOWN
from .redis_errors import explain

LAYOUT = 2
"""The layout of what this code writes. Each session begins with it, and the key ``layout`` names it."""

OLDEST = 2
"""The oldest layout whose workers can use that."""

SOCKET_SECONDS = 0.9
"""Seconds that a step waits for the server: less than a caller waits for the step."""

MAX_CONNECTIONS = 64

MakeClient: TypeAlias = Callable[[], Any]

SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")


class RedisStore:
    """A ``SessionStore`` in Redis or Valkey. Each step is one script.

    ``server``
        An address: ``redis://``, ``rediss://`` (TLS), ``valkey://``, ``valkeys://`` or ``unix://``. Or a function that
        makes a ``redis.asyncio`` client, for a cluster (``lambda: RedisCluster(host=...)``) or behind Sentinels
        (``lambda: Sentinel([...]).master_for("name")``). The function is called once for each event loop; the store
        closes the client.
    ``prefix``
        What the names of all keys begin with, in braces, so that a cluster keeps them in one slot. Default ``jwt``.
    ``wait_replicas``
        The number of replicas that must have a revocation before it counts as written (the command WAIT). Default 0: a
        failover can lose the last ones. Not with a ``RedisCluster``.

    The server needs the policy ``noeviction``: a server that evicts keys loses sessions, and forgets who has logged
    out. ``events`` tells of another policy. Raises ``ConfigurationError`` for an argument that cannot work, and if
    the extra ``redis`` is not installed.
    """

    def __init__(self, server: str | MakeClient, *, prefix: str = "jwt", wait_replicas: int = 0) -> None:
        try:
            import redis.asyncio
        except ImportError:
            raise ConfigurationError("RedisStore needs redis; install asgi-jwt-middleware[redis]") from None
        if not isinstance(prefix, str) or not prefix or not {"{", "}"}.isdisjoint(prefix):
            raise ConfigurationError(f"prefix must be a text without braces that is not empty, not {prefix!r}")
        self._make_client = server if callable(server) else _from_address(server)
        self._prefix = f"{{{prefix}}}:"
        self._wait_replicas = check_count("wait_replicas", wait_replicas)
        self.events = Events()
        self._errors = (redis.RedisError, OSError)
        self._refused = redis.ResponseError
        # The latest reading of the server's clock, in its milliseconds, that no step has written there; see steady.py.
        self._latest = 0
        # Connections belong to an event loop, and with it to a process.
        self._places = PerLoop(_Place)

    def __repr__(self) -> str:
        # The address may hold a password.
        return f"RedisStore(prefix={self._prefix[1:-2]!r})"

    async def open(self, opening: Opening, *, max_sessions: int) -> tuple[Session, tuple[Revocation, ...]]:
        """See ``SessionStore``."""
        granted = {"scopes": opening.scopes, "claims": opening.claims, "device": opening.device}
        row, *evicted = await self._run(
            "open",
            opening.id,
            _realm_text(opening.realm),
            opening.subject,
            _milliseconds(opening.idle_lifetime),
            _milliseconds(opening.session_lifetime),
            _milliseconds(opening.access_lifetime),
            json.dumps(granted),
            max_sessions,
            token_hex(8),
            self._latest,
        )
        session = _session(opening.id, row)
        self._write_latest(session)
        return session, _revocations(evicted, opening.realm)

    async def read(self, id: str, realm: Realm) -> tuple[Session | None, float]:
        """See ``SessionStore``."""
        now, row = await self._run("read", id, _realm_text(realm))
        return (None if row is None else _session(id, row)), self._see(now)

    async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
        """See ``SessionStore``."""
        outcome, row = await self._run(
            "rotate",
            rotation.id,
            _realm_text(rotation.realm),
            rotation.generation,
            _milliseconds(rotation.grace),
            _milliseconds(rotation.idle_lifetime),
            _milliseconds(rotation.access_lifetime),
            _milliseconds(rotation.deadline),
            int(rotation.reuse_until_used),
            token_hex(8),
            self._latest,
        )
        session = None if row is None else _session(rotation.id, row)
        outcome = Outcome(_text(outcome))
        if session is not None and outcome not in (Outcome.LATE, Outcome.THEFT):
            self._write_latest(session)
        return outcome, session

    async def revoke(self, request: RevocationRequest) -> Revocation:
        """See ``SessionStore``."""
        until = await self._run(
            "revoke",
            request.value if request.claim == "sid" else "",
            _realm_text(request.realm),
            _name(request.realm, request.claim, request.value),
            _milliseconds(request.lifetime),
            token_hex(8),
            is_revoking=True,
        )
        return Revocation(request.realm.provider, request.claim, request.value, until / 1000, request.realm.issuer)

    async def revoke_subject(self, subject: str, realm: Realm) -> tuple[Revocation, ...]:
        """See ``SessionStore``."""
        ended = await self._run("revoke_subject", subject, _realm_text(realm), token_hex(8), is_revoking=True)
        return _revocations(ended, realm)

    async def sessions(self, subject: str, realm: Realm) -> tuple[Session, ...]:
        """See ``SessionStore``."""
        found = await self._run("sessions", subject, _realm_text(realm))
        return tuple(_session(_text(id), row) for id, row in zip(found[::2], found[1::2], strict=True))

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        """See ``RevocationLog``."""
        number, _, mark = after.partition(".")
        position, now, entries = await self._run("revocations", after, number or 0, mark, limit)
        return RevocationPage(_text(position), _read_log(entries), self._see(now))

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next step opens others."""
        client = self._places.get().client
        if client is not None:
            await client.aclose()

    def _see(self, now: int) -> float:
        self._latest = max(self._latest, now)
        return now / 1000

    def _write_latest(self, session: Session) -> None:
        # The step has written its reading to the server. A clock that was set back must count once, not at each step.
        self._latest = round(session.used_at * 1000)

    async def _run(self, script: str, *arguments: Any, is_revoking: bool = False) -> Any:
        async with self._translated():
            client = self._places.get().client or await self._connect()
            if not client.is_judged:
                await self._check_policy(client)
            run, keys = client.scripts[script], [self._prefix]
            if not (is_revoking and self._wait_replicas):
                return await run(keys=keys, args=arguments)
            # WAIT counts the replicas that have what this very connection wrote.
            async with client.redis.pipeline(transaction=False) as pipeline:
                await run(keys=keys, args=arguments, client=pipeline)
                await pipeline.execute_command("WAIT", self._wait_replicas, int(SOCKET_SECONDS * 1000) // 2)
                answer, replicas = await pipeline.execute()
            if replicas < self._wait_replicas:
                raise StoreUnavailable(f"only {replicas} replicas of {self._wait_replicas} have the revocation")
            return answer

    async def _connect(self) -> "_Client":
        if not isinstance(current_token().native_token, AbstractEventLoop):
            raise RuntimeError("RedisStore runs on asyncio, as redis-py does; on trio there is SQLiteStore")
        place = self._places.get()
        place.client = client = _Client(self._make_client())
        await client.close_with_loop(place)
        return client

    async def _check_policy(self, client: "_Client") -> None:
        # Set at once, so that only one of many first steps asks.
        client.is_judged = True
        try:
            policy = (await client.redis.info("memory")).get("maxmemory_policy", "noeviction")
        except self._refused:
            # Not every user of the server may ask for the policy.
            return
        except BaseException:
            client.is_judged = False
            raise
        if policy != "noeviction":
            text = (
                f"this Redis evicts keys (its maxmemory-policy is {policy}), so it loses "
                "sessions, and forgets who has logged out; set noeviction"
            )
            self.events.tell(Advice(text=text), once="policy")

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except self._errors as error:
            # Without the cause: an error of the server repeats the arguments of the command.
            raise StoreUnavailable(explain(error, self._prefix, LAYOUT)) from None


class _Place:
    """Holds the client of one event loop."""

    client: "_Client | None" = None


class _Client:
    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.is_judged = False
        self.scripts = {name: redis.register_script(text) for name, text in _scripts().items()}
        self._guard: Any = None

    async def close_with_loop(self, place: _Place) -> None:
        """Close the client when its event loop shuts down, whoever runs it, and take it from ``place``."""

        # asyncio.run, and whatever else ends a loop well, closes the async generators of the loop before the loop.
        async def guard() -> AsyncIterator[None]:
            try:
                yield
            finally:
                place.client = None
                await self.redis.aclose()

        self._guard = guard()
        await anext(self._guard)

    async def aclose(self) -> None:
        await self._guard.aclose()


def _from_address(address: str) -> MakeClient:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.connection import AbstractConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError

    scheme, separator, rest = address.partition("://") if isinstance(address, str) else ("", "", "")
    if not separator or scheme not in SCHEMES:
        # It may hold a password.
        raise ConfigurationError("server must be an address, redis://host:6379/0 for instance, or make a client")
    address = f"{scheme.replace('valkey', 'redis')}://{rest}"

    # Releases of redis-py differ in how a client is told not to introduce itself.
    is_new = "driver_info" in signature(AbstractConnection.__init__).parameters
    silent: dict[str, Any] = {"driver_info": None} if is_new else {"lib_name": None, "lib_version": None}

    def make_client() -> Any:
        pool = BlockingConnectionPool.from_url(
            address,
            max_connections=MAX_CONNECTIONS,
            timeout=SOCKET_SECONDS,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            # Without greetings: a new connection to a slow server costs no more than its first step.
            protocol=2,
            **silent,
            # Once, because a server that was away leaves dead connections in the pool. Each script knows a step that
            # it has done already by its mark.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        )
        return Redis.from_pool(pool)

    try:
        BlockingConnectionPool.from_url(address)
    except ValueError as error:
        raise ConfigurationError(f"server: the address cannot be read: {type(error).__name__}") from None
    return make_client


@cache
def _scripts() -> dict[str, str]:
    """The scripts by name, each after the constants and the code that all of them share."""
    folder = files(__name__.rpartition(".")[0]) / "redis_scripts"
    texts = {file.name.removesuffix(".lua"): file.read_text() for file in folder.iterdir()}
    seconds = {
        "RETENTION": RETENTION,
        "SESSION_RETENTION": SESSION_RETENTION,
        "SET_BACK": SET_BACK,
        "UNKNOWN": UNKNOWN,
    }
    numbers = {"LAYOUT": LAYOUT, "OLDEST": OLDEST} | {name: _milliseconds(value) for name, value in seconds.items()}
    constants = (f"local {name} = {value}\n" for name, value in numbers.items())
    common = "".join(constants) + texts.pop("common")
    return {name: common + text for name, text in texts.items()}


def _milliseconds(seconds: float) -> int:
    return ceil(seconds * 1000)


def _realm_text(realm: Realm) -> str:
    """The text with which the names of all revocations in ``realm`` begin."""
    return json.dumps(realm, separators=(",", ":"))[:-1]


def _read_realm(text: str) -> Realm:
    return Realm(*json.loads(f"{text}]"))


def _name(realm: Realm, claim: Claim, value: str) -> str:
    return json.dumps([*realm, claim, value], separators=(",", ":"))


def _text(answer: bytes | str) -> str:
    # The app's own client may decode.
    return answer.decode() if isinstance(answer, bytes) else answer


def _session(id: str, row: bytes | str) -> Session:
    # A later layout may have more fields.
    _, realm, subject, generation, parent, is_used, *moments, granted, _ = json.loads(row)[:14]
    opened_at, rotated_at, used_at, ends_at, expires_at, access_until = (moment / 1000 for moment in moments)
    given = json.loads(granted)
    return Session(
        id=id,
        realm=_read_realm(realm),
        subject=subject,
        generation=generation,
        parent=parent or None,
        is_used=bool(is_used),
        opened_at=opened_at,
        rotated_at=rotated_at,
        used_at=used_at,
        ends_at=ends_at,
        expires_at=expires_at,
        access_until=access_until,
        scopes=tuple(given["scopes"]),
        claims=given["claims"],
        device=given["device"],
    )


def _revocations(pairs: Sequence[Any], realm: Realm) -> tuple[Revocation, ...]:
    return tuple(
        Revocation(realm.provider, "sid", _text(id), until / 1000, realm.issuer)
        for id, until in zip(pairs[::2], pairs[1::2], strict=True)
    )


def _read_log(entries: bytes | str) -> list[Revocation]:
    """The revocations in a JSON array that alternates between moments and names."""
    flat = json.loads(entries)
    return [
        # In the previous layout, names had no issuer.
        Revocation._make((name[0], name[-2], name[-1], until / 1000, name[1] if len(name) == 4 else None))
        for until, name in zip(flat[::2], flat[1::2], strict=True)
    ]
