"""What does the app say about a user? Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class User:
    """The user that ``authenticate`` or ``reload_user`` found."""

    subject: str
    scopes: tuple[str, ...] | None = None
    """None if the app does not say which scopes the user may have."""
    claims: Mapping[str, Any] | None = None
    """Further claims of the user's tokens. None if the app does not say."""
    acr: str | None = None
    """The authentication context class of this login (OpenID Connect Core 2)."""
    amr: tuple[str, ...] = ()
    """The authentication methods of this login (RFC 8176)."""

    def claims_at_login(self, now: float) -> dict[str, Any]:
        """The further claims of the tokens of a login at ``now``, Unix time.

        They tell when and how the user authenticated, as step-up authentication needs to know (RFC 9470).
        """
        how = {"acr": self.acr, "amr": list(self.amr) or None}
        return {
            **(self.claims or {}),
            "auth_time": int(now),
            **{name: value for name, value in how.items() if value is not None},
        }


def read_user(found: object, function: str) -> User | None:
    """Read what the app's ``function`` returned. None and False mean that there is no such user.

    Raises ``TypeError`` for anything that is neither a user nor one of these.
    """
    if found is None or found is False:
        return None
    if isinstance(found, str):
        return User(found)
    subject = getattr(found, "identity", None)
    scopes = getattr(found, "scopes", None)
    if not isinstance(subject, str) or isinstance(scopes, str):
        raise TypeError(
            f"{function}() must return a subject (str), None, or a user with an `identity` (str) and, if it has them, "
            f"`scopes` (a list); it returned a {type(found).__name__}"
        )
    return User(
        subject,
        None if scopes is None else tuple(scopes),
        getattr(found, "claims", None),
        *_read_authentication(found, function),
    )


def _read_authentication(found: object, function: str) -> tuple[str | None, tuple[str, ...]]:
    acr, amr = getattr(found, "acr", None), getattr(found, "amr", None) or ()
    methods = () if isinstance(amr, str) else tuple(amr)
    if not isinstance(acr, str | None) or isinstance(amr, str) or not all(isinstance(name, str) for name in methods):
        raise TypeError(f"{function}() must return a user whose `acr` is a string and whose `amr` is a list of strings")
    return acr, methods


def grant_scopes(wanted: str, grantable: tuple[str, ...]) -> tuple[str, ...]:
    """The scopes in ``wanted``, separated by spaces, that are in ``grantable`` too. If none are wanted, all of them.

    Raises ``ScopeNotGranted`` if none of the wanted ones can be granted.
    """
    names = tuple(dict.fromkeys(name for name in wanted.split(" ") if name))
    if not names:
        return grantable
    scopes = tuple(name for name in names if name in grantable)
    if not scopes:
        raise ScopeNotGranted
    return scopes


def login_claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    """The members of ``claims`` that tell of the login itself. A refresh changes nothing about it."""
    return {name: claims[name] for name in ("auth_time", "acr", "amr") if name in claims}


class ScopeNotGranted(Exception):
    """RFC 6749 5.2, ``invalid_scope``: none of the wanted scopes can be granted."""
