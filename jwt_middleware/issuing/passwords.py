"""password_check(): an ``authenticate`` that tells nobody who has an account."""

import logging
import os
from collections.abc import Callable, Coroutine
from operator import attrgetter
from secrets import token_urlsafe
from typing import Any, Protocol

from .._support.arguments import check_callable
from .._support.hooks import Hook
from ..errors import ConfigurationError

logger = logging.getLogger("jwt_middleware")


class Hasher(Protocol):
    """A ``PasswordHash`` of pwdlib's, or what has the same two methods. Both run in a worker thread."""

    def hash(self, password: str, /) -> str: ...

    def verify(self, password: str, hash: str, /) -> bool: ...


def password_check(
    find_user: Callable[[str], Any],
    hasher: Hasher,
    *,
    hash_of: Callable[[Any], str | None] = attrgetter("password_hash"),
) -> Callable[[str, str], Coroutine[Any, Any, Any]]:
    """An ``authenticate`` for ``auth_routes``: unknown users cost the time that wrong passwords do.

    ``find_user(username)``, sync (then in a worker thread) or async, gives your user, or None. ``hasher`` verifies the
    password against ``hash_of(user)``, by default ``user.password_hash``; None or an empty text there is a user who has
    no password. For those, and for nobody, it verifies a hash of its own that fits no password. As many are verified at
    once as there are processors: more would be no faster, and each takes the memory that it was made to take.

    The times are the same where your hashes have the parameters that ``hasher`` makes new ones with; hash a password
    anew at a login that finds old ones (OWASP Password Storage). What ``find_user`` takes is yours: look users up by
    an index, and do not ask further tables about those who are found.

    A hash that the hasher cannot read is logged, and fits no password. Raises ``ConfigurationError``.
    """
    check_callable("find_user", find_user, "username")
    check_callable("hash_of", hash_of, "user")
    for name in ("hash", "verify"):
        if not callable(getattr(hasher, name, None)):
            raise ConfigurationError(f"hasher must have hash(password) and verify(password, hash), not {hasher!r}")
    nobody = hasher.hash(token_urlsafe())
    find, verify = Hook(find_user), Hook(hasher.verify, threads=os.cpu_count() or 1)

    async def authenticate(username: str, password: str) -> Any:
        user = await find(username)
        known = (None if user is None else hash_of(user)) or None
        try:
            is_good = await verify(password, nobody if known is None else known)
        except Exception:
            # Said of the answer, it would tell who has an account.
            logger.exception("the password hash of a user cannot be read")
            is_good = await verify(password, nobody) and False
        return user if is_good and known is not None else None

    return authenticate
