"""How are the keys of an AWS Application Load Balancer fetched, and which of its tokens are for this service? (I/O)

A load balancer that logs users in signs what it tells the app about them. All customers of a region share the address
of the public keys, so a good signature says nothing yet: the header's ``signer`` must be the load balancer in front.
"""

import json
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import anyio

from .._support.arguments import check_callable, check_strings, show
from .._support.listing import list_names
from .._support.redaction import redact_address
from ..errors import AlgorithmNotAllowed, ConfigurationError, KeysUnavailable, UnknownKey, WrongAudience
from ..verifying.compact import Header, json_again
from .addresses import Hosts, host_of
from .documents import check_size
from .fetching import Document, Validator
from .http import Ask, Client, Fetch, FetchError, OwnClient, UserClient
from .key_set import KeySet
from .remote import RemoteKeys
from .schedule import make_rules
from .source import KeysHealth

ALGORITHM = "ES256"
"""The only algorithm of a load balancer."""

MAX_FOUND = 32
"""The most keys that are held. A load balancer uses one or two at a time."""

MAX_WANTED = 8
"""The most new key ids that are asked for in one attempt."""

MAX_MISSING = 1024
"""The most key ids that are remembered because they have no key."""

MISSING_FOR = 60
"""Seconds for which a key id without a key is not asked for again."""

ASKED_AGAIN_AFTER = 60
"""Seconds for which a key that was fetched is not asked for again, even if an attempt runs for another one."""


Value = TypeVar("Value")


