"""How is an address asked over HTTP, and how much of an answer is read? (I/O)"""

import os
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_address
from os import PathLike
from threading import Lock
from typing import Any, Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, ref

import anyio
from anyio.lowlevel import current_token

from .._support.loops import LoopEndedError, PerLoop, is_running, run_on
from ..errors import ConfigurationError
from .addresses import Hosts, host_of, is_public, origin_of
from .documents import MAX_BODY, DocumentError, check_size


class FetchError(Exception):
    """Keys could not be fetched. The message says why, for logs and health, and holds nothing secret."""


class Answer(Protocol):
    """What a fetcher returns. The responses of httpx, httpx2 and others have this shape."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with names in any case."""
        ...

    @property
    def content(self) -> bytes:
        """The whole body, decompressed."""
        ...


Fetch: TypeAlias = Callable[[str], Awaitable[Answer]]
Ask: TypeAlias = Callable[[str, str | None], Awaitable[Answer]]
"""``await ask(url, etag)``; with an ``etag`` the answer may be 304."""
Result = TypeVar("Result")


class Client(Protocol):
    """Asks addresses during one attempt to fetch keys."""

    async def prepare(self) -> None:
        """Do what must be done before anything is asked."""
        ...

    def open(self) -> AbstractAsyncContextManager[Ask]:
        """Ask on the running event loop. Nothing stays open afterwards."""
        ...

    def confine(self, hosts: Hosts) -> None:
        """Ask no private network but ``hosts`` from now on."""
        ...


class OwnClient:
    """HTTP by httpcore2, with connections for one attempt only: nothing outlives it, whatever the event loop does.

    ``ca_file``
        A PEM file of the certificate authorities to trust instead of the system's.
    ``token_file``
        A file with a bearer token for ``token_origin``. It is sent nowhere else, and over https only.

    Both files are read again when they change. Proxies are not read from the environment.
    """

    def __init__(
        self,
        hosts: Hosts,
        *,
        ca_file: str | PathLike[str] | None = None,
        token_file: str | PathLike[str] | None = None,
        token_origin: tuple[str, str, int | None] | None = None,
    ) -> None:
        try:
            import httpcore2
            import httpx2
        except ImportError:
            raise ConfigurationError(
                "jwks: fetching keys needs httpx2; install asgi-jwt-middleware[remote], or give RemoteKeys a fetch="
            ) from None
        # Import here what these import on first use: later, requests would wait for it.
        _ = httpcore2.AsyncConnectionPool, httpx2.create_ssl_context, anyio.connect_tcp
        self._httpcore2 = httpcore2
        self._hosts = hosts
        self._ca = None if ca_file is None else _PrivateCA(os.fspath(ca_file))
        self._token_file = None if token_file is None else os.fspath(token_file)
        self._token_origin = token_origin
        self._token: str | None = None

    async def prepare(self) -> None:
        """Load certificates, if they are not loaded, and read the token."""
        if self._ca is not None:
            await in_thread(self._ca.load)
        elif _SYSTEM_CA.context is None:
            await in_thread(_SYSTEM_CA.load)
        if self._token_file is not None:
            self._token = await in_thread(_read_token, self._token_file)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ask]:
        """Ask with connections that are closed at the end."""
        backend = _make_backend(self._httpcore2, self._hosts)
        context = (self._ca or _SYSTEM_CA).context
        async with self._httpcore2.AsyncConnectionPool(ssl_context=context, network_backend=backend) as pool:
            yield partial(self._ask, pool)

    def confine(self, hosts: Hosts) -> None:
        """Ask no private network but ``hosts`` from now on."""
        self._hosts = hosts

    async def _ask(self, pool: Any, url: str, etag: str | None) -> Answer:
        headers = {
            "accept": "application/json, application/jwk-set+json;q=0.9, */*;q=0.1",
            "accept-encoding": "identity",
            "user-agent": "asgi-jwt-middleware",
        }
        if etag is not None:
            headers["if-none-match"] = etag
        if self._token is not None and origin_of(url) == self._token_origin:
            headers["authorization"] = f"Bearer {self._token}"
        async with pool.stream("GET", url, headers=list(headers.items())) as response:
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            body = b""
            if response.status == 200:
                body = await _read_body(response.aiter_stream(), found.get("content-encoding", "identity"))
            return _Answer(response.status, found, body)


class UserClient:
    """Asks through the user's own fetcher. Only that fetcher knows which of its parts belong to which event loop.

    An ``AsyncClient`` keeps connections of the event loop that it was used on. So the fetcher is called on one loop for
    as long as that loop runs; other loops ask through it. After it has ended, the next loop calls the fetcher itself,
    and repeats a call that fails: each failure makes the client forget a connection of the loop that has ended.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        # Several keys may share one client.
        self._owner: object = getattr(fetch, "__self__", fetch)
        try:
            hash(self._owner)
            ref(self._owner)
        except TypeError:
            self._owner = self

    async def prepare(self) -> None:
        """Nothing: the fetcher prepares itself."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ask]:
        """Ask through the fetcher."""
        yield self._ask

    def confine(self, hosts: Hosts) -> None:
        """Nothing: only the fetcher knows what a name resolves to."""

    async def _ask(self, url: str, etag: str | None) -> Answer:
        here, home = current_token().native_token, _HOMES.get(self._owner)
        if home is not None and home.loop() is here:
            return await self._fetch(url)
        if home is not None and home.pid == os.getpid() and (loop := home.loop()) is not None and is_running(loop):
            with suppress(LoopEndedError):
                return await run_on(loop, partial(self._fetch, url))
        _HOMES[self._owner] = _Home(ref(here))
        for _ in range(0 if home is None else _TRIES_AFTER_MOVE - 1):
            try:
                return await self._fetch(url)
            except Exception:  # noqa: BLE001  # whatever the fetcher raises, the last try raises it too
                continue
        return await self._fetch(url)


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call ``function(*arguments)`` in a worker thread, even if all threads of the app's endpoints are busy."""
    return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=_THREADS.get())


