"""How is a JWK Set had from an address, by discovery or from a file, and at what cost at most? (I/O)"""

import json
import os
import re
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import nan
from os import PathLike
from socket import inet_aton
from stat import S_ISREG
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread

from .._support.redaction import redact_address
from ..errors import ConfigurationError, MalformedToken
from ..verifying.compact import json_object

MAX_BODY = 512 * 1024
"""Bytes of an answer that are read, after decompression; real JWK Sets have a few thousand."""


class FetchError(Exception):
    """Keys could not be had; the message says why, for logs and health, and holds nothing secret."""


class Answer(Protocol):
    """What a fetcher gives: the responses of httpx, httpx2 and others are of this shape."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in any case."""
        ...

    @property
    def content(self) -> bytes:
        """The whole body, decompressed."""
        ...


Fetch: TypeAlias = Callable[[str], Awaitable[Answer]]
Validator: TypeAlias = tuple[object, ...]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Document:
    """A JWK Set's text, and what is known of its life."""

    body: bytes | None = field(repr=False)
    """None: it is what it was when ``validator`` was given."""
    validator: Validator | None = None
    """Given back at the next fetch, it saves reading the same once more."""
    max_age: float | None = None
    """Seconds, where the answer said so (RFC 9111 5.2.2.1)."""


class Source(Protocol):
    """Where a JWK Set lies."""

    published: bool
    """Whether others than this service read it."""

    async def fetch(self, validator: Validator | None) -> Document:
        """The JWK Set as it is now; raises ``FetchError``, or what the fetcher raises."""
        ...


class Address:
    """A JWK Set at an https address (RFC 7517 section 5); http on loopback only."""

    published = True

    def __init__(self, url: str, fetch: Fetch | None = None) -> None:
        if (fault := _fault(url)) is not None:
            raise ConfigurationError(f"jwks: {fault}")
        self._url = url
        self._http = _http(fetch)

    def __str__(self) -> str:
        return redact_address(self._url)

    async def fetch(self, validator: Validator | None) -> Document:
        return await _jwk_set(self._http, self._url, validator)


class Discovery:
    """The JWK Set that an issuer's metadata names (OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3)."""

    published = True

    def __init__(self, issuer: str, fetch: Fetch | None = None) -> None:
        if (fault := _fault(issuer)) is not None:
            raise ConfigurationError(f"issuer: {fault}")
        parts = urlsplit(issuer)
        if parts.query or parts.fragment or issuer.endswith(("?", "#")):
            raise ConfigurationError(
                f"issuer: {redact_address(issuer)!r} has a query or a fragment; an issuer has none (RFC 8414 2)"
            )
        self._issuer = issuer
        self._http = _http(fetch)
        origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        # OpenID Connect Discovery 1.0 4.1 appends to the path, RFC 8414 3.1 inserts before it.
        self._addresses = list(
            dict.fromkeys(
                [
                    f"{origin}{path}/.well-known/openid-configuration",
                    f"{origin}/.well-known/oauth-authorization-server{path}",
                    f"{origin}/.well-known/openid-configuration{path}",
                ]
            )
        )

    def __str__(self) -> str:
        return redact_address(self._issuer)

    async def fetch(self, validator: Validator | None) -> Document:
        return await _jwk_set(self._http, await self._jwks_uri(), validator)

    async def _jwks_uri(self) -> str:
        refused: FetchError | None = None
        for address in self._addresses:
            answer = await self._http(address, None)
            try:
                jwks_uri = self._read(address, answer)
            except FetchError as error:
                if answer.status_code >= 500 or answer.status_code == 429:
                    raise
                # Where one form is missing, or a page says so in HTML, another may be there.
                refused = error if refused is None or answer.status_code == 200 else refused
                continue
            # The form that this issuer has comes first from now on.
            self._addresses = [address, *(other for other in self._addresses if other != address)]
            return jwks_uri
        raise refused or FetchError("it has no metadata")

    def _read(self, address: str, answer: Answer) -> str:
        metadata = _object(answer, redact_address(address))
        issuer, jwks_uri = metadata.get("issuer"), metadata.get("jwks_uri")
        # RFC 8414 3.3: identical, or the data MUST NOT be used.
        if issuer != self._issuer:
            slash = isinstance(issuer, str) and issuer.rstrip("/") == self._issuer.rstrip("/")
            raise FetchError(
                f"{redact_address(address)} speaks for the issuer {redact_address(str(issuer))!r}, not {self._issuer!r}"
                + ("; they differ by a trailing slash only: configure it as the provider spells it" if slash else "")
            )
        if not isinstance(jwks_uri, str):
            raise FetchError(f"{redact_address(address)} names no jwks_uri")
        if (fault := _fault(jwks_uri, loopback=_is_loopback(self._issuer))) is not None:
            raise FetchError(f"{redact_address(address)} names a jwks_uri that is not fetched: {fault}")
        return jwks_uri


