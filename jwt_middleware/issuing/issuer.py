"""Who makes access tokens, and how do others verify them?"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from hmac import digest
from secrets import token_urlsafe
from typing import Any, Unpack

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .._support.arguments import check_bool, check_callable, check_seconds, check_strings, show
from ..errors import ConfigurationError, Refusal, is_scope
from ..keys.algorithms import ALGORITHMS
from ..keys.jwk import load_jwk, public_jwk, thumbprint
from ..keys.key_set import Key, load_keys, make_key, suited_algorithms
from ..keys.loading import load
from ..keys.material import Material, PrivateKey, PublicKey, UnusableKey
from ..provider import KeyText, Provider, ProviderOptions
from ..verifying import compact
from ..verifying.claims import media_type
from ..verifying.verifier import MAX_TOKEN_SIZE, Clock


class TokenIssuer:
    """Mints access tokens, and gives others what they need to verify them.

    ``key``
        The key that signs: a secret (str or bytes), or a private key as PEM or as a JWK (dict). Its ``kid`` is the
        JWK's own, or else derived from the key, so that it is the same after every start.
    ``audience``
        The ``aud`` of every token, one or several.
    ``issuer``
        The ``iss`` of every token. Default None: tokens have none.
    ``access_lifetime``
        Seconds that a token is valid. Default 900.
    ``session_lifetime``
        Without ``Sessions``: seconds from a login during which its tokens can be renewed. Default None: never.
    ``algorithm``
        Default: the most common one for the key: HS256, RS256, ES256 or the one for its curve, EdDSA.
    ``old_keys``
        Keys, in any form that ``Provider`` takes, that still verify until the last tokens signed with them expire.
    ``token_type``
        The header's ``typ``. Default ``JWT``. ``at+jwt`` makes tokens as RFC 9068 describes them, which need ``issuer``
        and ``client_id``.
    ``name``
        The name of the ``Provider`` that accepts the tokens. Revocations are kept under it. Default ``jwt``.
    ``client_id``
        The ``client_id`` of every token (RFC 8693 4.3). Default None: tokens have none.
    ``allow_weak_keys``, ``clock``
        As for ``Provider`` and ``Verifier``.

    Raises ``ConfigurationError`` if an argument cannot work.
    """

    def __init__(
        self,
        key: KeyText,
        audience: str | Collection[str],
        issuer: str | None = None,
        *,
        access_lifetime: float = 900,
        session_lifetime: float | None = None,
        algorithm: str | None = None,
        old_keys: KeyText | Iterable[KeyText] = (),
        token_type: str = "JWT",
        name: str = "jwt",
        client_id: str | None = None,
        allow_weak_keys: bool = False,
        clock: Clock = time.time,
    ) -> None:
        check_bool("allow_weak_keys", allow_weak_keys)
        material = load(key)
        self.algorithm = _signing_algorithm(material, algorithm)
        self.access_lifetime = int(check_seconds("access_lifetime", access_lifetime, minimum=1))
        self.session_lifetime = (
            None if session_lifetime is None else int(check_seconds("session_lifetime", session_lifetime, minimum=1))
        )
        if self.session_lifetime is not None and self.session_lifetime < self.access_lifetime:
            raise ConfigurationError("session_lifetime must not be shorter than access_lifetime")
        for option, value in (("issuer", issuer), ("client_id", client_id)):
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigurationError(f"{option} must be a string that is not empty, not {show(value)}")
        if not isinstance(token_type, str) or not token_type:
            raise ConfigurationError(f"token_type must be a string such as 'at+jwt', not {show(token_type)}")
        if media_type(token_type) == "at+jwt" and (issuer is None or client_id is None):
            raise ConfigurationError("token_type='at+jwt' needs issuer= and client_id= (RFC 9068 2.2)")
        self.audiences = check_strings("audience", audience)
        self.issuer = issuer
        self.name = name
        self._signing_key = material.value
        signing = make_key(material, {self.algorithm}, allow_weak_keys)
        old_keys = _list_keys(old_keys)
        # An old key keeps its kid. One without a kid also verifies tokens made by another library.
        self._keys = (replace(signing, kid=_find_kid(signing)), *_load_old_keys(old_keys, allow_weak_keys))
        self._materials = (material, *map(load, _flatten_key_sets(old_keys)))
        self._header = {"typ": token_type, "alg": self.algorithm, "kid": self._keys[0].kid}
        self._claims = {
            **({} if issuer is None else {"iss": issuer}),
            "aud": audience if isinstance(audience, str) else list(self.audiences),
            **({} if client_id is None else {"client_id": client_id}),
        }
        self._provider_options: ProviderOptions = {
            "key": [_make_jwk(key) for key in self._keys],
            "audience": audience,
            "issuer": issuer,
            "name": name,
            # RFC 7519 5.1: other issuers may leave out JWT.
            "token_type": None if media_type(token_type) == "jwt" else token_type,
            "allow_weak_keys": allow_weak_keys,
        }
        try:
            self._rules = self.provider().rules
        except ConfigurationError as error:
            # Each key is valid by itself, so there are too many of them.
            raise ConfigurationError(f"old_keys, with key, are too many: {str(error).removeprefix('key: ')}") from None
        check_callable("clock", clock)
        check_seconds("clock()", clock())
        self.clock = clock

    def __repr__(self) -> str:
        return f"TokenIssuer(algorithm={self.algorithm!r}, kid={self._keys[0].kid!r})"

    def mint(
        self,
        subject: str,
        *,
        scopes: Iterable[str] = (),
        claims: Mapping[str, Any] | None = None,
        lifetime: float | None = None,
        now: float | None = None,
    ) -> str:
        """A new access token for ``subject``.

        It has ``iss``, ``sub``, ``aud``, ``iat``, ``exp``, ``jti``, ``client_id`` and ``scope``, as far as they are
        known, and also ``claims``. ``lifetime``, in seconds, must not be longer than ``access_lifetime``. It starts
        at ``now``, Unix time, by default the clock's. Raises ``TypeError`` or ``ValueError`` for a token that would not
        verify again.
        """
        if not isinstance(subject, str):
            raise TypeError(
                f"subject must be a string (RFC 7519 4.1.2), not {type(subject).__name__}; write str(user.id)"
            )
        if not subject:
            raise ValueError("subject must not be empty")
        good_for = self.access_lifetime if lifetime is None else check_seconds("lifetime", lifetime, minimum=1)
        if good_for > self.access_lifetime:
            raise ValueError(f"lifetime must be access_lifetime ({self.access_lifetime} s) or less, not {lifetime!r}")
        extra = dict(claims or {})
        if reserved := RESERVED.intersection(extra):
            raise ValueError(f"claims: {', '.join(sorted(reserved))} cannot be given; the issuer sets them")
        now = self.clock() if now is None else now
        scope = _join_scopes(scopes)
        minted = {
            **self._claims,
            "sub": subject,
            "iat": int(now),
            "exp": int(now) + int(good_for),
            "jti": token_urlsafe(16),
            **({"scope": scope} if scope else {}),
            **extra,
        }
        raw = compact.encode(self._header, minted, self._sign)
        self._check(raw, now)
        return raw

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The JWK Set that others verify with (RFC 7517 5). It has public keys only, so with a secret it is empty."""
        return {"keys": [_publish(key) for key in self._keys if not isinstance(key.material, bytes)]}

    def provider(self, **options: Unpack[ProviderOptions]) -> Provider:
        """The ``Provider`` that accepts these tokens. ``options`` are its other keywords."""
        name = options.get("name", self.name)
        if name != self.name:
            # Revocations are kept under that name. Under another one, nothing would be revoked.
            raise ConfigurationError("name: give it to TokenIssuer(name=...), which revokes under it")
        merged: ProviderOptions = {**self._provider_options, **options}
        return Provider(**merged)

    def derived_keys(self, purpose: str) -> tuple[bytes, ...]:
        """Secrets for ``purpose`` that only the holder of the signing key has: from ``key``, then from each old key.

        They are derived by HKDF with SHA-256 (RFC 5869). Neither the key nor a secret for another purpose can be
        derived from them. An old key that is public yields none.
        """
        secrets = map(_read_secret, self._materials)
        return tuple(
            HKDF(SHA256(), 32, salt=None, info=f"jwt_middleware {purpose}".encode()).derive(secret)
            for secret in secrets
            if secret
        )

    def _sign(self, signing_input: bytes) -> bytes:
        return ALGORITHMS[self.algorithm].sign(signing_input, self._signing_key)

    def _check(self, raw: str, now: float) -> None:
        # A minted token must be accepted when it comes back, so it passes the same rules, strict JSON included.
        if len(raw) > MAX_TOKEN_SIZE:
            raise ValueError(f"claims: the token would have {len(raw)} bytes; at most {MAX_TOKEN_SIZE} are accepted")
        try:
            parts = compact.decode(raw.encode("ascii"))
            claims = compact.json_object(parts.payload)
            self._rules.check(parts.header, parts.payload, claims, now)
        except Refusal as refusal:
            claim = f" ({refusal.claim})" if refusal.claim else ""
            raise ValueError(f"claims: the token would be refused: {refusal.code}{claim}") from None


