"""Sessions in Redis or what speaks its protocol (7.0; 6.2 has all that is used): for several machines. asyncio only."""

import json
import logging
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import ceil
from secrets import token_hex
from typing import Any, TypeAlias

from anyio.lowlevel import RunVar, current_token

from ..._support.arguments import check_count
from ...errors import ConfigurationError, StoreUnavailable
from ...revocation.revoked import MARGIN, Ends, Revocation
from ..rotation import Opening, Outcome, Rotation, Session

logger = logging.getLogger("jwt_middleware")

SOCKET_SECONDS = 0.9
"""What a step waits for the server: less than whoever waits for the step."""

MAX_CONNECTIONS = 64

MakeClient: TypeAlias = Callable[[], Any]


class RedisStore:
    """A ``SessionStore`` in Redis, by one script for each step.

    ``server``
        ``redis://``, ``rediss://`` or ``unix://`` address; or a function that makes a ``redis.asyncio`` client, a
        ``RedisCluster`` or that of a Sentinel for instance: it is called once an event loop, and the client is closed
        here.
    ``prefix``
        What the names of all keys begin with, in braces, so that a cluster keeps them in one slot. Two services that
        know their users by the same subjects must not share it. Default ``jwt``.
    ``wait_replicas``
        Replicas that must have it before a revocation that somebody asked for, a logout for instance, counts as written
        (the command WAIT). Default 0: a failover can lose the last ones. Not with a ``RedisCluster``.

    A server that evicts keys loses sessions, and with them who was logged out: at start a policy other than
    ``noeviction`` is logged. Raises ``ConfigurationError``, also where redis (extra ``redis``) is not installed.
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
        self._errors = (redis.RedisError, OSError)
        self._refused = redis.ResponseError
        # Connections belong to an event loop, and with that to a process.
        self._clients: RunVar[_Client | None] = RunVar("jwt_middleware.redis")

    def __repr__(self) -> str:
        # The address may hold a password.
        return f"RedisStore(prefix={self._prefix[1:-2]!r})"

    async def open(
        self, opening: Opening, *, provider: str, max_sessions: int
    ) -> tuple[Session, tuple[Revocation, ...]]:
        """See ``SessionStore``."""
        granted = {"scopes": opening.scopes, "claims": opening.claims, "device": opening.device}
        now, *evicted = await self._run(
            "open",
            opening.id,
            opening.subject,
            _milliseconds(opening.idle_lifetime),
            _milliseconds(opening.session_lifetime),
            opening.access_until,
            json.dumps(granted),
            max_sessions,
            *_marked(provider),
        )
        return opening.begun(now / 1000), _ended(evicted, provider)

    async def read(self, id: str) -> tuple[Session | None, float]:
        """See ``SessionStore``."""
        now, row = await self._run("read", id)
        return _session(id, row), now / 1000

    async def rotate(self, rotation: Rotation, *, provider: str) -> tuple[Outcome, Session | None]:
        """See ``SessionStore``."""
        outcome, row = await self._run(
            "rotate",
            rotation.id,
            rotation.generation,
            _milliseconds(rotation.grace),
            _milliseconds(rotation.idle_lifetime),
            rotation.access_until,
            _milliseconds(rotation.deadline),
            *_marked(provider),
        )
        return Outcome(_text(outcome)), _session(rotation.id, row)

    async def revoke(self, revocation: Revocation) -> Revocation:
        """See ``SessionStore``."""
        named = _named(revocation.provider, revocation.ends, revocation.value)
        until = await self._run(
            "revoke",
            revocation.value if revocation.ends == "sid" else "",
            named,
            _milliseconds(revocation.until),
            *_marked(revocation.provider),
            is_revoking=True,
        )
        return Revocation(revocation.provider, revocation.ends, revocation.value, until / 1000)

    async def revoke_subject(self, subject: str, *, provider: str) -> tuple[Revocation, ...]:
        """See ``SessionStore``."""
        return _ended(await self._run("revoke_subject", subject, *_marked(provider), is_revoking=True), provider)

    async def sessions(self, subject: str) -> tuple[Session, ...]:
        """See ``SessionStore``."""
        found = await self._run("sessions", subject)
        sessions = (_session(_text(id), row) for id, row in zip(found[::2], found[1::2], strict=True))
        return tuple(session for session in sessions if session is not None)

    async def revocations(self, after: str, limit: int) -> tuple[str, tuple[Revocation, ...]]:
        """See ``RevocationLog``."""
        number, _, mark = after.partition(".")
        position, *entries = await self._run("revocations", after, number or 0, mark, limit)
        return _text(position), tuple(_revocation(entry) for entry in entries)

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next step opens others."""
        client = self._clients.get(None)
        if client is not None:
            self._clients.set(None)
            await client.redis.aclose()

    async def _run(self, script: str, *arguments: Any, is_revoking: bool = False) -> Any:
        async with self._translated():
            client = self._clients.get(None)
            if client is None:
                if not isinstance(current_token().native_token, AbstractEventLoop):
                    raise RuntimeError("RedisStore runs on asyncio, as redis-py does; on trio there is SQLiteStore")
                client = _Client(self._make_client())
                self._clients.set(client)
            if not client.is_judged:
                await self._judge(client)
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

    async def _judge(self, client: "_Client") -> None:
        # At once, so that of many first steps one asks.
        client.is_judged = True
        try:
            policy = (await client.redis.info("memory")).get("maxmemory_policy", "noeviction")
        except self._refused:
            # Not everybody may ask.
            return
        except BaseException:
            client.is_judged = False
            raise
        if policy != "noeviction":
            logger.warning(
                "sessions: this Redis evicts keys (its maxmemory-policy is %s), and with them sessions and who was "
                "logged out; set noeviction",
                policy,
            )

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except self._errors as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error


