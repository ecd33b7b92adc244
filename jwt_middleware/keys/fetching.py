"""Where are the keys that others publish, and how is the document fetched? (I/O)"""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from os import PathLike
from stat import S_ISREG
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

from .._support.arguments import check_callable, show
from .._support.redaction import redact_address
from ..errors import ConfigurationError
from ..issuers import IssuerTemplate, is_template
from .addresses import (
    METADATA_NAMES,
    Hosts,
    check_hosts,
    check_not_metadata,
    host_of,
    is_address,
    origin_of,
    well_known_addresses,
)
from .documents import MAX_BODY, DocumentError, check_size, read_jwks_uri, read_login_endpoints, read_max_age
from .http import Answer, Ask, Client, Fetch, FetchError, OwnClient, UserClient, in_thread

Validator: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The text of a set of keys, and what is known about its life."""

    body: bytes | None = field(repr=False)
    """None if it has not changed since ``validator`` was given."""
    validator: Validator | None = None
    """Given to the next fetch, it saves reading the same document again."""
    max_age: float | None = None
    """Seconds for which it may be used, if the answer said so (RFC 9111 5.2.2.1)."""


class Source(Protocol):
    """The place of a set of keys."""

    published: bool
    """Whether anyone but this service can read it."""
    may_be_empty: bool
    """Whether a set without any key is acceptable. Otherwise it is a fault of the place."""
    host: str
    """The host that is asked; empty for a file."""

    async def prepare(self) -> None:
        """Prepare for fetching."""
        ...

    def confine(self, hosts: Hosts) -> None:
        """Ask no private network but ``hosts``. Raises ``ConfigurationError`` if nothing could be asked then."""
        ...

    async def fetch(self, validator: Validator | None) -> Document:
        """The document as it is now. Raises ``FetchError``, ``DocumentError``, or what the fetcher raises."""
        ...


def make_source(
    jwks: str | PathLike[str] | None,
    issuer: str | None,
    fetch: Fetch | None,
    *,
    allow_http: Collection[str],
    allow_hosts: Collection[str],
    ca_file: str | PathLike[str] | None,
    token_file: str | PathLike[str] | None,
) -> Source:
    """The source that the arguments of ``RemoteKeys`` name. Raises ``ConfigurationError``."""
    if (jwks is None) == (issuer is None):
        raise ConfigurationError("jwks: RemoteKeys needs the address or path of a JWK Set, or issuer=, but not both")
    http = check_hosts("allow_http", allow_http)
    hosts = Hosts(named=check_hosts("allow_hosts", allow_hosts) | http, http=http)
    address = jwks if issuer is None else issuer
    if issuer is None and not is_address(jwks):
        return _make_file(jwks, fetch=fetch, ca_file=ca_file, token_file=token_file)
    if issuer is not None:
        check_issuer(issuer, hosts)
    elif (fault := hosts.find_fault(address)) is not None:
        raise ConfigurationError(f"jwks: {fault}")
    url = str(address)
    # Below such an address there may be keys: Duende IdentityServer has them at /.well-known/openid-configuration/jwks.
    if issuer is None and url.rstrip("/").endswith(METADATA_NAMES):
        check_not_metadata("jwks", url)
    client = _make_client(url, fetch, _with_host(hosts, url), ca_file, token_file)
    return Address(url, client, hosts) if issuer is None else Discovery(url, client, hosts)


def _make_file(jwks: object, **unused: object) -> "File":
    if not isinstance(jwks, str | PathLike) or not os.fspath(jwks):
        kind = "empty" if jwks == "" else type(jwks).__name__
        raise ConfigurationError(f"jwks must be an address, the path of a file or RemoteKeys(...), not {kind}")
    for name, value in unused.items():
        if value is not None:
            raise ConfigurationError(
                f"{name}: jwks is the path of a file, {redact_address(str(jwks))}; no address is asked"
            )
    return File(jwks)


def _make_client(
    url: str,
    fetch: Fetch | None,
    hosts: Hosts,
    ca_file: str | PathLike[str] | None,
    token_file: str | PathLike[str] | None,
) -> Client:
    for name, value in (("ca_file", ca_file), ("token_file", token_file)):
        if value is None:
            continue
        if not isinstance(value, str | PathLike) or not os.fspath(value):
            raise ConfigurationError(f"{name} must be the path of a file, not {show(value)}")
        if fetch is not None:
            raise ConfigurationError(f"{name} cannot stand beside fetch=: a fetcher of your own sees to that itself")
    if fetch is not None:
        check_callable("fetch", fetch, "url")
        return UserClient(fetch)
    origin = origin_of(url)
    if token_file is not None and origin[0] != "https":
        raise ConfigurationError("token_file: a token is sent over https only, and the address is http")
    return OwnClient(hosts, ca_file=ca_file, token_file=token_file, token_origin=origin)


class Address:
    """A set of keys at an https address (RFC 7517 section 5)."""

    published = True
    may_be_empty = False

    def __init__(self, url: str, client: Client, hosts: Hosts) -> None:
        self.host = host_of(url)
        self._url = url
        self._client = client
        self._hosts = hosts

    def __str__(self) -> str:
        return redact_address(self._url)

    async def prepare(self) -> None:
        """Prepare the client."""
        await self._client.prepare()

    def confine(self, hosts: Hosts) -> None:
        """The address comes from a resolver: its host is not named by the configuration."""
        self._client.confine(_confine(self._url, self._hosts, hosts))

    async def fetch(self, validator: Validator | None) -> Document:
        """The document at the address."""
        async with self._client.open() as ask:
            return await _fetch_keys(ask, self._url, validator)


class Discovery:
    """The JWK Set that an issuer's metadata names (OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3)."""

    published = True
    may_be_empty = False

    def __init__(self, issuer: str, client: Client, hosts: Hosts) -> None:
        self.host = host_of(issuer)
        self._issuer = issuer
        self._client = client
        self._declared = hosts
        self._hosts = _with_host(hosts, issuer)
        # The metadata of a template is about all tenants, and names the template as issuer.
        place = IssuerTemplate(issuer, None).common if is_template(issuer) else issuer
        self._addresses = well_known_addresses(place)
        self.login_endpoints: tuple[str, str] | None = None
        """The result of ``read_login_endpoints`` for the metadata that was fetched last."""

    def __str__(self) -> str:
        return redact_address(self._issuer)

    async def prepare(self) -> None:
        """Prepare the client."""
        await self._client.prepare()

    def confine(self, hosts: Hosts) -> None:
        """The issuer comes from a resolver: its host is not named by the configuration."""
        self._hosts = _confine(self._issuer, self._declared, hosts)
        self._client.confine(self._hosts)

    async def fetch(self, validator: Validator | None) -> Document:
        """The JWK Set that the metadata names now."""
        async with self._client.open() as ask:
            return await _fetch_keys(ask, await self._find_jwks_uri(ask), validator)

    async def _find_jwks_uri(self, ask: Ask) -> str:
        failures: list[tuple[int, FetchError | DocumentError]] = []
        for address in self._addresses:
            answer = await ask(address, None)
            try:
                body = _content(answer, redact_address(address))
                jwks_uri = read_jwks_uri(body, address=address, issuer=self._issuer, hosts=self._hosts)
            except (FetchError, DocumentError) as error:
                # If one form is missing, fails, or is a page of HTML, another may be there.
                failures.append((_telling(answer.status_code), error))
                continue
            # The next time, the form that this issuer has is asked for first.
            self._addresses = (address, *(other for other in self._addresses if other != address))
            self.login_endpoints = read_login_endpoints(body, hosts=self._hosts)
            return jwks_uri
        raise max(failures, key=lambda failure: failure[0])[1]


