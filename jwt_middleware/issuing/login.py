"""Who logs in? The throttle decides whether the login may be tried, and then the app decides whether it is good."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from anyio import get_cancelled_exc_class
from starlette.exceptions import HTTPException
from starlette.types import Scope

from .._support.arguments import is_async
from .._support.hooks import WORKER_THREADS, Hook
from ..errors import Refusal
from ..events import LoginFailed, LoginSucceeded, LoginThrottled
from ..telling import Events, escape
from .addresses import Proxies
from .checking import CLIENT, CheckQueue
from .oauth import OAuthError
from .throttle import LoginRefused, Throttle
from .users import ScopeNotGranted, User, grant_scopes, read_user

Authenticate: TypeAlias = Callable[[str, str], Any]


class Login:
    """The part of a login that is the same with and without stored sessions.

    ``authenticate`` is the app's. ``throttle`` is None if failed logins are not counted; ``secret`` is for its counts.
    """

    def __init__(
        self, authenticate: Authenticate, throttle: Throttle | None, secret: bytes, events: Events | None = None
    ) -> None:
        self._authenticate: Callable[..., Any] = (
            Hook(authenticate) if is_async(authenticate) else CheckQueue(authenticate, threads=WORKER_THREADS)
        )
        self._throttle = throttle
        self._secret = secret
        self._find_client = Proxies().find_client if throttle is None else throttle.find_client
        self._events = Events() if events is None else events

    async def find_user(self, fields: Mapping[str, str], scope: Scope) -> User:
        """The user with the ``username`` and ``password`` in ``fields``. Raises ``OAuthError``."""
        username, password = fields.get("username"), fields.get("password")
        if username is None or password is None:
            raise OAuthError("invalid_request", "The parameters username and password are required.")
        client = self._find_client(scope)
        # Password checks take turns by address.
        token = CLIENT.set(client)
        try:
            user = await self._find_throttled(username, password, scope)
        except LoginRefused as refused:
            # The throttle itself reports, once, what is wrong with the storage.
            if refused.by != "storage":
                self._events.tell(LoginThrottled(by=refused.by, client=escape(client), retry_after=refused.retry_after))
            # RFC 6749 5.2 has no code for it, but 4.1.2.1 has.
            raise OAuthError(
                "temporarily_unavailable",
                refused.description,
                status=refused.status,
                retry_after=refused.retry_after,
            ) from None
        finally:
            CLIENT.reset(token)
        if user is None:
            self._events.tell(LoginFailed(client=escape(client)))
            raise OAuthError("invalid_grant", "The username or the password is wrong.")
        self._events.tell(LoginSucceeded(subject=escape(user.subject), client=escape(client)))
        return user

    async def _find_throttled(self, username: str, password: str, scope: Scope) -> User | None:
        throttle = self._throttle
        if throttle is None:
            return await self._find(username, password)
        attempt = await throttle.attempt(username, scope, self._secret)
        try:
            user = await self._find(username, password)
        except Exception as error:
            if not _is_answer(error):
                await throttle.take_back(attempt)
            raise
        except get_cancelled_exc_class():
            # Its password check, if it had started, has ended by now.
            await throttle.take_back_account(attempt)
            raise
        if user is not None:
            await throttle.forgive(attempt)
        return user

    async def _find(self, username: str, password: str) -> User | None:
        return read_user(await self._authenticate(username, password), "authenticate")


def _is_answer(error: Exception) -> bool:
    """Whether ``error``, raised by the app, rejects the password rather than reporting that something is broken."""
    if isinstance(error, HTTPException):
        return error.status_code < 500
    return isinstance(error, Refusal) and error.status < 500


def read_scopes(fields: Mapping[str, str], user: User) -> tuple[str, ...]:
    """The scopes for ``user`` that the ``scope`` in ``fields`` asks for. Raises ``OAuthError`` if there are none."""
    try:
        return grant_scopes(fields.get("scope", ""), user.scopes or ())
    except ScopeNotGranted:
        raise invalid_scope() from None


def invalid_scope() -> OAuthError:
    """RFC 6749 5.2: the requested scope exceeds what can be granted."""
    return OAuthError("invalid_scope", "None of the requested scopes can be granted.")