class LoadBalancerKeys(RemoteKeys):
    """The keys of an AWS Application Load Balancer, given as ``jwks=``. Each is fetched when a token first names it.

    It also says which tokens are the load balancer's own. They are recognised by ``signer``, not by ``iss``, so another
    provider may have the same issuer. Only they may be padded with ``=``: AWS signs the padded text.

    ``signer``
        The ARN of the load balancer, or of several in one region. The header's ``signer`` must be one of them, letter
        by letter: the keys verify tokens of every load balancer in the region, also those of other customers.
    ``client``
        The client id, or several, that the rule of the listener has at the identity provider. The header's ``client``
        must be one of them. Default None: not checked, which is right if all rules of the load balancer may log users
        into this app.
    ``address``
        The address to which a key id is appended. Default: that of the ARN's region, in AWS GovCloud and China too.
    ``fetch``, ``timeout``, ``keys_max_stale``, ``clock``
        As in ``RemoteKeys``.
    ``cooldown``
        Seconds from the start of one attempt to the next, whichever key ids are asked for. Default 1.

    The rules of ``RemoteKeys`` hold, with these differences. A request with a new key id also waits for the end of the
    cooldown, but no longer than ``timeout`` in all; then it is answered with ``KeysUnavailable``. A key id must match
    ``[A-Za-z0-9-]{1,64}``. At most eight new ones are asked for in one attempt. Those without a key are remembered for
    a minute, at most 1024 of them. A key that is no longer there (404 or 403) verifies nothing from then on.

    Raises ``ConfigurationError``. Source: AWS, "Authenticate users using an Application Load Balancer".
    """

    def __init__(
        self,
        *,
        signer: str | Collection[str],
        client: str | Collection[str] | None = None,
        address: str | None = None,
        fetch: Fetch | None = None,
        cooldown: float = 1,
        keys_max_stale: float = 24 * 3600,
        timeout: float = 5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.signers = check_strings("signer", signer)
        """The ARNs of the load balancers whose tokens are accepted."""
        self._clients = None if client is None else check_strings("client", client)
        known = _find_address(self.signers)
        address = known if address is None else address
        if address is None:
            raise ConfigurationError("address: where this partition of AWS has its public keys is not known; give it")
        url = address if address.endswith("/") else f"{address}/"
        hosts = Hosts(named=frozenset({host_of(url)}))
        if (fault := hosts.find_fault(url)) is not None:
            raise ConfigurationError(f"address: {fault}")
        check_callable("clock", clock)
        if fetch is not None:
            check_callable("fetch", fetch, "url")
        rules = make_rules(False, cooldown, None, (60, 3600), keys_max_stale, timeout)
        asked: Client = OwnClient(hosts) if fetch is None else UserClient(fetch)
        self._addresses = _KeyAddresses(url, asked, keys_max_stale, clock)
        self._set_up(self._addresses, rules, allow_weak_keys=False, clock=clock)

    def check(self, header: Header) -> None:
        """Raise ``AlgorithmNotAllowed``, ``WrongAudience`` or ``UnknownKey`` for a header not meant for this service.

        ``signer`` has been compared before: it decides that these keys are used at all.
        """
        if header.algorithm != ALGORITHM:
            raise AlgorithmNotAllowed(expected=ALGORITHM, found=header.algorithm)
        found = json_again(header.json).get("client")
        if self._clients is not None and found not in self._clients:
            raise WrongAudience(expected=list_names(self._clients), found=found if isinstance(found, str) else None)
        if not _is_key_id(header.kid):
            raise UnknownKey

    @property
    def current(self) -> KeySet:
        """The keys in force, those that tokens have named so far. As in ``RemoteKeys``, it never waits."""
        return super().current if self._addresses.is_used else _NONE

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """The keys to look in again, including that of ``kid`` if there is one.

        Raises ``KeysUnavailable`` if it is unknown whether such a key exists.
        """
        if kid is None or not _is_key_id(kid) or algorithm != ALGORITHM or self._addresses.is_missing(kid):
            return self._keys
        if self._keys.knows(kid):
            return await super().refreshed(kid, algorithm)
        with anyio.move_on_after(self._process.schedule.rules.timeout):
            while self._addresses.want(kid):
                # Perhaps only other keys are unavailable.
                with suppress(KeysUnavailable):
                    await super().refreshed(kid, algorithm)
                if self._keys.knows(kid) or self._addresses.is_missing(kid):
                    return self._keys
                if self._error is not None:
                    break
                if self._addresses.holds(kid):
                    # A text that is not a key: ``health`` says why.
                    return self._keys
                # An attempt for other key ids has just been made: wait for the next one.
                await anyio.sleep(max(self._process.schedule.allowed_at - self._clock(), _SHORTEST_WAIT))
        raise KeysUnavailable(retry_after=1)

    async def keep(self) -> None:
        """Refresh the keys whenever that is due, until cancelled."""
        while True:
            if self._addresses.is_used:
                await super().keep()
            await anyio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def prefetch(self) -> None:
        """Nothing: no token has named a key yet."""

    @property
    def health(self) -> KeysHealth:
        """The state of the keys. Having none is no fault, because no token may have come yet."""
        return replace(super().health, on_demand=True)


class _KeyAddresses:
    """An address for each key id. One attempt asks for what is new and for what was asked long ago."""

    published = True
    may_be_empty = True

    def __init__(self, url: str, client: Client, max_stale: float, clock: Callable[[], float]) -> None:
        self.host = host_of(url)
        self._url = url
        self._client = client
        self._max_stale = max_stale
        self._clock = clock
        self._wanted: dict[str, None] = {}
        # By key id: the PEM text and when it was asked for last.
        self._found: dict[str, tuple[str, float]] = {}
        self._missing: dict[str, float] = {}

    def __str__(self) -> str:
        return redact_address(self._url)

    @property
    def is_used(self) -> bool:
        """Whether a key is held or wanted."""
        return bool(self._found or self._wanted)

    def want(self, kid: str) -> bool:
        """Have ``kid`` asked for in the next attempt. False if too many others are."""
        if kid not in self._found and kid not in self._wanted:
            if len(self._wanted) >= MAX_WANTED:
                return False
            self._wanted[kid] = None
        return True

    def is_missing(self, kid: str) -> bool:
        """Whether ``kid`` was found to have no key a short time ago."""
        asked_at = self._missing.get(kid)
        return asked_at is not None and self._clock() < asked_at + MISSING_FOR

    def holds(self, kid: str) -> bool:
        """Whether ``kid`` was answered with a text, be it a key or not."""
        return kid in self._found

    async def prepare(self) -> None:
        await self._client.prepare()

    def confine(self, hosts: Hosts) -> None:
        """Nothing: no token and no metadata chooses this address."""

    async def fetch(self, validator: Validator | None) -> Document:
        """A document of all keys that are held, as others publish them at one address."""
        now = self._clock()
        due = [kid for kid, (_, asked_at) in list(self._found.items()) if now >= asked_at + ASKED_AGAIN_AFTER]
        wanted = list(self._wanted)
        failures: list[FetchError] = []
        async with self._client.open() as ask:
            for kid in (*wanted, *due):
                try:
                    await self._ask(ask, kid, now)
                except FetchError as error:
                    failures.append(error)
                finally:
                    self._wanted.pop(kid, None)
        # A key id that is not answered does not stop the others. It is asked for again in the next attempt.
        if failures and len(failures) == len(wanted) + len(due):
            raise failures[0]
        found = {kid: pem for kid, (pem, asked_at) in self._found.items() if now < asked_at + self._max_stale}
        return Document(json.dumps(found or {"keys": []}).encode("utf-8"))

    async def _ask(self, ask: Ask, kid: str, now: float) -> None:
        answer = await ask(f"{self._url}{kid}", None)
        status, content = answer.status_code, answer.content
        if 400 <= status < 500 and status not in (408, 429):
            # The store behind the address answers 403 or 404 if there is no such key.
            self._found.pop(kid, None)
            _put(self._missing, kid, now, MAX_MISSING)
            return
        if status != 200:
            raise FetchError(f"{self} answered {status}")
        check_size(len(content))
        text = content.decode("ascii", "replace").strip()
        if not text.startswith("-----BEGIN "):
            raise FetchError(f"{self} answered something that is no PEM")
        _put(self._found, kid, (text, now), MAX_FOUND)


def _put(held: dict[str, Value], kid: str, value: Value, at_most: int) -> None:
    if kid not in held and len(held) >= at_most:
        # The oldest.
        del held[next(iter(held))]
    held[kid] = value


def _find_address(signers: Collection[str]) -> str | None:
    """The address of the keys of the load balancers ``signers``. None if their partition of AWS is not known here."""
    places = {_place_of(signer) for signer in signers}
    if len(places) > 1:
        raise ConfigurationError("signer: the load balancers are in several regions; give each region a Provider")
    partition, region = places.pop()
    pattern = _ADDRESSES.get(partition)
    return None if pattern is None else pattern.format(region=region)


def _place_of(signer: str) -> tuple[str, str]:
    """Partition and region of an ARN."""
    found = _ARN.fullmatch(signer)
    if found is None:
        raise ConfigurationError(
            "signer must be the ARN of an Application Load Balancer, for instance arn:aws:elasticloadbalancing:"
            f"eu-central-1:123456789012:loadbalancer/app/shop/50dc6c495c0c9188, not this {show(signer)}"
        )
    return found[1], found[2]


_ARN = re.compile(
    r"arn:(aws[a-z-]{0,16}):elasticloadbalancing:([a-z0-9-]{1,32}):[0-9]{12}:"
    r"loadbalancer/app/[A-Za-z0-9-]{1,64}/[A-Za-z0-9]{1,64}"
)

_ADDRESSES = {
    "aws": "https://public-keys.auth.elb.{region}.amazonaws.com/",
    "aws-us-gov": "https://s3-{region}.amazonaws.com/aws-elb-public-keys-prod-{region}/",
    "aws-cn": "https://public-keys.auth.elb.{region}.amazonaws.com.cn/",
}

_KEY_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def _is_key_id(kid: str | None) -> bool:
    return kid is not None and _KEY_ID.fullmatch(kid) is not None


_NONE = KeySet(())
_SHORTEST_WAIT = 0.05
_SECONDS_BETWEEN_LOOKS = 1
