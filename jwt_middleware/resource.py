"""How does a client find out who issues tokens for this service? Protected-resource metadata (RFC 9728)."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ._support.arguments import check_bool, check_strings, show
from .errors import OFFLINE_ACCESS, ConfigurationError
from .events import Advice
from .provider import Provider
from .telling import Events

WELL_KNOWN = "/.well-known/oauth-protected-resource"
"""RFC 9728 section 3: inserted between the host and the path of the resource."""


class ProtectedResource:
    """This service as OAuth clients see it; given to ``JWTMiddleware(resource=)``. All but the first are keywords.

    ``identifier``
        The URL of the resource (RFC 9728 section 1.2), for instance ``https://api.example/mcp``: https, or http on
        loopback, without query and fragment. It is also the audience of its tokens (RFC 8707) unless ``audience`` says
        otherwise.
    ``scopes``
        The scopes of the resource: a list, or a dict from each to its description.
    ``first_scopes``
        The scopes that a 401 tells a client to ask for first. Default: all of ``scopes``.
    ``name``, ``documentation``, ``policy_uri``, ``tos_uri``
        ``resource_name``, ``resource_documentation``, ``resource_policy_uri`` and ``resource_tos_uri`` of the document.
    ``authorization_servers``
        The issuers that clients can ask for tokens. Default: the issuers of the providers.
    ``jwks_uri``
        Where the resource's own public keys are, if it has any. These are never the keys of a provider.
    ``root``
        True: the document is also served where a resource without a path would have it, for old MCP clients that look
        nowhere else. A client that follows RFC 9728 section 3.3 does not accept it there. Default False.
    ``metadata``
        Further members of the document, by their registered names.

    The document and the challenge depend only on the configuration: nothing in them comes from the ``Host`` header or
    from a header that a proxy adds.

    Raises ``ConfigurationError`` for an argument that cannot work.
    """

    def __init__(
        self,
        identifier: str,
        *,
        scopes: Mapping[str, str] | Collection[str] = (),
        first_scopes: Collection[str] | None = None,
        name: str | None = None,
        documentation: str | None = None,
        policy_uri: str | None = None,
        tos_uri: str | None = None,
        authorization_servers: Collection[str] | None = None,
        jwks_uri: str | None = None,
        root: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.identifier, self._origin, self._path = _parse(identifier)
        self.scopes = check_strings("scopes", scopes, at_least=0)
        self.first_scopes = (
            self.scopes if first_scopes is None else check_strings("first_scopes", first_scopes, at_least=0)
        )
        for scope in (*self.scopes, *self.first_scopes):
            if scope == OFFLINE_ACCESS:
                raise ConfigurationError(
                    f"scopes: {OFFLINE_ACCESS} is what a client asks its provider for, not a scope of a resource; "
                    "leave it out"
                )
        self._servers = (
            None if authorization_servers is None else check_strings("authorization_servers", authorization_servers)
        )
        check_bool("root", root)
        self._root = root
        texts = {
            "jwks_uri": jwks_uri,
            "resource_name": name,
            "resource_documentation": documentation,
            "resource_policy_uri": policy_uri,
            "resource_tos_uri": tos_uri,
        }
        for member, text in texts.items():
            if text is not None:
                check_strings(member, text)
        self._members = {member: text for member, text in texts.items() if text is not None}
        self._further = _checked(metadata or {})

    def __repr__(self) -> str:
        return f"ProtectedResource({self.identifier!r})"

    @property
    def metadata_path(self) -> str:
        """The path of the document: the well-known path, then that of the resource (RFC 9728 section 3.1)."""
        return WELL_KNOWN + self._path

    @property
    def metadata_url(self) -> str:
        """The address of the document, as ``resource_metadata`` in a challenge names it (RFC 9728 section 5.1)."""
        return self._origin + self.metadata_path

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that serves the document."""
        return tuple(dict.fromkeys((self.metadata_path, WELL_KNOWN) if self._root else (self.metadata_path,)))

    def document(
        self,
        issuers: Iterable[str] = (),
        *,
        methods: Collection[str] = ("header",),
        implied_scopes: Iterable[str] = (),
    ) -> dict[str, Any]:
        """The metadata (RFC 9728 section 2).

        ``issuers`` are those of the providers. ``methods`` are where tokens may be, in the words of RFC 6750.
        ``implied_scopes`` are what the scopes of the resource imply, by ``scope_implies`` of the providers.
        """
        servers = [issuer for issuer in issuers if _is_address(issuer)] if self._servers is None else self._servers
        document: dict[str, Any] = {"resource": self.identifier}
        if servers:
            document["authorization_servers"] = list(dict.fromkeys(servers))
        if self.scopes:
            document["scopes_supported"] = list(dict.fromkeys((*self.scopes, *implied_scopes)))
        # RFC 9728 section 2: an empty list says that tokens are not sent in these ways at all.
        document["bearer_methods_supported"] = list(methods)
        return {**document, **self._members, **self._further}

    def routes(
        self,
        issuers: Iterable[str] = (),
        *,
        methods: Collection[str] = ("header",),
        implied_scopes: Iterable[str] = (),
    ) -> list[Route]:
        """Routes that serve the document, for the outer app if the middleware wraps a mounted one.

        The arguments are those of ``document``.
        """
        document = Document(self.document(issuers, methods=methods, implied_scopes=implied_scopes))
        return [Route(unquote(path), document) for path in self.paths]


