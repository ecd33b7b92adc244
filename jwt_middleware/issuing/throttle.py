"""May this login be tried now? Failed logins are counted by account and by client address."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, TypeAlias, TypeVar
from unicodedata import normalize

from anyio import CancelScope

from .._support.arguments import check_callable, check_count, check_seconds
from ..errors import ConfigurationError
from ..events import Detail
from ..telling import Events
from .addresses import Proxies
from .counts import Counts, MemoryCounts, StoredCounts
from .storage import Storage, StorageUnavailable

Result = TypeVar("Result")


LimitedBy: TypeAlias = Literal["account", "address", "storage", "hasher"]


class LoginRefused(Exception):
    """A login whose password was not checked.

    ``status`` (int) is an HTTP status: 429 or 503. ``description`` (str) is for the client, as is ``retry_after``
    (int, seconds). ``by`` is for the operator: the failures of the ``account`` or of the ``address`` are too many, the
    ``storage`` that counts them is unavailable, or the ``hasher`` has too much to do.
    """

    def __init__(self, status: int, description: str, *, retry_after: int, by: LimitedBy) -> None:
        super().__init__(description)
        self.status = status
        self.description = description
        self.retry_after = retry_after
        self.by = by


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that may be tried. It counts as failed until it is forgiven. It holds no name and no address."""

    account: bytes
    address: bytes