class _Client:
    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.is_judged = False
        self.scripts = {name: redis.register_script(_COMMON + text) for name, text in _SCRIPTS.items()}


def _from_address(address: str) -> MakeClient:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError

    if not isinstance(address, str) or not address.startswith(("redis://", "rediss://", "unix://")):
        # It may hold a password.
        raise ConfigurationError("server must be an address, redis://host:6379/0 for instance, or make a client")

    def make_client() -> Any:
        pool = BlockingConnectionPool.from_url(
            address,
            max_connections=MAX_CONNECTIONS,
            timeout=SOCKET_SECONDS,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            # Once, since a server that was away leaves dead connections in the pool; each step can be done twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        )
        return Redis.from_pool(pool)

    try:
        BlockingConnectionPool.from_url(address)
    except ValueError as error:
        raise ConfigurationError(f"server: the address cannot be read: {type(error).__name__}") from None
    return make_client


def _milliseconds(seconds: float) -> int:
    return ceil(seconds * 1000)


def _marked(provider: str) -> tuple[str, str]:
    """What the name of a revoked session of ``provider`` begins with, and the mark of what is written now."""
    return _named(provider, "sid", "")[:-3], token_hex(8)


def _named(provider: str, ends: Ends, value: str) -> str:
    return json.dumps([provider, ends, value], separators=(",", ":"))


def _text(answer: bytes | str) -> str:
    # The app's own client may decode.
    return answer.decode() if isinstance(answer, bytes) else answer


def _session(id: str, row: bytes | str | None) -> Session | None:
    if row is None:
        return None
    subject, generation, opened, rotated, used, ends, expires, access_until, text = json.loads(row)
    granted = json.loads(text)
    return Session(
        id=id,
        subject=subject,
        generation=generation,
        opened_at=opened / 1000,
        rotated_at=rotated / 1000,
        used_at=used / 1000,
        ends_at=ends / 1000,
        expires_at=expires / 1000,
        access_until=access_until,
        scopes=tuple(granted["scopes"]),
        claims=granted["claims"],
        device=granted["device"],
    )


def _ended(pairs: Sequence[Any], provider: str) -> tuple[Revocation, ...]:
    return tuple(
        Revocation(provider, "sid", _text(id), until / 1000) for id, until in zip(pairs[::2], pairs[1::2], strict=True)
    )


def _revocation(entry: bytes | str) -> Revocation:
    _, until, named = _text(entry).split("|", 2)
    provider, ends, value = json.loads(named)
    return Revocation(provider, ends, value, int(until) / 1000)


# Keys, all behind the prefix: `session:` and an id, a JSON array; `subject:` and a subject, its ids by when they were
# last used; `head`, the number and the mark of the last revocation; `log`, the revocations by their numbers; `ends`,
# the same by when they are over; `revoked:` and what is, until when. Moments are whole milliseconds, which cjson keeps.
_COMMON = f"""
local prefix, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local SUBJECT, GENERATION, OPENED, ROTATED, USED, ENDS, EXPIRES, ACCESS, GRANTED = 1, 2, 3, 4, 5, 6, 7, 8, 9

local function text(number) return string.format('%.0f', number) end

local function load(id)
    local row = redis.call('GET', prefix .. 'session:' .. id)
    return row and cjson.decode(row)
end

local function keep(name, over)
    local left = redis.call('PTTL', name)
    if left == -1 or left < over - now then redis.call('PEXPIREAT', name, text(over)) end
end

local function save(id, session)
    redis.call('SET', prefix .. 'session:' .. id, cjson.encode(session), 'PXAT', text(session[EXPIRES]))
    local index = prefix .. 'subject:' .. session[SUBJECT]
    redis.call('ZADD', index, text(session[USED]), id)
    keep(index, session[ENDS])
end

local function revoke(named, over, mark)
    local name = prefix .. 'revoked:' .. named
    local before = tonumber(redis.call('GET', name) or 0)
    if before >= over then return before end
    local number = redis.call('HINCRBY', prefix .. 'head', 'number', 1)
    redis.call('HSET', prefix .. 'head', 'mark', mark)
    local entry = mark .. '|' .. text(over) .. '|' .. named
    redis.call('ZADD', prefix .. 'log', number, entry)
    redis.call('ZADD', prefix .. 'ends', text(over), entry)
    redis.call('SET', name, text(over), 'PXAT', text(over))
    local swept = redis.call('ZRANGEBYSCORE', prefix .. 'ends', '-inf', text(now), 'LIMIT', 0, 20)
    if #swept > 0 then
        redis.call('ZREM', prefix .. 'log', unpack(swept))
        redis.call('ZREM', prefix .. 'ends', unpack(swept))
    end
    for _, key in ipairs({{'head', 'log', 'ends'}}) do keep(prefix .. key, over) end
    return over
end

local function finish(id, session, names, mark)
    redis.call('DEL', prefix .. 'session:' .. id)
    redis.call('ZREM', prefix .. 'subject:' .. session[SUBJECT], id)
    return revoke(names .. '"' .. id .. '"]', (session[ACCESS] + {MARGIN}) * 1000, mark)
end

-- The ids of those that are not over, the last used last.
local function alive(subject)
    local ids, index = {{}}, prefix .. 'subject:' .. subject
    for _, id in ipairs(redis.call('ZRANGE', index, 0, -1)) do
        if redis.call('EXISTS', prefix .. 'session:' .. id) == 1 then
            ids[#ids + 1] = id
        else
            redis.call('ZREM', index, id)
        end
    end
    return ids
end
"""

_SCRIPTS = {
    "open": """
local id, subject, idle, lifetime, access, granted, most, names, mark = unpack(ARGV)
local ends, answer, before = now + lifetime, {now}, load(id)
-- It is done twice where the first answer was lost on its way.
if before then return {before[OPENED]} end
if redis.call('ZCARD', prefix .. 'subject:' .. subject) >= tonumber(most) then
    local ids = alive(subject)
    for at = 1, #ids - most + 1 do
        answer[#answer + 1] = ids[at]
        answer[#answer + 1] = finish(ids[at], load(ids[at]), names, mark)
    end
end
save(id, {subject, 1, now, now, now, ends, math.min(now + idle, ends), tonumber(access), granted})
return answer
""",
    "read": """
return {now, redis.call('GET', prefix .. 'session:' .. ARGV[1])}
""",
    # The same as rotation.rotated.
    "rotate": """
local id, presented, grace, idle, access, deadline, names, mark = unpack(ARGV)
presented = tonumber(presented)
if now > tonumber(deadline) then return {'late', redis.call('GET', prefix .. 'session:' .. id)} end
local session = load(id)
if not session then return {'gone', false} end
local current, outcome = session[GENERATION], 'again'
local is_graced = now < session[ROTATED] + grace
if presented > current then
    outcome, session[GENERATION] = 'ahead', presented + 1
elseif presented == current and (now < session[ROTATED] or not is_graced) then
    outcome, session[GENERATION] = 'next', current + 1
elseif presented ~= current and not (presented == current - 1 and is_graced) then
    finish(id, session, names, mark)
    return {'theft', cjson.encode(session)}
end
if outcome ~= 'again' then session[ROTATED] = now end
session[USED] = now
session[EXPIRES] = math.min(now + idle, session[ENDS])
session[ACCESS] = math.max(session[ACCESS], tonumber(access))
save(id, session)
return {outcome, cjson.encode(session)}
""",
    "revoke": """
local id, named, over, names, mark = unpack(ARGV)
local session = id ~= '' and load(id)
if session then return finish(id, session, names, mark) end
local before = id ~= '' and redis.call('GET', prefix .. 'revoked:' .. named)
return before and tonumber(before) or revoke(named, tonumber(over), mark)
""",
    "revoke_subject": """
local subject, names, mark = unpack(ARGV)
local answer = {}
for _, id in ipairs(alive(subject)) do
    answer[#answer + 1] = id
    answer[#answer + 1] = finish(id, load(id), names, mark)
end
return answer
""",
    "sessions": """
local answer, ids = {}, alive(ARGV[1])
for at = #ids, 1, -1 do
    answer[#answer + 1] = ids[at]
    answer[#answer + 1] = redis.call('GET', prefix .. 'session:' .. ids[at])
end
return answer
""",
    "revocations": """
local after, number, mark, limit = unpack(ARGV)
local last = redis.call('HMGET', prefix .. 'head', 'number', 'mark')
local head = (last[1] or '0') .. '.' .. (last[2] or '')
if after == head then return {head} end
local read = redis.call('ZRANGEBYSCORE', prefix .. 'log', number, number)[1]
if not read or string.sub(read, 1, #mark + 1) ~= mark .. '|' then number = 0 end
local entries = redis.call('ZRANGEBYSCORE', prefix .. 'log', '(' .. number, '+inf', 'LIMIT', 0, limit)
if #entries == tonumber(limit) then
    local entry = entries[#entries]
    head = redis.call('ZSCORE', prefix .. 'log', entry) .. '.' .. string.match(entry, '^[^|]*')
end
table.insert(entries, 1, head)
return entries
""",
}
