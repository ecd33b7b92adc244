"""How is a refusal answered, and how is an operator told of it?

Over HTTP the answer is a response; over WebSocket it is a denial, or a close if the server has none.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable, isclass
from typing import Literal, TypeAlias

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from . import errors
from ._support.arguments import check_callable, show
from .errors import ConfigurationError, MissingToken, Refusal, quoted
from .events import RequestRefused, level_of
from .reading.origins import Origins
from .reading.other_schemes import describe_credentials
from .reading.sources import Sources, bearer_header
from .telling import Events, describe_refusal, escape, logger_of

_Answer: TypeAlias = tuple[int, tuple[tuple[bytes, bytes], ...], bytes]

WebSocketRefusals: TypeAlias = Literal["deny", "close"]

RefusalResponse: TypeAlias = Callable[[HTTPConnection, Refusal], Response | Awaitable[Response]]


class Refuser:
    """Answers refusals in the name of ``realm`` (RFC 9110 11.5), printable ASCII.

    ``refusal_response(connection, refusal)``, sync or async, builds another response than the default JSON. Headers
    that the answer cannot do without (RFC 9110 11.6.1: a 401 MUST carry a challenge) are added if it lacks them.

    ``challenge`` holds further parameters of every Bearer challenge (RFC 9110 11.4), ``challenge_401`` more of them for
    the status 401. A refusal that names a parameter itself keeps its own value.

    With ``websocket_refusals="close"``, a refused WebSocket handshake is accepted and closed, because a page cannot
    read the status of a denied one. The close code and its reason say why, but not to a page whose Origin is neither
    the request's own nor one of ``origins``: for such a page every refusal is 3003 without a reason. ``sources`` say
    which subprotocol to accept with.

    Each refusal is reported exactly once, through ``events``.
    """

    def __init__(
        self,
        realm: str = "api",
        refusal_response: RefusalResponse | None = None,
        *,
        challenge: Mapping[str, str] | None = None,
        challenge_401: Mapping[str, str] | None = None,
        websocket_refusals: WebSocketRefusals = "deny",
        origins: Origins | None = None,
        sources: Sources | None = None,
        events: Events | None = None,
    ) -> None:
        if not isinstance(realm, str) or not (realm.isascii() and realm.isprintable()):
            raise ConfigurationError(f"realm must be printable ASCII text, and this {show(realm)} is not")
        if refusal_response is not None:
            check_callable("refusal_response", refusal_response, "connection", "refusal")
        if websocket_refusals not in ("deny", "close"):
            raise ConfigurationError(f"websocket_refusals must be 'deny' or 'close', not {show(websocket_refusals)}")
        self._realm = realm
        self._parameters = _checked_parameters({} if challenge is None else challenge)
        self._parameters_401 = self._parameters | _checked_parameters({} if challenge_401 is None else challenge_401)
        self._accepts_to_close = websocket_refusals == "close"
        self._origins = Origins(()) if origins is None else origins
        self._sources = Sources([bearer_header()]) if sources is None else sources
        self._events = Events() if events is None else events
        self._log = logger_of(RequestRefused.about)
        self._refusal_response = refusal_response
        self.is_default = refusal_response is None
        """Whether no ``refusal_response`` gets to see the refusals."""
        self._answers: dict[type[Refusal], _Answer] = {}
        self._missing = self._json(MISSING)

    async def __call__(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or the WebSocket handshake, of ``scope`` with ``refusal``."""
        kind = scope["type"]
        if kind == "websocket":
            if self._accepts_to_close:
                await self._accept_and_close(refusal, scope, send)
                return
            if "websocket.http.response" not in (scope.get("extensions") or ()):
                await self.close(refusal, scope, send)
                return
        # RFC 9110 9.3.2: HEAD gets the headers of a GET, and no content. Not every server sees to that.
        is_head = kind == "http" and scope["method"] == "HEAD"
        if self._refusal_response is None:
            if refusal is not MISSING:
                self.tell(refusal, scope)
                status, headers, body = self._json(refusal)
            else:
                # Requests without any credentials are the cheapest to send. They cost no more here.
                if self._events.handlers or self._log.isEnabledFor(_INFO):
                    self.tell(refusal, scope)
                status, headers, body = self._missing
            start, end = _MESSAGES[kind]
            await send({"type": start, "status": status, "headers": list(headers)})
            await send({"type": end, "body": b"" if is_head else body})
        else:
            response = await self.response(refusal, scope)
            await response(scope, receive, _without_content(send) if is_head else send)

    async def close(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        """Refuse on a WebSocket, accepted or not, by closing it with the code and the reason of ``refusal``."""
        self.tell(refusal, scope)
        await self.end_websocket(refusal, send)

    async def _accept_and_close(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        # To a browser, a handshake has failed if it offered subprotocols and none is chosen.
        await send({"type": "websocket.accept", "subprotocol": self._sources.subprotocol(scope)})
        if self._origins.is_foreign(scope):
            # The page could otherwise learn from the code whether its visitor has a session here.
            self.tell(refusal, scope)
            await send({"type": "websocket.close", "code": _FORBIDDEN, "reason": ""})
        else:
            await self.close(refusal, scope, send)

    async def end_websocket(self, refusal: Refusal, send: Send) -> None:
        """Close a WebSocket whose token is no longer good. ``ConnectionEnded`` tells of it, not this method."""
        await send({"type": "websocket.close", "code": _close_code(refusal), "reason": refusal.code})

    async def end_stream(self, refusal: Refusal, send: Send) -> None:
        """End a response that is under way. The client sees a complete one. ``ConnectionEnded`` tells of it."""
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def exception(self, refusal: Refusal, scope: Scope) -> HTTPException | WebSocketException:
        """The exception to raise where a returned response would be ignored; Starlette and FastAPI answer it."""
        self.tell(refusal, scope)
        if scope["type"] == "websocket":
            return WebSocketException(_close_code(refusal), refusal.code)
        return HTTPException(refusal.status, refusal.description, dict(self._headers(refusal)))

    def plain(self, refusal: Refusal, scope: Scope) -> tuple[int, dict[str, str], int]:
        """Status, headers and close code of ``refusal``, for a framework that makes its own responses."""
        self.tell(refusal, scope)
        return refusal.status, dict(self._headers(refusal)), _close_code(refusal)

    async def response(self, refusal: Refusal, scope: Scope) -> Response:
        """The response that says ``refusal``."""
        self.tell(refusal, scope)
        if self._refusal_response is None:
            status, headers, body = self._json(refusal)
            response = Response(body, status)
            response.raw_headers = list(headers)
            return response
        built = self._refusal_response(HTTPConnection(scope), refusal)
        response = await built if isawaitable(built) else built
        if not isinstance(response, Response):
            raise TypeError(f"refusal_response must give a Starlette Response, not {type(response).__name__}")
        for name, value in self._headers(refusal):
            response.headers.setdefault(name, value)
        return response

    def tell(self, refusal: Refusal, scope: Scope, *, ignored: bool = False) -> None:
        """Tell that the request of ``scope`` was refused, or, if its path is public, that its token was ignored."""
        code = refusal.code
        scheme, token_like = None, False
        if code == MissingToken.code and refusal is not MISSING:
            scheme, token_like = describe_credentials(scope["headers"])
        level = logging.WARNING if scheme is not None or token_like else level_of(code)
        if self._events.skips(level, RequestRefused.about, (code, refusal.provider, level, ignored)):
            return
        client = scope.get("client")
        event = RequestRefused(
            **describe_refusal(refusal),
            scheme=scheme,
            token_like=token_like,
            method=escape(scope["method"]) if "method" in scope else None,
            path=escape(scope["path"]),
            client=escape(str(client[0])) if client else None,
            ignored=ignored,
        )
        self._events.tell(event)

    def _headers(self, refusal: Refusal) -> list[tuple[str, str]]:
        """The headers that the answer cannot do without, with a challenge for each scheme of the sources."""
        parameters = self._parameters_401 if refusal.status == 401 else self._parameters
        return [
            (name, self._challenge(value, parameters) if name.lower() == "www-authenticate" else value)
            for name, value in refusal.headers(self._realm)
        ]

    def _challenge(self, challenge: str, parameters: Mapping[str, str]) -> str:
        """``challenge`` with the configured parameters and those of its scheme; a Bearer one in every scheme."""
        scheme, _, rest = challenge.partition(" ")
        schemes = self._sources.schemes
        named = {scheme: schemes[scheme]} if scheme in schemes else {}
        several = schemes if scheme == "Bearer" else named
        if not several:
            return challenge
        return ", ".join(_with_parameters(f"{name} {rest}", {**own, **parameters}) for name, own in several.items())

    def _json(self, refusal: Refusal) -> _Answer:
        kind = type(refusal)
        # A refusal of one of our classes that holds nothing but details for the operator gets the same answer as all
        # others of its class. That answer is made once, so that an attacker's bad tokens cost us no more than good
        # ones.
        is_constant = kind in _OURS and errors.DETAILS.issuperset(refusal.__dict__)
        answer = self._answers.get(kind) if is_constant else None
        if answer is not None:
            return answer
        content = JSONResponse(refusal.body)
        headers = ((name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers(refusal))
        answer = refusal.status, (*headers, *content.raw_headers), bytes(content.body)
        if is_constant:
            self._answers[kind] = answer
        return answer


_INFO = logging.INFO

MISSING = MissingToken()
"""It has no details and is never raised. Making a new one would be a good part of the cost of a missing token."""

_OURS = frozenset(kind for kind in vars(errors).values() if isclass(kind) and issubclass(kind, Refusal))

_MESSAGES = {
    "http": ("http.response.start", "http.response.body"),
    "websocket": ("websocket.http.response.start", "websocket.http.response.body"),
}

# IANA's WebSocket Close Code registry: Unauthorized, Forbidden, Try Again Later; RFC 6455 7.4.1: policy violation.
_FORBIDDEN = 3003
_CLOSE_CODES = {401: 3000, 403: _FORBIDDEN, 503: 1013}


# RFC 9110 5.6.2: a token; `realm` and the parameters of RFC 6750 section 3 are the refusal's own.
_PARAMETER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED = frozenset({"realm", "error", "error_description"})


def _checked_parameters(parameters: object) -> dict[str, str]:
    if not isinstance(parameters, Mapping):
        raise ConfigurationError(f"challenge must be a dict of parameters, not {type(parameters).__name__}")
    for name, value in parameters.items():
        if not isinstance(name, str) or not _PARAMETER.fullmatch(name) or name.lower() in _RESERVED:
            raise ConfigurationError(
                f"challenge: {name!r} cannot be a parameter; it must be a word (RFC 9110 5.6.2) other than "
                f"{', '.join(sorted(_RESERVED))}"
            )
        if not isinstance(value, str) or not value or not (value.isascii() and value.isprintable()):
            raise ConfigurationError(f"challenge: {name} must be printable ASCII text")
        if name.lower() == "scope" and errors.OFFLINE_ACCESS in value.split():
            raise ConfigurationError(
                f"challenge: leave {errors.OFFLINE_ACCESS} out of the scopes; no resource needs it"
            )
    # RFC 9110 11.2: the names are case-insensitive, and each stands only once.
    checked = {name.lower(): value for name, value in parameters.items()}
    if len(checked) < len(parameters):
        raise ConfigurationError(f"challenge: a parameter has two values: {', '.join(sorted(parameters))}")
    return checked


def _with_parameters(challenge: str, parameters: Mapping[str, str]) -> str:
    added = [f"{name}={quoted(value)}" for name, value in parameters.items() if f" {name}=" not in challenge]
    return ", ".join([challenge, *added])


def _close_code(refusal: Refusal) -> int:
    return _CLOSE_CODES.get(refusal.status, 1008)


def _without_content(send: Send) -> Send:
    async def send_headers(message: Message) -> None:
        await send(message if message["type"] == "http.response.start" else {**message, "body": b""})

    return send_headers
