"""password_check(): how does an ``authenticate`` check passwords without telling who has an account?"""

import os
import time
from collections.abc import Callable, Coroutine
from operator import attrgetter
from secrets import token_urlsafe
from typing import Any, Protocol

from .._support.arguments import check_callable
from .._support.hooks import Hook
from ..errors import ConfigurationError
from ..events import Advice
from ..telling import Events
from .checking import CheckQueue


class Hasher(Protocol):
    """A ``PasswordHash`` of pwdlib, or anything with the same two methods. Both run in worker threads."""

    def hash(self, password: str, /) -> str: ...

    def verify(self, password: str, hash: str, /) -> bool: ...


def password_check(
    find_user: Callable[[str], Any],
    hasher: Hasher,
    *,
    hash_of: Callable[[Any], str | None] = attrgetter("password_hash"),
) -> Callable[[str, str], Coroutine[Any, Any, Any]]:
    """Return an ``authenticate`` for ``auth_routes`` that takes as long for an unknown user as for a wrong password.

    ``find_user(username)``, sync (then in a worker thread) or async, returns your user or None. ``hasher`` verifies the
    password against ``hash_of(user)``, by default ``user.password_hash``. A user whose hash is None or empty has no
    password. For such users, and for unknown ones, ``hasher`` verifies a dummy hash that no password fits.

    One hash per processor is verified at a time; more at once would be no faster, and would take more memory. Others
    wait, for a second at most, and the client addresses take turns. A login that would have to wait longer is refused
    with ``LoginRefused`` (503 with ``Retry-After``) and does not count as failed. A client that hangs up does not
    stop the hash that it started.

    Times are equal only if your stored hashes have the parameters of ``hasher``. When a login finds a hash with old
    parameters, store a new one (OWASP Password Storage Cheat Sheet). The time that ``find_user`` takes is up to you:
    look users up by an index, and query no further tables for users that exist.

    A hash that ``hasher`` cannot read is logged, and no password fits it. Raises ``ConfigurationError`` if an argument
    cannot work.
    """
    check_callable("find_user", find_user, "username")
    check_callable("hash_of", hash_of, "user")
    for name in ("hash", "verify"):
        if not callable(getattr(hasher, name, None)):
            raise ConfigurationError(
                "hasher must have hash(password) and verify(password, hash), as pwdlib's PasswordHash has, and "
                f"{type(hasher).__name__} does not"
            )
    events = Events()
    started_at = time.monotonic()
    no_password = hasher.hash(token_urlsafe())
    seconds = time.monotonic() - started_at

    def verify(password: str, known: str | None) -> bool:
        if known is not None:
            try:
                return bool(hasher.verify(password, known))
            except Exception as error:  # noqa: BLE001  # whatever the library raises
                # Not its text, which may hold the hash. An error, or an early answer, would tell who has an account.
                events.tell(Advice(text=f"the password hash of a user cannot be read ({type(error).__name__})"))
        hasher.verify(password, no_password)
        return False

    find = Hook(find_user)
    queue = CheckQueue(verify, threads=os.cpu_count() or 1, seconds=seconds)

    async def authenticate(username: str, password: str) -> Any:
        # A login that would be refused anyway does not cost the user table a query.
        queue.check_admission()
        user = await find(username)
        known = (None if user is None else hash_of(user)) or None
        return user if await queue(password, known) else None

    return authenticate
