"""Whose tokens are accepted, with which keys, and by which rules?"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from enum import Enum
from functools import partial
from inspect import isawaitable, isclass
from os import PathLike
from typing import Any, Final, Literal, TypeAlias, TypedDict

from starlette.requests import HTTPConnection

from ._support.arguments import check_bool, check_callables, check_seconds, check_strings, check_token_hook, show
from .errors import ConfigurationError, SenderConstrained
from .events import KeySkipped
from .issuers import IssuerTemplate, check_not_common, check_tenants, is_template
from .keys.addresses import check_not_metadata, is_address
from .keys.algorithms import check_algorithms
from .keys.key_set import load_keys_and_skipped
from .keys.load_balancer import LoadBalancerKeys
from .keys.material import PrivateKey, PublicKey
from .keys.remote import RemoteKeys
from .keys.source import KeysHealth, KeySource, ProviderKeys, StaticKeys, health_of
from .telling import Events
from .verifying.claims import ClaimRules, media_type
from .verifying.scopes import ClaimPath, ScopeClaim, ScopeRules
from .verifying.token import Token


class Audience(Enum):
    """What ``audience`` can be instead of names."""

    ANY = "any"


ANY: Final = Audience.ANY
"""``audience=ANY``: tokens for any audience, or none, are good. Use it only if the keys sign for no other service."""

KeyText: TypeAlias = str | bytes | Mapping[str, Any] | PrivateKey | PublicKey
Validate: TypeAlias = (
    Callable[[Token], bool | Awaitable[bool]] | Callable[[Token, HTTPConnection], bool | Awaitable[bool]]
)


class ProviderOptions(TypedDict, total=False):
    """The keywords of ``Provider``, for code that passes them on."""

    key: KeyText | list[KeyText] | tuple[KeyText, ...] | None
    jwks: str | PathLike[str] | KeySource | None
    audience: str | Collection[str] | Literal[Audience.ANY]
    issuer: str | Collection[str] | None
    tenants: Collection[str] | Literal[Audience.ANY] | None
    name: str
    algorithms: Collection[str] | None
    allow_weak_keys: bool
    leeway: float
    max_token_age: float | None
    token_type: str | Collection[str] | None
    required_claims: Collection[str]
    subject_claim: str | None
    audience_claim: str
    scope_claim: ScopeClaim | None
    scope_separator: Mapping[ClaimPath, str] | None
    scope_implies: Mapping[str, Collection[str]] | None
    may_grant: Collection[str] | None
    accept_cnf: Collection[str] | Validate
    allow_id_tokens: bool
    validate: Validate | Collection[Validate]


class Provider:
    """Whose tokens are accepted, with which keys and by which rules. All arguments are keywords.

    ``key``
        The keys that verify signatures: a secret (str or bytes), a PEM (public key, private key, X.509 certificate), a
        JWK or JWK Set (dict), a dict of key ids and PEM texts, or a list of these while keys are rotated, all of which
        verify. A key of a set that cannot be used is skipped; the log and ``health`` name it.
    ``jwks``
        Where to fetch keys that somebody else rotates: the https address of a JWK Set, the path of a file,
        ``RemoteKeys(...)``, ``LoadBalancerKeys(...)``, or a ``KeySource`` of your own. Beside it, the keys of ``key``
        verify too.
    ``audience``
        The ``aud`` that a token must name (RFC 7519 4.1.3), one or several. A token for any of them is good. ``ANY``
        turns the check off. Required.
    ``issuer``
        The ``iss`` that a token must have (RFC 7519 4.1.1), one or several, compared exactly. None turns the check off.
        Without ``key`` and ``jwks``, a single https address also leads to the metadata that names the JWK Set.
    ``tenants``
        Required if ``issuer`` is a template, such as ``https://login.microsoftonline.com/{tenantid}/v2.0``: the
        GUIDs of the tenants whose tokens are accepted, or ``ANY`` for every customer of the identity provider. The
        token's ``tid`` must be the tenant of its issuer. A key whose JWK names an ``issuer`` verifies tokens of that
        one only.
    ``name``
        A name that is unique among the providers. Tokens, refusals and logs carry it. Default ``jwt``.
    ``algorithms``
        Names from RFC 7518 3.1 and RFC 9864 2.2. The keys verify no other algorithms. Default: all algorithms that the
        keys are for.
    ``allow_weak_keys``
        Accept secrets shorter than their hash and RSA keys under 2048 bits, for old systems. Default False. A
        ``RemoteKeys`` has its own setting.
    ``leeway``
        Seconds of clock skew allowed in ``exp``, ``nbf`` and ``iat``. Default 5.
    ``max_token_age``
        Seconds since ``iat`` that a token is good for, whatever its ``exp``. Default None: not checked.
    ``token_type``
        The header's ``typ``, one or several, for instance ``at+jwt`` (RFC 9068 4). Case does not count, and
        ``application/`` may be left out. Default None: not checked.
    ``required_claims``
        Names of claims that a token must have, with a value other than null. ``exp`` is always required.
    ``subject_claim``
        The claim that names the user, a text that is not empty or an integer; dotted steps lead into nested objects. It
        must be there. Default ``sub``. None accepts tokens without a subject; ``user.identity`` then raises an error.
    ``audience_claim``
        The claim that names the audience, if a provider uses another one for it: ``client_id`` (Amazon Cognito),
        ``azp`` (Clerk). A token that also has ``aud`` is held to both. Default ``aud``.
    ``scope_claim``
        The claim that lists the scopes; dotted steps lead into nested objects (``realm_access.roles``). A tuple of
        names is a path whose names may hold dots. A list of names and paths unites what they hold. A plain function
        takes the claims and returns the scopes. See the page "Claims and permissions" for what is read. Default None:
        ``scope``, else ``scp``.
    ``scope_separator``
        Where a text in one of these claims is split: ``{"permissions": ","}``. Default: at spaces in ``scope``
        and ``scp``, and nowhere in any other claim, because the names of roles may hold spaces.
    ``scope_implies``
        Scopes that another one includes: ``{"orders": ["orders:read", "orders:write"]}``, without cycles.
    ``may_grant``
        The only scopes that this provider's tokens can grant, after ``scope_implies``. Default None: any.
    ``accept_cnf``
        Methods that may bind a token to its sender (``cnf``, RFC 7800) because something in front of the app has
        checked the binding. Give their names, such as ``x5t#S256``, but never ``jkt``: every method of the token must
        be one of them. Or a function like ``validate`` that is called for each request with such a token, and accepts
        it only by returning True. Default: such tokens are refused with ``sender_constrained``.
    ``allow_id_tokens``
        True: accept tokens that are certainly ID tokens (``token_use: id``, or ``nonce`` with ``at_hash``) or another
        library's refresh tokens (``type`` or ``token_type``: ``refresh``). Default False: ``wrong_type``.
    ``validate``
        One or several functions, sync or async, called with each of this provider's tokens after every other check:
        ``validate(token)`` or ``validate(token, connection)``, with Starlette's ``HTTPConnection``, or None if
        ``Verifier.verify`` runs without ASGI. True accepts the token and False refuses it with ``invalid_claim``;
        anything else is a ``TypeError``. If it raises a ``Refusal``, the token is refused with that.

    Raises ``ConfigurationError`` for an argument that cannot work.
    """

    def __init__(
        self,
        *,
        key: KeyText | list[KeyText] | tuple[KeyText, ...] | None = None,
        jwks: str | PathLike[str] | KeySource | None = None,
        audience: str | Collection[str] | Literal[Audience.ANY] | None = None,
        issuer: str | Collection[str] | None = None,
        tenants: Collection[str] | Literal[Audience.ANY] | None = None,
        name: str = "jwt",
        algorithms: Collection[str] | None = None,
        allow_weak_keys: bool = False,
        leeway: float = 5,
        max_token_age: float | None = None,
        token_type: str | Collection[str] | None = None,
        required_claims: Collection[str] = (),
        subject_claim: str | None = "sub",
        audience_claim: str = "aud",
        scope_claim: ScopeClaim | None = None,
        scope_separator: Mapping[ClaimPath, str] | None = None,
        scope_implies: Mapping[str, Collection[str]] | None = None,
        may_grant: Collection[str] | None = None,
        accept_cnf: Collection[str] | Validate = (),
        allow_id_tokens: bool = False,
        validate: Validate | Collection[Validate] = (),
    ) -> None:
        if audience is None and isinstance(jwks, LoadBalancerKeys):
            raise ConfigurationError(
                "audience: tokens of a load balancer name none; say audience=ANY, and client= in LoadBalancerKeys"
            )
        if audience is None:
            raise ConfigurationError(
                "audience is required: the name that tokens for this service carry in `aud`, or audience=ANY to accept "
                "tokens that were made for any service"
            )
        check_bool("allow_weak_keys", allow_weak_keys)
        check_bool("allow_id_tokens", allow_id_tokens)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name must be a string that is not empty, not {show(name)}")
        for option, claim in (("subject_claim", subject_claim), ("audience_claim", audience_claim)):
            if not (isinstance(claim, str) and claim) and not (option == "subject_claim" and claim is None):
                raise ConfigurationError(f"{option} must be the name of a claim, not {show(claim)}")
        if audience is ANY and audience_claim != "aud":
            raise ConfigurationError("audience_claim: with audience=ANY no audience is checked; name the audience")
        self.name = name
        self.issuers = () if issuer is None else check_strings("issuer", issuer)
        for one in self.issuers:
            check_not_metadata("issuer", one)
            check_not_common(one)
        self.template = _make_template(self.issuers, tenants)
        """The template of the issuers, if they are the tenants of one identity provider."""
        allowed = None if algorithms is None else check_algorithms(algorithms)
        static = _load_static_keys(name, key, allowed, allow_weak_keys, by_issuer=self.template is not None)
        source = _find_source(jwks, () if static.current.keys else self.issuers, allow_weak_keys)
        self.remote = source if isinstance(source, RemoteKeys) else None
        """The keys that are fetched, if there are any."""
        self.load_balancer = source if isinstance(source, LoadBalancerKeys) else None
        """The load balancer that makes the tokens, if one does."""
        if self.load_balancer is not None and self.template is not None:
            raise ConfigurationError("issuer: a template cannot stand beside LoadBalancerKeys; name the issuers")
        self.keys: KeySource
        if source is None:
            if not static.current.keys:
                raise ConfigurationError(
                    "key is required: a secret, a PEM, a JWK or JWK Set dict, or a list of them; or jwks=, the address "
                    "of a JWK Set; or issuer=, a single https address that leads to it"
                )
            self.keys = static
        elif self.remote is not None and not static.current.keys and allowed is None and self.template is None:
            self.keys = self.remote
        else:
            self.keys = ProviderKeys(source, static, allowed, by_issuer=self.template is not None)
        # Integrations may replace ``keys``; ``health`` still reports on these.
        self._own_keys = self.keys
        self.rules = ClaimRules(
            provider=name,
            audiences=None if audience is ANY else frozenset(check_strings("audience", audience)),
            leeway=float(check_seconds("leeway", leeway)),
            max_token_age=None if max_token_age is None else check_seconds("max_token_age", max_token_age),
            types=None
            if token_type is None
            else frozenset(media_type(typ) for typ in check_strings("token_type", token_type)),
            required_claims=check_strings("required_claims", required_claims, at_least=0),
            subject_claim=subject_claim,
            audience_claim=audience_claim,
            scopes=ScopeRules(scope_claim, scope_separator, scope_implies, may_grant),
            accept_cnf=None if callable(accept_cnf) else _confirmations(accept_cnf),
            allow_id_tokens=allow_id_tokens,
        )
        hooks = [_Hook("validate", one) for one in check_callables("validate", validate, "token")]
        self.sees_connection = any(hook.sees_connection for hook in hooks)
        """Whether one of ``validators`` takes the connection."""
        self.validators: tuple[Validator, ...] = tuple(hook.call for hook in hooks)
        """Asked about each request, in this order."""
        if callable(accept_cnf):
            confirm = _Hook("accept_cnf", accept_cnf)
            self.sees_connection = self.sees_connection or confirm.sees_connection
            self.validators = (partial(_confirm, confirm.call), *self.validators)

    def __repr__(self) -> str:
        return f"Provider(name={self.name!r}, issuer={self.issuers!r})"

    @property
    def health(self) -> KeysHealth:
        """The state of the keys."""
        return health_of(self._own_keys)


Validator: TypeAlias = Callable[[Token, object | None], Any]
"""A ``validate`` as a function of the token and the connection. It returns a bool or awaits one."""


class _Hook:
    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        if isclass(function):
            raise ConfigurationError(f"{name} must return True or False; a class returns an object of its own")
        self.sees_connection = check_token_hook(name, function)
        self.call: Validator = function if self.sees_connection else lambda token, connection: function(token)


async def _confirm(check: Validator, token: Token, connection: object | None) -> bool:
    """Refuse a token that is bound to its sender, unless ``check`` returns True."""
    if token.confirmation:
        result = check(token, connection)
        if isawaitable(result):
            result = await result
        if result is not True:
            raise SenderConstrained(claim="cnf")
    return True


def _confirmations(methods: object) -> frozenset[str]:
    several = frozenset(check_strings("accept_cnf", methods, at_least=0))
    if "jkt" in several:
        raise ConfigurationError(
            "accept_cnf: jkt is proof of possession (DPoP), which nothing in front of an API can check for it; name "
            "another method, or give a function that checks the proof of each request"
        )
    return several


def _make_template(issuers: tuple[str, ...], tenants: object) -> IssuerTemplate | None:
    template = next(filter(is_template, issuers), None)
    if template is None:
        if tenants is not None:
            raise ConfigurationError(
                "tenants needs a template as issuer=, for instance https://login.microsoftonline.com/{tenantid}/v2.0"
            )
        return None
    if len(issuers) > 1:
        raise ConfigurationError("issuer: a template stands alone; give other issuers a Provider of their own")
    return IssuerTemplate(template, check_tenants(tenants, ANY))


def _load_static_keys(
    provider: str, key: object, algorithms: Collection[str] | None, allow_weak_keys: bool, *, by_issuer: bool
) -> StaticKeys:
    if key is None:
        return StaticKeys(())
    keys, skipped = load_keys_and_skipped(key, algorithms=algorithms, allow_weak_keys=allow_weak_keys)
    events = Events()
    for one in skipped:
        events.tell(KeySkipped(source=f"provider {provider!r}", reason=one.reason, is_broken=one.is_broken))
    if by_issuer:
        keys = tuple(replace(key, issuer=key.published_issuer) for key in keys)
    return StaticKeys(keys, (one.reason for one in skipped))


def _find_source(
    jwks: str | PathLike[str] | KeySource | None, issuers: tuple[str, ...], allow_weak_keys: bool
) -> KeySource | None:
    if isinstance(jwks, str | PathLike):
        return RemoteKeys(jwks, allow_weak_keys=allow_weak_keys)
    if jwks is not None:
        # Not `hasattr`: outside of an event loop there are no current keys yet.
        if not callable(getattr(jwks, "refreshed", None)) or "current" not in dir(jwks):
            raise ConfigurationError(
                f"jwks must be an address, the path of a file, RemoteKeys(...) or a KeySource, not {show(jwks)}"
            )
        return jwks
    if len(issuers) == 1 and is_address(issuers[0]):
        return RemoteKeys(issuer=issuers[0], allow_weak_keys=allow_weak_keys)
    return None