class Throttle:
    """Refuses logins after too many failed ones, for ``auth_routes(..., throttle=)``.

    ``account_failures``
        Failed logins of one account in ``period``. After them, even the right password is refused. Default 10.
    ``address_failures``
        Failed logins from one address (IPv6: one /64 network) in ``period``. A login that is refused because of its
        account is not one of them. Default 100.
    ``period``
        Seconds from the first failed login until all are forgotten. Default 900.
    ``trusted_proxies``
        Addresses and networks whose ``X-Forwarded-For`` is believed; ``unix`` is a proxy on a Unix socket. Default:
        none. All clients behind a proxy that is not listed share the proxy's address, and are refused together.
    ``storage``
        None counts in the memory of this process; several processes count separately. ``redis://...``,
        ``rediss://...`` or ``unix://...`` counts in Redis, together with all processes that have the same signing key;
        this needs the extra ``login``. Default None.
    ``account_of``
        ``account_of(username)`` returns the text that is counted. It must be the same for all spellings that your app
        takes for one account and different for different accounts, because a good login resets the count of its
        account. It runs on the event loop, so it must be quick. Default: NFKC, without case and surrounding white
        space.
    ``clock``
        Seconds, for counts in memory. Default ``time.monotonic``.

    A login is decided in this order:

    1. It counts as failed for its address and then for its account, before the password is looked at. So a hundred
       logins at once get no more guesses than a hundred in turn.
    2. If either count is too high, the login is refused with 429 and ``Retry-After``. The answer is the same for any
       account, known or not, and for any password. A refused login is not a failed one, and counts for nothing.
    3. A good login resets the count of its account, and no longer counts for its address.
    4. A login that ended without an answer about its password does not count: ``authenticate`` raised an exception, or
       too many passwords were being checked. If its request was cancelled, it counts for the address only.
    5. If the storage does not answer within a second, the login is refused with 503.

    The storage holds no names. It holds hashes of them, made with a secret that ``auth_routes`` derives from the
    signing key, because people type passwords into the wrong field. Memory is bounded: there are 2**20 counts of 8
    bytes each, chosen by a hash with a random key of this process. So nobody can work out which two names share a
    count. If old counts were dropped instead, an attacker could wash away their own.

    Raises ``ConfigurationError`` if an argument cannot work.
    """

    def __init__(
        self,
        *,
        account_failures: int = 10,
        address_failures: int = 100,
        period: float = 900,
        trusted_proxies: str | Collection[str] = (),
        storage: str | None = None,
        account_of: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if account_of is not None:
            check_callable("account_of", account_of, "username")
        check_callable("clock", clock)
        self._account_failures = check_count("account_failures", account_failures, minimum=1)
        self._address_failures = check_count("address_failures", address_failures, minimum=1)
        whole = ceil(check_seconds("period", period, minimum=1))
        if whole > _LONGEST_PERIOD:
            raise ConfigurationError(f"period must be a year ({_LONGEST_PERIOD} s) or less, not {period!r}")
        self._proxies = Proxies(trusted_proxies)
        self._account_of = account_of or _normalize_account
        self.events = Events()
        """Tells of failures of the storage."""
        self._accounts: Counts
        self._addresses: Counts
        self._storage: Storage | None = None
        if storage is None:
            self._accounts, self._addresses = MemoryCounts(whole, clock), MemoryCounts(whole, clock)
        else:
            self._storage = Storage(storage, self.events)
            self._accounts = StoredCounts(self._storage.limits_storage, "account", whole)
            self._addresses = StoredCounts(self._storage.limits_storage, "address", whole)

    def find_client(self, scope: Mapping[str, Any]) -> str:
        """The address that the request of ``scope`` comes from, as far as it can be believed."""
        return self._proxies.find_client(scope)

    async def attempt(self, username: str, scope: Mapping[str, Any], secret: bytes = b"") -> Attempt:
        """Count the login of ``username`` in the request of ``scope`` as failed. Raises ``LoginRefused``.

        ``secret``, at most 64 bytes, keeps people who can read the storage from trying names on it. Processes that
        count together need the same one.
        """
        client = self.find_client(scope)
        # Only the beginning of a long name counts, because the time to normalise it grows with its length squared.
        # Strip first: otherwise, padding would stand in for the name.
        account = self._account_of(username.strip()[:MAX_NAME])
        attempt = Attempt(self._accounts.find_slot(account, secret), self._addresses.find_slot(client, secret))
        try:
            refused = await self._ask(self._count, attempt)
        except StorageUnavailable:
            unavailable = "Logins cannot be checked at the moment. Try again later."
            raise LoginRefused(503, unavailable, retry_after=1, by="storage") from None
        if refused is not None:
            by, seconds = refused
            too_many = "There were too many failed logins. Try again later."
            raise LoginRefused(429, too_many, retry_after=seconds, by=by)
        return attempt

    async def forgive(self, attempt: Attempt) -> None:
        """The login was a good one."""
        await self._correct(self._forgive, attempt)

    async def take_back(self, attempt: Attempt) -> None:
        """The login ended without an answer about its password, and the client did not cause that."""
        await self._correct(self._take_back, attempt)

    async def take_back_account(self, attempt: Attempt) -> None:
        """The request was cancelled before there was an answer. The login still counts for its address."""
        await self._correct(self._take_back_account, attempt)

    async def _correct(self, work: Callable[[Attempt], None], attempt: Attempt) -> None:
        try:
            # Even for a request that is being cancelled.
            with CancelScope(shield=True):
                await self._ask(work, attempt)
        except StorageUnavailable:
            # One failed login too many stays behind, and that is all.
            self.events.tell(Detail(text="a login stays counted as failed, because the storage is unavailable"))

    def _count(self, attempt: Attempt) -> tuple[LimitedBy, int] | None:
        """Return which count refuses the login and for how many seconds, or None if neither does."""
        # The address comes first, so that a refused one takes no slots for accounts that it makes up.
        if self._addresses.add(attempt.address, 1) > self._address_failures:
            wait = self._addresses.seconds_left(attempt.address)
            self._addresses.add(attempt.address, -1)
            return "address", max(1, ceil(wait))
        if self._accounts.add(attempt.account, 1) > self._account_failures:
            wait = self._accounts.seconds_left(attempt.account)
            # A client that goes on with an old password must not lock out everyone who shares its address.
            self._take_back(attempt)
            return "account", max(1, ceil(wait))
        return None

    def _forgive(self, attempt: Attempt) -> None:
        self._accounts.clear(attempt.account)
        self._addresses.add(attempt.address, -1)

    def _take_back(self, attempt: Attempt) -> None:
        self._take_back_account(attempt)
        self._addresses.add(attempt.address, -1)

    def _take_back_account(self, attempt: Attempt) -> None:
        self._accounts.add(attempt.account, -1)

    async def _ask(self, work: Callable[[Attempt], Result], attempt: Attempt) -> Result:
        return work(attempt) if self._storage is None else await self._storage.ask(work, attempt)


MAX_NAME = 256
"""Characters of a user name that count."""

_LONGEST_PERIOD = 366 * 24 * 3600


def _normalize_account(username: str) -> str:
    return normalize("NFKC", normalize("NFKC", username).casefold()).strip()