RESERVED = frozenset({"iss", "sub", "aud", "iat", "exp", "jti", "scope", "client_id"})
"""Claims that only the issuer sets."""


def _signing_algorithm(material: Material, algorithm: str | None) -> str:
    if not isinstance(material.value, bytes | PrivateKey):
        raise ConfigurationError("key: a public key cannot sign; give a secret or a private key")
    operations = material.jwk.get("key_ops")
    if operations is not None and "sign" not in operations:
        raise ConfigurationError("key: the JWK's key_ops have no 'sign'")
    suited = suited_algorithms(material)
    if algorithm is None:
        return suited[0]
    if algorithm not in suited:
        raise ConfigurationError(f"algorithm does not fit the key, which is for {', '.join(suited)}")
    return algorithm


def _list_keys(old_keys: Any) -> list[KeyText]:
    if isinstance(old_keys, str | bytes | Mapping | PrivateKey | PublicKey):
        return [old_keys]
    if not isinstance(old_keys, Iterable):
        raise ConfigurationError(f"old_keys must be keys, not {type(old_keys).__name__}")
    return list(old_keys)


def _load_old_keys(old_keys: list[KeyText], allow_weak_keys: bool) -> tuple[Key, ...]:
    if not old_keys:
        return ()
    try:
        return load_keys(old_keys, allow_weak_keys=allow_weak_keys)
    except ConfigurationError as error:
        raise ConfigurationError(f"old_keys{str(error).removeprefix('key')}") from None