class ServedResource:
    """An ASGI app with the metadata document of a resource in front of it.

    Raises ``ConfigurationError`` if ``resource`` is not a ``ProtectedResource``.
    """

    def __init__(
        self, app: ASGIApp, resource: object, providers: Collection[Provider], methods: Collection[str]
    ) -> None:
        if not isinstance(resource, ProtectedResource):
            raise ConfigurationError(f"resource must be a ProtectedResource(...), not {show(resource)}")
        self._app = app
        self._resource = resource
        # The path of a request in ASGI is percent-decoded.
        self._paths = frozenset(map(unquote, resource.paths))
        issuers = [issuer for one in providers if one.template is None for issuer in one.issuers]
        implied = [
            name for scope in resource.scopes for one in providers for name in one.rules.scopes.implied_by(scope)
        ]
        self._document = Document(resource.document(issuers, methods=methods, implied_scopes=implied))
        self._events = Events()

    def __contains__(self, scope: Scope) -> bool:
        """Whether this request is for the document, which needs no token."""
        if scope["type"] != "http" or WELL_KNOWN not in scope["path"] or scope["method"] not in _METHODS:
            return False
        # If the server was told of a prefix that its proxy strips, the path begins with that prefix. If the prefix ends
        # in a slash, some servers put two slashes in its place.
        prefix, path = _server_root(scope), scope["path"]
        return any(path.removeprefix(one) in self._paths for one in (prefix, prefix.rstrip("/")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope in self:
                await self._document(scope, receive, send)
                return
            if scope.get("root_path", "") != _server_root(scope):
                text = (
                    f"the middleware with {self._resource!r} is inside a mounted app and never sees requests for "
                    f"{self._resource.metadata_path}: add ProtectedResource.routes() to the outer app (said once)"
                )
                self._events.tell(Advice(text=text), once="mounted")
        await self._app(scope, receive, send)


def _server_root(scope: Scope) -> str:
    """The prefix that the server itself was told of; a ``Mount`` adds its own to ``root_path`` and keeps this one."""
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root


_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Document:
    """An ASGI app that answers GET, HEAD and preflights with a metadata document, to any origin."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._body = json.dumps(document).encode("utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method not in _METHODS:
            await Response(status_code=405, headers={"allow": "GET, HEAD, OPTIONS"})(scope, receive, send)
            return
        # Every page may read what every client is meant to read: it holds nothing about a user.
        headers = {"access-control-allow-origin": "*", "cache-control": "public, max-age=3600"}
        if method == "OPTIONS":
            headers |= {"access-control-allow-methods": "GET, HEAD", "access-control-allow-headers": "*"}
            await Response(status_code=204, headers=headers)(scope, receive, send)
            return
        headers["content-length"] = str(len(self._body))
        body = self._body if method == "GET" else b""
        await Response(body, headers=headers, media_type="application/json")(scope, receive, send)


def _parse(identifier: object) -> tuple[str, str, str]:
    """The identifier, its origin, and its path as it is inserted behind the well-known path."""
    if not isinstance(identifier, str) or not _is_address(identifier) or not _is_plain(identifier):
        raise ConfigurationError(
            "resource must be the https URL of this service as its clients write it, without query and fragment, for "
            "instance https://api.example/mcp; http is for loopback only (RFC 9728 section 1.2)"
        )
    parts = urlsplit(identifier)
    # RFC 9728 section 3.1: a terminating slash after the host is not a path.
    return identifier, f"{parts.scheme}://{parts.netloc}", "" if parts.path == "/" else parts.path


def _is_plain(address: str) -> bool:
    """Whether clients use ``address`` as it stands: with no query or fragment, and nothing that they would rewrite."""
    # RFC 3986 sections 2 and 5.2.4.
    segments = unquote(address).split("/")
    return _PLAIN.fullmatch(address) is not None and {".", ".."}.isdisjoint(segments)


_PLAIN = re.compile(r"(?:[A-Za-z0-9._~:/\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")


def _is_address(value: str) -> bool:
    if not value.isascii() or not value.isprintable() or " " in value:
        return False
    try:
        parts = urlsplit(value)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        return False
    return bool(host) and user is None and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_DERIVED = frozenset({"resource", "authorization_servers", "scopes_supported", "bearer_methods_supported"})


def _checked(metadata: object) -> dict[str, Any]:
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"metadata must be a dict, not {type(metadata).__name__}")
    members = dict(metadata)
    if derived := _DERIVED.intersection(members):
        raise ConfigurationError(f"metadata: {', '.join(sorted(derived))} is derived from the other settings")
    try:
        json.dumps(members)
    except (TypeError, ValueError):
        raise ConfigurationError("metadata must hold nothing but JSON") from None
    return members
