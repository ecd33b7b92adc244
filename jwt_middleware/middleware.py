"""JWTMiddleware: find the token, verify it, attach the user; or refuse."""

import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias, Unpack

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._support.arguments import check_bool, check_callable, check_seconds, check_token_hook
from ._support.hooks import Hook
from .accepted import hear_accepted, tell_of_accepted
from .errors import ConfigurationError, MissingToken, Refusal, UserRefused
from .events import Advice
from .identity import JWTCredentials, JWTUser
from .live.connections import Connections
from .live.stream import serve_stream
from .live.websocket import WebSocketConnection, answer_with
from .provider import Provider, ProviderOptions
from .reading.access import PublicPaths, PublicRequests, ScopeTest, ask, check_scope_test, find_root_path, is_preflight
from .reading.authorization import authorization_line, read_line
from .reading.origins import Origins
from .reading.sources import Custom, Presented, Scheme, Source, Sources, bearer_header, key_of
from .refuser import MISSING, RefusalResponse, Refuser, WebSocketRefusals
from .resolver import ProviderResolver
from .resource import ProtectedResource, ServedResource
from .revocation.revoked import Revocations
from .telling import Events, Handlers, escape
from .verifying.configuration import make_providers
from .verifying.token import Token
from .verifying.verifier import CACHE_SIZE, MAX_TOKEN_SIZE, Clock, Verifier

LoadUser: TypeAlias = Callable[[Token], Any | Awaitable[Any]] | Callable[[Token, HTTPConnection], Any | Awaitable[Any]]

SCOPE_KEY = "jwt_middleware"
"""The key of the ``JWTMiddleware`` in the scope of a request that it has let through."""


