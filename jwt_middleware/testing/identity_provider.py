"""A fake identity provider for tests: real HTTP on loopback, which rotates, fails, stalls and lies on command.

::

    with IdentityProvider() as provider:
        app = JWTMiddleware(app, issuer=provider.issuer, audience="orders")
        token = provider.mint(aud="orders")

With pytest, ``pytest_plugins = ["jwt_middleware.pytest_plugin"]`` in the root conftest.py gives the fixture
``identity_provider``, a new one for each test.
"""

import gzip
import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Literal, Self, TypeAlias, cast

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ..keys.jwk import public_jwk, thumbprint
from ..keys.material import PrivateKey

Target: TypeAlias = Literal["jwks", "metadata"]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key of the provider, and the JWK that is published for it."""

    private: PrivateKey = field(repr=False)
    algorithm: str
    jwk: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the provider got."""

    path: str
    headers: Mapping[str, str]
    """The headers, by their names in lower case."""
    at: float
    """``time.monotonic()``."""


class IdentityProvider:
    """An OpenID Connect provider as far as an API sees it: its metadata, its JWK Set, and tokens.

    ``path``
        The part of ``issuer`` after the host: ``/tenant``, or ``/``. Default: nothing.
    ``algorithm``
        The algorithm of the first key and of those that ``rotate`` makes: ``ES256`` (default), ``RS256`` or ``EdDSA``.
    ``port``
        The port on 127.0.0.1 where it listens. Default: any free one.
    ``tls``
        A server's ``SSLContext``, to serve https. Default None.

    As a context manager it serves while the block lasts. These may be changed at any time:

    ``keys``
        The ``SigningKey`` objects whose JWKs are published; tokens are signed with ``signing_key``.
    ``jwks``, ``metadata``
        Changes to the two documents, by member name: ``provider.metadata["issuer"] = "https://evil.example"``.
    ``headers``
        Sent with both, for instance ``Cache-Control``.
    ``delay``
        Seconds before each answer.

    The methods from ``fail`` to ``refuse`` make it misbehave until ``recover``, at both documents, or ``at`` one.
    """

    def __init__(
        self, *, path: str = "", algorithm: str = "ES256", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        if path and not path.startswith("/"):
            raise ValueError(f"path must start with '/', not {path!r}")
        self.algorithm = algorithm
        self.signing_key = signing_key(algorithm)
        self.keys: list[SigningKey] = [self.signing_key]
        self.jwks: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        self.requests: list[Asked] = []
        """The requests so far, in order."""
        self._path = path
        self._tls = tls
        self._fault: tuple[Target | None, _Behaviour] | None = None
        self._recovered = Event()
        self._server: _Server | None = None
        self._port = port
        self._closed = False
        self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, for good."""
        self._closed = True
        self._recovered.set()
        self._close_server()

    @property
    def issuer(self) -> str:
        """The ``iss`` of its tokens, and the address where discovery starts."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}{self._path}"

    @property
    def jwks_uri(self) -> str:
        """The address of its JWK Set."""
        return f"{self.issuer.rstrip('/')}/jwks"

    @property
    def fetches(self) -> int:
        """How many times the JWK Set was asked for."""
        return sum(asked.path == self._jwks_path for asked in tuple(self.requests))

    @property
    def discoveries(self) -> int:
        """How many times metadata was asked for, at whatever address."""
        return sum("/.well-known/" in asked.path for asked in tuple(self.requests))

    def mint(self, key: SigningKey | None = None, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token that is good for 15 minutes, with ``claims`` added or changed; those that are None are left out.

        It is signed with ``key``, by default ``signing_key``, and ``header`` changes the members of its header.
        """
        key = key or self.signing_key
        now = int(time.time())
        all_claims = {"iss": self.issuer, "sub": "ada", "iat": now, "exp": now + 900, **claims}
        all_headers = {"kid": key.jwk.get("kid"), **(header or {})}
        return jwt.encode(
            {name: value for name, value in all_claims.items() if value is not None},
            key.private,
            algorithm=key.algorithm,
            headers={name: value for name, value in all_headers.items() if value is not None},
        )

    def rotate(self, *, keep: int = 1, **members: Any) -> SigningKey:
        """Sign with a new key from now on, and publish it beside ``keep`` of those before.

        ``members`` change its JWK: ``kid="old-kid"``, ``alg=None``.
        """
        key = signing_key(self.algorithm, **members)
        self.keys = [key, *self.keys[:keep]]
        self.signing_key = key
        return key

    def fail(self, status: int = 500, *, at: Target | None = None) -> None:
        """Answer with this status."""
        self.answer(b"", status=status, at=at)

    def answer(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        at: Target | None = None,
    ) -> None:
        """Answer with these bytes."""

        def behave(request: _Request, released: Event) -> None:
            request.answer(status, {"Content-Length": str(len(body)), **(headers or {})}, [body])

        self._behave(behave, at)

    def redirect(self, address: str, status: int = 302, *, at: Target | None = None) -> None:
        """Redirect to ``address``."""
        self.answer(b"", status=status, headers={"Location": address}, at=at)

    def flood(self, size: int = 100 * 2**20, *, at: Target | None = None) -> None:
        """Answer with ``size`` bytes."""

        def behave(request: _Request, released: Event) -> None:
            chunk = b" " * 65536
            request.answer(200, {}, (chunk for _ in range(0, size, len(chunk))))

        self._behave(behave, at)

    def gzip_bomb(self, size: int = 100 * 2**20, *, at: Target | None = None) -> None:
        """Answer with a thousandth of ``size`` bytes, which decompress to all of them."""
        self.answer(gzip.compress(bytes(size)), headers={"Content-Encoding": "gzip"}, at=at)

    def stall(self, *, at: Target | None = None) -> None:
        """Accept connections, and answer nothing."""

        def behave(request: _Request, released: Event) -> None:
            released.wait(60)

        self._behave(behave, at)

    def drip(self, interval: float = 1, *, at: Target | None = None) -> None:
        """Answer with good headers, and a byte every ``interval`` seconds."""

        def slowly(released: Event) -> Iterator[bytes]:
            while not released.is_set():
                yield b" "
                released.wait(interval)

        def behave(request: _Request, released: Event) -> None:
            request.answer(200, {}, slowly(released))

        self._behave(behave, at)

    def refuse(self) -> None:
        """Accept no connections."""
        self._behave(lambda request, released: None, None)
        self._close_server()

    def recover(self) -> None:
        """Behave well again."""
        self._recovered.set()
        self._fault = None
        if self._server is None and not self._closed:
            self._listen()

    @property
    def _jwks_path(self) -> str:
        return f"{self._path.rstrip('/')}/jwks"

    def _behave(self, behaviour: "_Behaviour", at: Target | None) -> None:
        self.recover()
        self._recovered = Event()
        self._fault = (at, behaviour)

    def _listen(self) -> None:
        self._server = _Server(self._port, self._tls, self._respond)
        self._port = self._server.server_port

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _respond(self, request: "_Request") -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Asked(request.path, headers, time.monotonic()))
        released = self._recovered
        time.sleep(self.delay)
        document, target = self._document(request.path)
        if self._fault is not None and self._fault[0] in (None, target):
            self._fault[1](request, released)
        elif document is None:
            request.answer(404, {"Content-Length": "0"}, [])
        else:
            self._serve(request, json.dumps(document).encode(), headers.get("if-none-match"))

    def _document(self, path: str) -> tuple[dict[str, Any] | None, Target]:
        if path == self._jwks_path:
            return {"keys": [key.jwk for key in self.keys], **self.jwks}, "jwks"
        if path != f"{self._path.rstrip('/')}/.well-known/openid-configuration":
            return None, "metadata"
        return {"issuer": self.issuer, "jwks_uri": self.jwks_uri, **self.metadata}, "metadata"

    def _serve(self, request: "_Request", body: bytes, known: str | None) -> None:
        etag = f'"{sha256(body).hexdigest()[:16]}"'
        headers = {"ETag": etag, **self.headers}
        if known == etag:
            request.answer(304, headers, [])
        else:
            request.answer(
                200, {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}, [body]
            )


def signing_key(algorithm: str = "ES256", **members: Any) -> SigningKey:
    """A new key for ``algorithm`` (``ES256``, ``RS256`` or ``EdDSA``); ``members`` change its JWK; None omits one."""
    private: PrivateKey
    if algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    elif algorithm == "RS256":
        private = rsa.generate_private_key(65537, 2048)
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        raise ValueError(f"algorithm must be ES256, RS256 or EdDSA, not {algorithm!r}")
    public = private.public_key()
    jwk = {**public_jwk(public), "kid": thumbprint(public)[:16], "use": "sig", "alg": algorithm, **members}
    return SigningKey(private, algorithm, {name: value for name, value in jwk.items() if value is not None})


class _Request(BaseHTTPRequestHandler):
    # For one read or write: a peer that does neither is given up.
    timeout = 10

    def do_GET(self) -> None:
        try:
            cast("_Server", self.server).respond(self)
        except (OSError, ValueError):
            # The peer has gone away.
            self.close_connection = True

    def answer(self, status: int, headers: Mapping[str, str], body: Iterable[bytes]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in body:
            self.wfile.write(chunk)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: tests read their own output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int, tls: ssl.SSLContext | None, respond: Callable[[_Request], None]) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.respond = respond
        if tls is not None:
            # The request's thread does the handshake, not the listener.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = Thread(target=self.serve_forever, args=(0.02,), name="identity provider", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: a peer that goes away, or that does not trust our certificate, is what tests are about."""


_Behaviour: TypeAlias = Callable[[_Request, Event], None]