_THREADS = PerLoop(lambda: anyio.CapacityLimiter(4))
_RESOLVERS = PerLoop(lambda: anyio.CapacityLimiter(8))
_TRIES_AFTER_MOVE = 3


class _Home:
    """The event loop on which a fetcher was called last."""

    def __init__(self, loop: Callable[[], object | None]) -> None:
        self.loop = loop
        self.pid = os.getpid()


_HOMES: WeakKeyDictionary[object, _Home] = WeakKeyDictionary()


class _Answer:
    def __init__(self, status_code: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status_code = status_code
        self.headers = headers
        self.content = content


class _SystemCA:
    """The system's certificate authorities. One TLS context serves all keys: it takes half a megabyte."""

    def __init__(self) -> None:
        self.context: ssl.SSLContext | None = None
        self._lock = Lock()

    def load(self) -> None:
        """Read the certificates, once. It takes a tenth of a second."""
        import httpx2

        with self._lock:
            self.context = self.context or httpx2.create_ssl_context(trust_env=False)


_SYSTEM_CA = _SystemCA()


class _PrivateCA:
    """Certificate authorities from a file, read again when it has changed."""

    def __init__(self, path: str) -> None:
        self.context: ssl.SSLContext | None = None
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self.load()

    def load(self) -> None:
        """Read the certificates if they have changed. Raises ``FetchError``, or at first ``ConfigurationError``."""
        try:
            stat = os.stat(self._path)
            seen = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
            if seen != self._seen:
                self.context, self._seen = ssl.create_default_context(cafile=self._path), seen
        except OSError as error:
            reason = "it holds no certificates" if isinstance(error, ssl.SSLError) else error.strerror
            text = f"ca_file: {self._path} cannot be read ({reason})"
            raise (ConfigurationError if self.context is None else FetchError)(text) from None


def _read_token(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(_LONGEST_TOKEN + 1).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise FetchError(f"token_file: {path} cannot be read ({reason})") from None
    # RFC 6750 2.1, and at most what servers take in a header.
    if len(token) > _LONGEST_TOKEN or not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        raise FetchError(f"token_file: {path} holds no bearer token")
    return token


_LONGEST_TOKEN = 16 * 1024


def _make_backend(httpcore2: Any, hosts: Hosts) -> Any:
    backend = httpcore2.AnyIOBackend()

    class CheckingBackend(httpcore2.AsyncNetworkBackend):  # type: ignore[misc]
        """Resolves the name and connects only to addresses that ``hosts`` allows: a name can lead anywhere."""

        async def connect_tcp(self, host: str, port: int, *arguments: Any, **options: Any) -> Any:
            failure: Exception | None = None
            for address in await _resolve(host, port, hosts):
                try:
                    return await backend.connect_tcp(address, port, *arguments, **options)
                except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                    failure = error
            raise failure or httpcore2.ConnectError("the name has no address")

    return CheckingBackend()


async def _resolve(host: str, port: int, hosts: Hosts) -> list[str]:
    """The addresses of ``host``. Raises ``FetchError`` if one of them must not be asked."""
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    # The thread is left behind when the attempt is given up: no resolver can be told to stop.
    found = await anyio.to_thread.run_sync(
        partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM),
        limiter=_RESOLVERS.get(),
        abandon_on_cancel=True,
    )
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if hosts.needs_check(host_of(f"//{host}")):
        for address in addresses:
            if not is_public(ip_address(address.partition("%")[0])):
                raise FetchError(
                    f"{host} resolves to an address inside this network; if that is meant, allow_hosts=[{host!r}] "
                    "permits it"
                )
    return addresses


async def _read_body(chunks: AsyncIterator[bytes], encoding: str) -> bytes:
    """The content of ``chunks``, up to what is allowed: a small answer can decompress to a large one."""
    # RFC 9110 8.4.1: in any case, and x-gzip is gzip.
    encoding = encoding.strip().lower().removeprefix("x-") or "identity"
    # We ask for the identity encoding, but some servers hold only the compressed form.
    if encoding not in ("identity", "gzip", "deflate"):
        raise FetchError(f"its content encoding is {encoding[:32]!r}, which was not asked for")
    decoder = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body, read, fault = bytearray(), 0, None
    # Cancelling ends the iterators of a stream cleanly; left alone, they would wait for the garbage collector.
    with anyio.CancelScope() as enough:
        async for chunk in chunks:
            read += len(chunk)
            try:
                body += chunk if decoder is None else decoder.decompress(chunk, MAX_BODY + 1)
                # Count what was read as well: input that decompresses to nothing must come to an end, too.
                check_size(max(read, len(body)))
            except (zlib.error, DocumentError) as error:
                is_large = isinstance(error, DocumentError)
                fault = str(error) if is_large else f"it is not the {encoding} that it is said to be"
                enough.cancel()
                body.clear()
    if fault is not None:
        raise FetchError(fault)
    return bytes(body)