class JWTMiddleware:
    """Wraps an ASGI app. The app sees verified users; a request with a bad token reaches it on public paths only.

    With a lifespan, keys and revocations are fetched before the first request and kept fresh until shutdown. Without
    one, they are fetched when requests need them. Scopes other than ``lifespan``, ``http`` and ``websocket`` pass
    untouched. These are the decisions for ``http`` and ``websocket``, in their order:

    1. The ``sources`` are read: ``missing_token``, ``ambiguous_token``, ``token_too_large``.
    2. A token from a cookie or a proxy needs a request from an allowed origin: ``cross_site``. See ``Origins``.
    3. The token is verified. See ``Verifier``.
    4. ``load_user`` loads the user: ``user_refused`` for None and False.
    5. A refusal is ignored on a public path. A missing token is ignored as well if ``allow_anonymous`` says so, and for
       a preflight if ``allow_preflight`` says so. The user is anonymous then.
    6. ``scope["auth"]`` and ``scope["user"]`` are set, whatever they were before, and the app is called. A refusal that
       is not ignored is answered instead.

    A WebSocket ends when its token expires or is revoked. The client sees the close code 3000. The app receives a
    disconnect, and any further send raises ``OSError``. ``renew`` prolongs the connection.

    ``app``
        Any ASGI application.
    ``providers``
        A ``Provider`` or several, and at most one ``ProviderResolver``. If you leave ``providers`` out, pass the
        keywords of ``Provider`` (``key``, ``audience``, ...) here: they make the only provider.
    ``allow_anonymous``
        True: a request without a token passes, and its user is anonymous. A request with a bad token is refused all the
        same. Or a plain function of the ASGI scope, which decides for one request at a time; only True lets it pass.
        Default False.
    ``public``
        Paths that need no token: ``/health``, ``GET /items/{id}``, ``/docs/*``. See ``PublicPaths``. A good token
        attaches its user there, too. Or a plain function of the ASGI scope that returns True for a public request; see
        ``PublicRequests``. Default: no path.
    ``allow_preflight``
        True: CORS preflights pass without a token, for an app whose CORS middleware is inside this one. Default False.
    ``sources``
        Where a token may be: ``bearer_header()``, ``cookie(name)``, ``proxy_header(name)``, ``subprotocol(name)``, or
        functions. See ``Sources``. Default: ``bearer_header()``.
    ``origins``
        Origins besides the app's own from which a cookie may authenticate requests, such as ``https://app.example``.
        Default: none.
    ``close_streams_on_expiry``
        True: responses without a Content-Length, such as server-sent events, end when their token does. The client gets
        a clean end, and the app a disconnect and ``OSError``. Default False.
    ``authenticate_within``
        Seconds after which a WebSocket that began without a token is closed with 3000 and ``missing_token``, unless the
        app has called ``renew`` with a good one. Default None: it stays open.
    ``load_user``
        ``load_user(token)`` or ``load_user(token, connection)``, with Starlette's ``HTTPConnection``. A sync one runs
        in a worker thread, which takes about 100 µs. It returns the app's own user for ``scope["user"]``, or None or
        False to refuse. Default: a ``JWTUser``.
    ``revocations``
        The object that knows which tokens were revoked before they expired: ``Sessions``, a ``RevocationView``, or your
        own ``Revocations``. Default None: tokens are good until they expire.
    ``websocket_refusals``
        ``"close"``: a refused WebSocket handshake is accepted and then closed, with a code and a reason that a page can
        read. Default ``"deny"``: it gets an HTTP response, which a page's script cannot read. See ``Refuser``.
    ``refusal_response``, ``realm``, ``challenge``
        See ``Refuser``. Defaults: JSON, ``api``, no further parameters.
    ``resource``
        A ``ProtectedResource``: its metadata document is served and named in every challenge, so that clients find out
        where to get a token and for which scopes. It is the default of ``audience``. Default None.
    ``on_event``
        A plain function that gets every event, for instance to count refusals, or several such functions. They run on
        the event loop. See ``jwt_middleware.events``. Default None: events are only logged. Several instances
        may share one ``Events`` object: advice that is logged only once is then logged once for all of them.
    ``tell_accepted``
        True: each request with a good token is an event, too, ``RequestAccepted``. Default False.
    ``debug``
        True: the body of a refusal also explains it, but only to clients on this machine whose requests have no
        forwarding header. For development. Default False.
    ``max_token_size``, ``cache_size``, ``clock``
        See ``Verifier``. Defaults: 16 KiB, 16,384 tokens, ``time.time``.

    Raises ``ConfigurationError`` for an argument that cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        providers: Provider | ProviderResolver | Iterable[Provider | ProviderResolver] | None = None,
        allow_anonymous: bool | ScopeTest = False,
        public: Iterable[str] | ScopeTest = (),
        allow_preflight: bool = False,
        sources: Iterable[Source | Scheme | Custom] = (bearer_header(),),
        origins: Iterable[str] = (),
        close_streams_on_expiry: bool = False,
        authenticate_within: float | None = None,
        load_user: LoadUser | None = None,
        revocations: Revocations | None = None,
        refusal_response: RefusalResponse | None = None,
        realm: str = "api",
        websocket_refusals: WebSocketRefusals = "deny",
        challenge: Mapping[str, str] | None = None,
        resource: ProtectedResource | None = None,
        on_event: Handlers | Events | None = None,
        tell_accepted: bool = False,
        debug: bool = False,
        max_token_size: int = MAX_TOKEN_SIZE,
        cache_size: int = CACHE_SIZE,
        clock: Clock = time.time,
        **provider: Unpack[ProviderOptions],
    ) -> None:
        check_callable("app", app, "scope", "receive", "send")
        if callable(allow_anonymous):
            check_scope_test("allow_anonymous", allow_anonymous)
        else:
            check_bool("allow_anonymous", allow_anonymous)
        check_bool("allow_preflight", allow_preflight)
        check_bool("close_streams_on_expiry", close_streams_on_expiry)
        if authenticate_within is not None:
            check_seconds("authenticate_within", authenticate_within, minimum=1)
        user_sees_connection = load_user is not None and check_token_hook("load_user", load_user)
        if isinstance(resource, ProtectedResource) and providers is None:
            provider.setdefault("audience", resource.identifier)
        self.events = on_event if isinstance(on_event, Events) else Events(on_event)
        self.verifier = Verifier(
            make_providers(providers, provider, JWTMiddleware),
            max_token_size=max_token_size,
            cache_size=cache_size,
            revocations=revocations,
            clock=clock,
            events=self.events,
        )
        # Keys and revocations may be shared with other middlewares, and tell all of them.
        for part in (*self.verifier.remote, revocations):
            events = getattr(part, "events", None)
            if isinstance(events, Events):
                events.add_handlers(self.events.handlers)
        # Looked up once instead of with each request.
        self._recall = self.verifier.recall
        self._sees_connection = self.verifier.sees_connection
        self._max_token_size = max_token_size
        self._must_admit = self.verifier.must_admit
        self._sources = Sources(sources)
        self._origins = Origins(origins)
        self._header_only = self._sources.header_only
        self._resource = None
        challenge_401: dict[str, str] = {}
        if resource is not None:
            app = self._resource = ServedResource(app, resource, self.verifier.providers, self._sources.bearer_methods)
            challenge = {"resource_metadata": resource.metadata_url, **(challenge or {})}
            if resource.first_scopes:
                challenge_401["scope"] = " ".join(resource.first_scopes)
        check_bool("debug", debug)
        self.debug = debug
        """Whether refusals explain themselves to clients on this machine."""
        if debug:
            if refusal_response is not None:
                raise ConfigurationError("debug: leave it out, or refusal_response: both make the body of a refusal")
            text = "debug=True: refusals explain themselves to clients on this machine"
            self.events.tell(Advice(text=text), once="debug")
            from .debugging import ExplainedRefusals

            refusal_response = ExplainedRefusals(self.verifier, self._sources, clock)
        self.refuser = Refuser(
            realm,
            refusal_response,
            challenge=challenge,
            challenge_401=challenge_401,
            websocket_refusals=websocket_refusals,
            origins=self._origins,
            sources=self._sources,
            events=self.events,
        )
        """Answers refusals in this middleware's name, as ``scope["auth"].refuser``."""
        # If no code of the app sees refusals, one shared refusal serves every request without an Authorization header.
        self._is_default = self.refuser.is_default
        # None if there are none, because asking an empty one costs a call.
        self._public = PublicRequests(public) if callable(public) else PublicPaths(public) or None
        self._mention_root_path(app)
        self._allow_anonymous = allow_anonymous
        self._allow_preflight = allow_preflight
        self._load_user = None if load_user is None else Hook(load_user)
        self._user_sees_connection = user_sees_connection
        self._connections = Connections(
            good_until=self.verifier.good_until,
            authenticate=self._authenticate,
            revocations=revocations,
            refuser=self.refuser,
            clock=clock,
            authenticate_within=authenticate_within,
            events=self.events,
        )
        self.app = partial(serve_stream, self._connections, app) if close_streams_on_expiry else app
        check_bool("tell_accepted", tell_accepted)
        if tell_accepted:
            self.app = hear_accepted(self.app, partial(tell_of_accepted, self.events))
        for handler in self.events.handlers:
            watch = getattr(handler, "watch", None)
            if callable(watch):
                watch(self)

    @property
    def public_entries(self) -> tuple[str, ...]:
        """The paths of ``public``; none if it is a function."""
        return self._public.entries if isinstance(self._public, PublicPaths) else ()

    @property
    def connections(self) -> Connections:
        """What the open connections share, for integrations that have connections of their own kind."""
        return self._connections

    @property
    def open_connections(self) -> int:
        """The number of open connections that end with their token: WebSockets, and streams if they are closed."""
        return len(self._connections)

    def presented(self, scope: Scope) -> Presented | None:
        """The token of the request of ``scope`` as it was sent, for integrations; None if there is none."""
        return self._sources.find(scope, self._max_token_size)

    def check_origin(self, scope: Scope) -> None:
        """Raise ``CrossSite`` unless the request of ``scope`` comes from an allowed origin, whatever its method."""
        if not self._origins.vouched_for(scope):
            raise self._origins.refusal(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, app = scope["type"], self.app
        if kind == "http" or kind == "websocket":
            try:
                # 1. to 3. Read the sources, and verify the token.
                headers = scope["headers"]
                # Attributes instead of calls: this is every request's path.
                if headers.__class__ is not list and not isinstance(headers, list | tuple):
                    # ASGI allows any iterable, and the app must not find one that is used up.
                    headers = scope["headers"] = list(headers)
                if self._header_only:
                    line = authorization_line(headers)
                    outcome = None if line is None else self._judge_line(line, scope)
                else:
                    line = b""
                    outcome = self._judge_anywhere(scope)
                if outcome is not None:
                    # 4. Load the user.
                    token: Any = outcome
                    if outcome.__class__ is not Token:
                        token = await token
                    scope["user"] = JWTUser(token) if self._load_user is None else await self._load(token, scope)
                    refusal: Refusal | None = None
                elif self._allow_anonymous and self._may_be_anonymous(scope):
                    token, scope["user"], refusal = None, JWTUser(None), None
                else:
                    is_missing = True
                    refusal = MISSING if line is None and self._is_default else MissingToken()
            except Refusal as raised:
                # A hook can raise MissingToken, too, but a token that was presented and refused is not missing.
                is_missing = False
                # Its traceback holds this frame, which holds the refusal: a reference cycle.
                refusal = raised.with_traceback(None)
            # 5. Refuse, or ignore the refusal. pyright cannot tell that is_missing comes with every refusal.
            if refusal is not None:
                if not self._may_pass(scope, is_missing):  # pyright: ignore[reportPossiblyUnboundVariable]
                    await self.refuser(refusal, scope, receive, send)
                    return
                if not is_missing:  # pyright: ignore[reportPossiblyUnboundVariable]
                    self.refuser.tell(refusal, scope, ignored=True)
                token, scope["user"] = None, JWTUser(None)
            # 6. In place, as Starlette's own middleware does: outer tracing reads what routers add to this dict.
            scope["auth"] = JWTCredentials(token, self.refuser)  # pyright: ignore[reportPossiblyUnboundVariable]
            scope[SCOPE_KEY] = self
            if kind == "websocket":
                app = self._serve_websocket
        elif kind == "lifespan" and self.verifier.has_work:
            app = self._serve_lifespan
        await app(scope, receive, send)

    def _may_be_anonymous(self, scope: Scope) -> bool:
        allow = self._allow_anonymous
        return allow is True or (allow is not False and ask("allow_anonymous", allow, scope))

    async def _serve_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        running = True

        async def send_in_order(message: Message) -> None:
            nonlocal running
            if message["type"] == "lifespan.startup.complete":
                await self.verifier.start()
            elif message["type"] in _LAST_MESSAGES:
                # First: hypercorn cancels this task as soon as it has the message.
                running = False
                await self.verifier.stop()
            await send(message)

        try:
            # An exception of the app tells the server that the app knows no lifespan, so it passes unchanged.
            await self.app(scope, receive, send_in_order)
        finally:
            if running:
                await self.verifier.stop()

    def _judge_line(self, line: bytes, scope: Scope) -> Token | Coroutine[Any, Any, Token] | None:
        token = self._recall(line)
        if token is not None:
            return self.verifier.admit(token, self._connection(scope)) if self._must_admit else token
        presented = read_line(line, self._max_token_size)
        if presented is None:
            return None
        raw, key = presented
        connection = HTTPConnection(scope) if self._sees_connection else None
        # A line that was not remembered is not looked up again.
        return self.verifier.decide(raw, key, connection) if key is line else self.verifier.judge(raw, key, connection)

    def _judge_anywhere(self, scope: Scope) -> Token | Coroutine[Any, Any, Token] | None:
        presented = self._sources.find(scope, self._max_token_size)
        if presented is None:
            return None
        if presented.is_ambient and not self._origins.admit(scope):
            raise self._origins.refusal(scope)
        if presented.scheme is not None:
            return self._judge_by(presented.scheme, presented, scope)
        return self.verifier.judge(presented.raw, presented.key, self._connection(scope))

    async def _judge_by(self, scheme: Scheme, presented: Presented, scope: Scope) -> Token:
        """Judge a token of another scheme than Bearer, and ask the scheme whether its sender may use it."""
        outcome = self.verifier.judge(presented.raw, presented.key, self._connection(scope), scheme.confirms)
        return await self._confirm(scheme, outcome if isinstance(outcome, Token) else await outcome, scope)

    async def _confirm(self, scheme: Scheme, token: Token, scope: Scope) -> Token:
        try:
            await scheme.confirm(token, scope)
        except Refusal as refusal:
            refusal.about(token)
            raise
        return token

    def _connection(self, scope: Scope) -> HTTPConnection | None:
        """The connection for the hooks that ask for it; None if no hook does."""
        return HTTPConnection(scope) if self._sees_connection else None

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._sources.take_out(scope)
        if answer is not None:
            send = answer_with(answer, scope["subprotocols"], send)
        connection = WebSocketConnection(self._connections, scope["auth"].token, receive, send)
        await connection.serve(self.app, scope)

    async def _authenticate(self, raw: str | bytes, scope: Scope) -> tuple[Token, Any]:
        """Verify ``raw``, a new token for an open connection. Return the token and its user. Raises a ``Refusal``."""
        scheme = self._sources.scheme_of(scope, self._max_token_size)
        key = key_of(raw if isinstance(raw, bytes) else raw.encode("utf-8", "replace"), scheme)
        confirms = frozenset[str]() if scheme is None else scheme.confirms
        token = await self.verifier.verify(raw, key=key, connection=self._connection(scope), confirms=confirms)
        if scheme is not None:
            await self._confirm(scheme, token, scope)
        return token, JWTUser(token) if self._load_user is None else await self._load(token, scope)

    async def _load(self, token: Token, scope: Scope) -> Any:
        """Return the app's own user of ``token``."""
        assert self._load_user is not None
        try:
            if self._user_sees_connection:
                user = await self._load_user(token, HTTPConnection(scope))
            else:
                user = await self._load_user(token)
            if user is None or user is False:
                raise UserRefused(expected="load_user returns a user", found=repr(user))
        except Refusal as refusal:
            refusal.about(token)
            raise
        return user

    def _mention_root_path(self, app: ASGIApp) -> None:
        root_path = find_root_path(app)
        entries = self._public.entries_in(root_path) if isinstance(self._public, PublicPaths) and root_path else []
        if entries:
            text = (
                f"public entry {entries[0]!r} opens more than it says: the app has root_path={root_path!r}, and serves "
                "paths below it without that prefix; add the middleware inside the app (app.add_middleware), where "
                "entries are compared without it, or leave root_path to the server"
            )
            self.events.tell(Advice(text=text), once="root_path")

    def _may_pass(self, scope: Scope, is_missing: bool) -> bool:
        if self._public is not None:
            if scope in self._public:
                return True
            if isinstance(self._public, PublicPaths) and self._public.misses_only_by_root_path(scope):
                text = (
                    f"refused {escape(scope['path'])}, which looks like an entry of public: this middleware stands "
                    f"below {escape(scope['root_path'])!r}, and entries are compared without that (said once)"
                )
                self.events.tell(Advice(text=text), once="public below a mount")
        if self._resource is not None and scope in self._resource:
            return True
        if not (is_missing and is_preflight(scope)):
            return False
        if not self._allow_preflight:
            self.events.tell(Advice(text=_PREFLIGHT), once="preflight")
        return self._allow_preflight


_PREFLIGHT = (
    "refused a CORS preflight: put CORSMiddleware outside JWTMiddleware; or, if CORS is answered inside it, set "
    "allow_preflight=True (said once)"
)

_LAST_MESSAGES = frozenset(("lifespan.shutdown.complete", "lifespan.shutdown.failed"))
