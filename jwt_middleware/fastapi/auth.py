"""Who may call a FastAPI app, and how do its routes learn who does? ``Auth``."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Unpack

from fastapi import FastAPI
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from .._support.arguments import check_bool
from ..errors import ConfigurationError
from ..identity import JWTCredentials, JWTUser
from ..issuing import Sessions, TokenIssuer
from ..middleware import JWTMiddleware, LoadUser
from ..provider import Provider, ProviderOptions
from ..reading.access import ScopeTest
from ..reading.sources import Custom, Scheme, Source, bearer_header, cookie_names
from ..refuser import RefusalResponse, WebSocketRefusals
from ..resolver import ProviderResolver
from ..resource import ProtectedResource
from ..revocation.revoked import Revocations
from ..telling import Handlers
from ..verifying.configuration import check_names
from ..verifying.verifier import Clock
from .dependencies import AnyOfGuard, Guard, OptionalGuard, TokenGuard, check_scopes
from .install import install
from .local_keys import with_local_keys
from .overrides import AsUser


class MiddlewareOptions(ProviderOptions, total=False):
    """The keywords of ``JWTMiddleware``."""

    providers: Provider | ProviderResolver | Iterable[Provider | ProviderResolver] | None
    allow_anonymous: bool | ScopeTest
    public: Iterable[str] | ScopeTest
    allow_preflight: bool
    sources: Iterable[Source | Scheme | Custom]
    origins: Iterable[str]
    close_streams_on_expiry: bool
    authenticate_within: float | None
    load_user: LoadUser | None
    revocations: Revocations | None
    refusal_response: RefusalResponse | None
    realm: str
    websocket_refusals: WebSocketRefusals
    challenge: Mapping[str, str] | None
    resource: ProtectedResource | None
    on_event: Handlers | None
    tell_accepted: bool
    debug: bool
    max_token_size: int
    cache_size: int
    clock: Clock


class Auth(Guard):
    """Says who is calling: to every route of an app where it is installed, and to OpenAPI.

    ::

        auth = Auth(sessions=sessions, scopes={"orders:write": "Change orders"})
        auth.install(app, public=["/health"], docs=True)

        Caller = Annotated[JWTUser, Depends(auth)]
        Buyer = Annotated[JWTUser, Security(auth, scopes=["orders:write"])]
        Guest = Annotated[JWTUser | None, Depends(auth.optional)]

    As a dependency it gives ``scope["user"]``: the ``JWTUser``, or what ``load_user`` found. ``auth.token`` gives the
    verified ``Token``, ``auth.optional`` the user or None, ``auth.any_of(...)`` the user who has one of several scopes.
    All of them check the scopes of every ``Security(...)`` above them, also for WebSockets. What they refuse is
    answered as by the middleware, with its realm and its ``refusal_response``.

    ``sessions``
        ``Sessions``, or a ``TokenIssuer``, whose tokens cannot be revoked: their tokens are accepted, and ended
        sessions are refused. The keywords of ``Provider`` may stand beside it, except those that say whose tokens these
        are.
    ``scopes``
        What each scope allows, for the documentation: ``{"orders:write": "Change orders"}``.
    ``docs_client_id``
        The id of the OAuth client with which ``/docs`` logs users in at a configured ``issuer``, with PKCE and without
        a secret. Default None: users paste the id of a client there.
    others
        See ``JWTMiddleware``. Without ``sessions``, they say whose tokens are accepted.

    Raises ``ConfigurationError`` for an argument that cannot work.
    """

    def __init__(
        self,
        *,
        sessions: Sessions | TokenIssuer | None = None,
        scopes: Mapping[str, str] | None = None,
        docs_client_id: str | None = None,
        **options: Unpack[MiddlewareOptions],
    ) -> None:
        check_names(options, MiddlewareOptions.__optional_keys__, Auth)
        self.auth = self
        self.scopes = _check_scopes(scopes)
        self.docs_client_id = check_client_id(docs_client_id)
        # These go to one middleware for each app, so iterables that can be read only once are read here.
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, Iterator) else value for name, value in options.items()
        }
        if sessions is not None:
            given = _with_sessions(sessions, given)
        # Mistakes are found here, not at the first request.
        checked = JWTMiddleware(_no_app, **given)
        self.refuser = checked.refuser
        """Answers refusals in the name of this object."""
        self.events = checked.events
        """Tells the operator what happens here."""
        self.providers: tuple[Provider, ...] = tuple(map(with_local_keys, checked.verifier.providers))
        """Whose tokens are accepted, without those that a resolver finds. They are copies of those that were given, and
        may have one more key: see ``jwt_middleware.testing.headers_for``."""
        self.options: dict[str, Any] = {
            **{name: value for name, value in given.items() if name not in ProviderOptions.__optional_keys__},
            "providers": (*self.providers, *_find_resolver(given.get("providers"))),
            "on_event": self.events,
        }
        """The keywords of the middleware that ``install`` adds."""
        self.clock: Clock = given.get("clock", time.time)
        """Gives Unix time."""
        sources: Iterable[Any] = self.options.get("sources", ())
        self.cookies = cookie_names(sources)
        """The cookies in which a token may come."""
        self.token = TokenGuard(self)
        self.optional = OptionalGuard(self)
        self._any_of: dict[tuple[str, ...], AnyOfGuard] = {}

    def __repr__(self) -> str:
        return f"Auth({', '.join(repr(provider.name) for provider in self.providers)})"

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> JWTUser:
        """The user. A request without a token is refused (401), and one whose token lacks a scope (403)."""
        self.admit(connection.scope, security_scopes.scopes)
        user: JWTUser = connection.scope["user"]
        return user

    def any_of(self, *scopes: str) -> AnyOfGuard:
        """The dependency for users who have one of ``scopes``: the same object for the same scopes, in any order."""
        names = check_scopes(scopes)
        return self._any_of.setdefault(names, AnyOfGuard(self, names))

    def install(
        self,
        app: FastAPI,
        *,
        public: Iterable[str] = (),
        docs: bool = False,
        docs_client_id: str | None = None,
    ) -> None:
        """Put the middleware in front of the routes of ``app``, behind all other middleware; document it in OpenAPI.

        ``public`` are paths that need no token, beside those of ``Auth(public=...)``; see ``JWTMiddleware``. The
        routes of an ``auth_router`` need not be named. ``docs=True`` opens the documentation, wherever ``app`` has it:
        the schema, ``/docs`` with its redirect, ``/redoc``. ``docs_client_id`` replaces the one of ``Auth``.

        Routes may be added later. One app takes one ``Auth``, before it starts: otherwise ``ConfigurationError``.
        """
        check_bool("docs", docs)
        client_id = check_client_id(docs_client_id) or self.docs_client_id
        install(self, app, public=public, docs=docs, docs_client_id=client_id)

    def credentials(self, scope: Scope) -> JWTCredentials:
        """Who is calling: what the middleware put into ``scope``, or an ``as_user`` that replaces this object.

        Raises ``RuntimeError`` if the middleware of this object is not in front.
        """
        overrides = getattr(scope.get("app"), "dependency_overrides", None)
        if overrides:
            replacement = overrides.get(self)
            if isinstance(replacement, AsUser):
                return replacement.enter(scope)
        credentials = scope.get("auth")
        if not isinstance(credentials, JWTCredentials) or credentials.refuser is not self.refuser:
            raise RuntimeError(
                "a dependency of Auth found no credentials of its own: call auth.install(app) on the app, or on the "
                "app in which it is mounted, and use the dependencies of the same Auth"
            )
        return credentials

    def present(self, raw: str) -> dict[str, str]:
        """The headers that present the token ``raw`` where the middleware looks for one."""
        if bearer_header() in self.options.get("sources", (bearer_header(),)):
            return {"Authorization": f"Bearer {raw}"}
        for name in self.cookies:
            # As if from one of the app's own pages. Otherwise the token would not count for unsafe methods.
            return {"Cookie": f"{name}={raw}", "Sec-Fetch-Site": "same-origin"}
        raise ConfigurationError("sources: no header presents a token there; add bearer_header() to them")


def check_client_id(client_id: str | None) -> str | None:
    """``client_id``; raises ``ConfigurationError`` if it is not an id."""
    if client_id is not None and not (isinstance(client_id, str) and client_id):
        raise ConfigurationError(f"docs_client_id must be the id of an OAuth client, not {type(client_id).__name__}")
    return client_id


def _check_scopes(scopes: Mapping[str, str] | None) -> dict[str, str]:
    if scopes is None:
        return {}
    if not isinstance(scopes, Mapping) or not all(isinstance(text, str) for pair in scopes.items() for text in pair):
        raise ConfigurationError("scopes must say what each one allows, for instance {'orders:write': 'Change orders'}")
    return dict(scopes)


def _with_sessions(sessions: Sessions | TokenIssuer, options: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(sessions, Sessions | TokenIssuer):
        raise ConfigurationError(f"sessions must be Sessions or a TokenIssuer, not {type(sessions).__name__}")
    issuer = sessions if isinstance(sessions, TokenIssuer) else sessions.tokens
    ours = [name for name in ("providers", "key", "jwks", "issuer", "audience", "name") if name in options]
    if ours:
        raise ConfigurationError(
            f"{', '.join(ours)} cannot stand beside sessions=, which says whose tokens are accepted; for several "
            "providers, give providers=[sessions.tokens.provider(), ...] and revocations=sessions"
        )
    names = ProviderOptions.__optional_keys__
    rules: Any = {name: value for name, value in options.items() if name in names}
    others = {name: value for name, value in options.items() if name not in names}
    return {
        "clock": issuer.clock,
        **({"revocations": sessions} if isinstance(sessions, Sessions) else {}),
        **others,
        "providers": issuer.provider(**rules),
    }


def _find_resolver(providers: Any) -> tuple[ProviderResolver, ...]:
    several = providers if isinstance(providers, Iterable) else (providers,)
    return tuple(one for one in several if isinstance(one, ProviderResolver))


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None: ...
