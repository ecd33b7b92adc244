"""What do the app's functions say of a user? Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class User:
    """Whom ``authenticate`` or ``reload_user`` found."""

    subject: str
    scopes: tuple[str, ...] | None = None
    """None: nothing was said of them."""
    claims: Mapping[str, Any] | None = None


def user_of(found: object, function: str) -> User | None:
    """What the app's ``function`` found, in our form; None for nobody. Raises ``TypeError`` for what is no user."""
    if found is None or found is False:
        return None
    if isinstance(found, str):
        return User(found)
    subject = getattr(found, "identity", None)
    scopes = getattr(found, "scopes", None)
    if not isinstance(subject, str) or isinstance(scopes, str):
        raise TypeError(
            f"{function}() must return a subject (str), None, or a user with an `identity` (str) and, if it has them, "
            f"`scopes` (a list); a {type(found).__name__} came"
        )
    return User(subject, None if scopes is None else tuple(scopes), getattr(found, "claims", None))


def granted(wanted: str, grantable: tuple[str, ...]) -> tuple[str, ...]:
    """The scopes among ``grantable`` that ``wanted``, delimited by spaces, names; all of them where it names none.

    Raises ``ScopeNotGranted`` where none can be granted.
    """
    names = tuple(dict.fromkeys(name for name in wanted.split(" ") if name))
    if not names:
        return grantable
    scopes = tuple(name for name in names if name in grantable)
    if not scopes:
        raise ScopeNotGranted
    return scopes


class ScopeNotGranted(Exception):
    """RFC 6749 5.2, ``invalid_scope``: 5.1 has us name a scope that is not the wanted one, and no scope has no name."""