class File:
    """A set of keys in a file, read again when it has changed."""

    published = False
    may_be_empty = False
    host = ""

    def __init__(self, path: str | PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self._path = os.fsdecode(path)
        self._clock = clock

    def __str__(self) -> str:
        return self._path

    async def prepare(self) -> None:
        """Nothing needs to be prepared."""

    def confine(self, hosts: Hosts) -> None:
        """Nothing: a file is no host."""

    async def fetch(self, validator: Validator | None) -> Document:
        """The file as it is now."""
        return await in_thread(self.read, validator)

    def read(self, validator: Validator | None = None) -> Document:
        """Like ``fetch``, but blocking."""
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
        check_size(len(body))
        # Within one tick of the file system's clock, a second change leaves no trace.
        is_settled = self._clock() - max(stat.st_mtime, stat.st_ctime) >= _TICK
        return Document(body, found if is_settled else None)


def _with_host(hosts: Hosts, url: str) -> Hosts:
    """``hosts`` and the host of ``url``, which the configuration names."""
    return hosts._replace(named=hosts.named | {host_of(url)})


def _confine(url: str, declared: Hosts, hosts: Hosts) -> Hosts:
    """``declared`` and ``hosts`` together, without the host of ``url``.

    Raises ``ConfigurationError`` if ``url`` may not be asked then.
    """
    both = Hosts(named=declared.named | hosts.named, http=declared.http | hosts.http)
    if (fault := both.find_fault_of_foreign(url)) is not None:
        raise ConfigurationError(f"resolve: {fault}")
    return both


def check_issuer(issuer: str, hosts: Hosts) -> None:
    """Raise ``ConfigurationError`` for an ``issuer`` whose metadata cannot be looked up."""
    if (fault := hosts.find_fault(issuer)) is not None:
        raise ConfigurationError(f"issuer: {fault}")
    parts = urlsplit(issuer)
    if parts.query or parts.fragment or issuer.endswith(("?", "#")):
        raise ConfigurationError(
            f"issuer: {redact_address(issuer)!r} has a query or a fragment; an issuer has none (RFC 8414 section 2)"
        )
    check_not_metadata("issuer", issuer)


async def _fetch_keys(ask: Ask, url: str, validator: Validator | None) -> Document:
    etag = validator[1] if validator is not None and validator[0] == url else None
    answer = await ask(url, etag if isinstance(etag, str) else None)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    max_age = read_max_age(headers)
    if answer.status_code == 304 and etag is not None:
        return Document(None, validator, max_age)
    found = headers.get("etag")
    return Document(_content(answer, redact_address(url)), None if found is None else (url, found), max_age)


def _content(answer: Answer, name: str) -> bytes:
    status = answer.status_code
    if status != 200:
        redirect = ": redirects are not followed" if 300 <= status < 400 else ""
        raise FetchError(f"{name} answered {status}{redirect}")
    check_size(len(answer.content))
    return answer.content


def _telling(status: int) -> int:
    """How much a failure tells, compared with others: a wrong document, then an outage, then no document at all."""
    if status == 200:
        return 2
    return 1 if status >= 500 or status == 429 else 0


_TICK = 2
"""The coarsest clock of any file system in use, in seconds."""


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a named pipe would wait for its writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