def _flatten_key_sets(keys: Iterable[KeyText]) -> Iterator[KeyText]:
    """``keys``, with the usable keys of a JWK Set in place of the set."""
    for key in keys:
        if isinstance(key, Mapping) and "keys" in key and "kty" not in key:
            for jwk in key["keys"]:
                with suppress(UnusableKey):
                    load_jwk(jwk)
                    yield jwk
        else:
            yield key


def _read_secret(material: Material) -> bytes:
    """The secret part of a key, whatever form it came in. Empty for a public key."""
    key = material.value
    if isinstance(key, bytes):
        return key
    if isinstance(key, RSAPrivateKey):
        number = key.private_numbers().d
    elif isinstance(key, EllipticCurvePrivateKey):
        number = key.private_numbers().private_value
    elif isinstance(key, Ed25519PrivateKey | Ed448PrivateKey):
        return key.private_bytes_raw()
    else:
        return b""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _make_jwk(key: Key) -> dict[str, str]:
    """``key`` as a JWK, with its kid if it has one, and its algorithm if there is only one."""
    if isinstance(key.material, bytes):
        members = {"kty": "oct", "k": compact.base64url_encode(key.material).decode("ascii")}
    else:
        members = public_jwk(key.material)
    alg = {"alg": key.algorithms[0]} if len(key.algorithms) == 1 else {}
    return {**members, **alg, **({"kid": key.kid} if key.kid else {})}


def _publish(key: Key) -> dict[str, str]:
    return {**_make_jwk(key), "kid": _find_kid(key), "use": "sig"}


def _find_kid(key: Key) -> str:
    """The kid of ``key``: its own, or else one that is derived from it."""
    if key.kid:
        return key.kid
    if isinstance(key.material, bytes):
        # It tells no more about the secret than a token does.
        return compact.base64url_encode(digest(key.material, b"jwt_middleware kid", "sha256")[:12]).decode("ascii")
    return thumbprint(key.material)


def _join_scopes(scopes: Iterable[str]) -> str:
    if isinstance(scopes, str):
        raise TypeError(f"scopes must be a list, for instance [{scopes!r}]")
    names = list(scopes)
    for name in names:
        if not (isinstance(name, str) and is_scope(name)):
            raise ValueError(f"scopes: {name!r} cannot be a scope (RFC 6749 3.3)")
    return " ".join(names)