class File:
    """A JWK Set in a file, read again when it has changed."""

    published = False

    def __init__(self, path: str | PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self._path = os.fsdecode(path)
        self._clock = clock

    def __str__(self) -> str:
        return self._path

    async def fetch(self, validator: Validator | None) -> Document:
        return await in_thread(self.read, validator)

    def read(self, validator: Validator | None = None) -> Document:
        """As ``fetch``, but blocking."""
        try:
            with open(self._path, "rb", opener=_open_without_waiting) as file:
                stat = os.fstat(file.fileno())
                if not S_ISREG(stat.st_mode):
                    raise FetchError("it is not a file")
                found: Validator = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                if found == validator:
                    return Document(None, validator)
                body = file.read(MAX_BODY + 1)
        except OSError as error:
            raise FetchError(f"it cannot be read ({error.strerror})") from None
        except ValueError:
            raise FetchError("it cannot be read (no file has such a name)") from None
        _check_size(len(body))
        # Within one tick of the file system's clock, a second change leaves no trace.
        settled = self._clock() - max(stat.st_mtime, stat.st_ctime) >= _TICK
        return Document(body, found if settled else None)


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """What ``function(*arguments)`` gives, from a worker thread, however busy those of the app's endpoints are."""
    return await to_thread.run_sync(partial(function, *arguments), limiter=CapacityLimiter(1))


def entries(document: bytes) -> list[object]:
    """The entries of the JWK Set (RFC 7517 section 5) that ``document`` spells, or ``FetchError``.

    They are not looked into; None stands for those that ``json_object`` would refuse.
    """
    try:
        # Some servers put a byte order mark before their JSON; RFC 8259 8.1 lets it be ignored.
        jwks = _TOLERANT_DECODER.decode(document.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except (ValueError, RecursionError):
        jwks = None
    if not isinstance(jwks, dict):
        raise FetchError("it is not a JSON object")
    keys = jwks.get("keys")
    if not isinstance(keys, list):
        raise FetchError("it is no JWK Set: it has no list of keys")
    return [_entry(key) for key in keys]


def is_address(value: object) -> bool:
    """Whether ``value`` is meant as an address, not as a file's path."""
    return isinstance(value, str) and re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*://", value) is not None


class _HTTP:
    """HTTP by httpx2, one client a fetch: nothing is open between two of them, whatever became of the event loop."""

    def __init__(self) -> None:
        try:
            import httpcore2
            import httpx2
        except ImportError:
            raise ConfigurationError(
                "jwks: fetching keys needs httpx2; install asgi-jwt-middleware[remote], or give RemoteKeys a fetch="
            ) from None
        # All that they import on first use is imported here: later, requests would wait for it.
        _ = httpcore2.AsyncConnectionPool, anyio.connect_tcp
        self._httpx2 = httpx2
        self._tls: ssl.SSLContext | None = None

    async def __call__(self, url: str, etag: str | None) -> Answer:
        if self._tls is None:
            # Reading the certificates takes a tenth of a second.
            self._tls = await in_thread(partial(self._httpx2.create_ssl_context, trust_env=False))
        headers = {
            "accept": "application/json, application/jwk-set+json;q=0.9, */*;q=0.1",
            "accept-encoding": "identity",
        }
        if etag is not None:
            headers["if-none-match"] = etag
        async with (
            # The time limit is the caller's, over everything; proxies are the fetcher's, not the environment's.
            self._httpx2.AsyncClient(verify=self._tls, follow_redirects=False, timeout=None, trust_env=False) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            body = b""
            if response.status_code == 200:
                body = await _decoded(response.aiter_raw(), response.headers.get("content-encoding", "identity"))
            return _Answer(response.status_code, response.headers, body)


async def _decoded(chunks: AsyncIterator[bytes], encoding: str) -> bytes:
    """What ``chunks`` hold, as far as it is allowed to go: a small answer can decompress to a large one."""
    # RFC 9110 8.4.1: in any case, and x-gzip is gzip.
    encoding = encoding.strip().lower().removeprefix("x-") or "identity"
    # Asked for as it is; some servers hold nothing but the compressed form.
    if encoding not in ("identity", "gzip", "deflate"):
        raise FetchError(f"its content encoding is {encoding[:32]!r}, which was not asked for")
    decoder = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body, read, fault = bytearray(), 0, None
    # The iterators of a stream end well when they are cancelled; left alone, they wait for the garbage collector.
    with CancelScope() as enough:
        async for chunk in chunks:
            read += len(chunk)
            try:
                body += chunk if decoder is None else decoder.decompress(chunk, MAX_BODY + 1)
            except zlib.error:
                fault = f"it is not the {encoding} that it is said to be"
            # Also what decompresses to nothing comes to an end.
            if max(read, len(body)) > MAX_BODY:
                fault = _TOO_LARGE
            if fault is not None:
                enough.cancel()
                body.clear()
    if fault is not None:
        raise FetchError(fault)
    return bytes(body)


@dataclass(frozen=True, slots=True)
class _Answer:
    status_code: int
    headers: Mapping[str, str]
    content: bytes


def _http(fetch: Fetch | None) -> Callable[[str, str | None], Awaitable[Answer]]:
    if fetch is None:
        return _HTTP()

    async def ask(url: str, etag: str | None) -> Answer:
        return await fetch(url)

    return ask


async def _jwk_set(
    http: Callable[[str, str | None], Awaitable[Answer]], url: str, validator: Validator | None
) -> Document:
    etag = validator[1] if validator is not None and validator[0] == url else None
    answer = await http(url, etag if isinstance(etag, str) else None)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    max_age = _max_age(headers)
    if answer.status_code == 304 and etag is not None:
        return Document(None, validator, max_age)
    found = headers.get("etag")
    return Document(_content(answer, redact_address(url)), None if found is None else (url, found), max_age)


def _content(answer: Answer, name: str) -> bytes:
    status = answer.status_code
    if status != 200:
        redirect = ": redirects are not followed" if 300 <= status < 400 else ""
        raise FetchError(f"{name} answered {status}{redirect}")
    _check_size(len(answer.content))
    return answer.content


def _object(answer: Answer, name: str) -> dict[str, Any]:
    try:
        return json_object(_content(answer, name).removeprefix(b"\xef\xbb\xbf"))
    except MalformedToken:
        raise FetchError(f"{name} is not a JSON object") from None


def _entry(value: object) -> object:
    try:
        return json_object(json.dumps(value).encode("ascii"))
    except (MalformedToken, RecursionError):
        return None


def _object_or_nan(pairs: list[tuple[str, Any]]) -> object:
    value = dict(pairs)
    return value if len(value) == len(pairs) else nan


# What is not strict JSON becomes nan or infinity, and only the entry that has it is refused.
_TOLERANT_DECODER = json.JSONDecoder(object_pairs_hook=_object_or_nan, parse_int=float)

_TICK = 2
"""Seconds; no file system in use has a coarser clock."""

_LONGEST_AGE = 2**31
"""Seconds; what is more counts as this (RFC 9111 1.2.2)."""

_TOO_LARGE = f"it has more than {MAX_BODY // 1024} KiB"


def _check_size(size: int) -> None:
    if size > MAX_BODY:
        raise FetchError(_TOO_LARGE)


def _max_age(headers: Mapping[str, str]) -> float | None:
    """How long the answer may be used (RFC 9111 4.2), less what a cache on the way has used up of it."""
    directives = headers.get("cache-control", "").lower()
    if re.search(r"\bno-(store|cache)\b", directives):
        return 0
    found = re.search(r'(?:^|[\s,])max-age\s*=\s*"?([0-9]+)\b', directives)
    if found is None:
        return None
    age = headers.get("age", "")
    used = float(age) if re.fullmatch("[0-9]+", age) else 0
    return max(0, min(float(found[1]), _LONGEST_AGE) - used)


def _fault(url: object, *, loopback: bool = True) -> str | None:
    """What keeps ``url`` from being fetched; None where nothing does. ``loopback``: whether it may lead there."""
    if not isinstance(url, str) or not re.fullmatch(r"[!-\[\]-~]+", url):
        return f"{redact_address(str(url))!r} is not an address in printable ASCII"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return f"{redact_address(url)!r} is not an address"
    if "@" in parts.netloc:
        return "an address with a user in it is not fetched; what the fetcher needs is the fetcher's matter"
    if not host:
        return f"{redact_address(url)!r} names no host"
    if _is_loopback(url):
        if parts.scheme in ("http", "https"):
            return None if loopback else f"{redact_address(url)!r} leads to this machine"
    elif parts.scheme == "https":
        return None
    return f"{redact_address(url)!r} must start with https:// (http is for loopback only)"


def _is_loopback(url: str) -> bool:
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        try:
            # Resolvers read more spellings: 127.1, 2130706433.
            address = IPv4Address(inet_aton(host))
        except OSError:
            return False
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_loopback or address.is_unspecified


def _open_without_waiting(path: str, flags: int) -> int:
    # Whoever opens a named pipe waits for its writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
