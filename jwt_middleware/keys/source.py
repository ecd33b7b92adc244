"""Where do a provider's keys come from? What any source of keys must offer, and the keys of the configuration. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from ..errors import KeysUnavailable, Refusal
from ..events import UnexpectedError
from ..telling import Events
from .key_set import Key, KeySet


@dataclass(frozen=True, slots=True)
class KeysHealth:
    """The state of a provider's keys, for readiness probes."""

    keys: int
    """Keys in force. With none at all, every token of this provider is answered with 503, unless ``on_demand``."""
    fetched_at: float | None = None
    """Unix time when the keys were last found to be current. None if they never were, or if they are static."""
    age: float | None = None
    """Seconds since that time."""
    error: str | None = None
    """Why the last attempt failed. None if it succeeded."""
    next_attempt: float | None = None
    """Seconds until the next attempt to fetch, 0 if it is due. None if none is planned, and for static keys."""
    skipped: tuple[str, ...] = ()
    """The keys that were published or configured and are not used, each with its reason."""
    on_demand: bool = False
    """Whether keys are fetched when a token first names them, so that having none yet is no fault."""

    @property
    def is_usable(self) -> bool:
        """Whether tokens can be verified."""
        return self.keys > 0 or self.on_demand


class KeySource(Protocol):
    """A source of keys, given as ``jwks=`` to a ``Provider``. ``RemoteKeys`` is one; your own class can be another.

    A source may also have a property ``health``, a ``KeysHealth``.
    """

    @property
    def current(self) -> KeySet:
        """The keys in force now, without waiting. It is read with every request, on the event loop.

        Return the same ``KeySet`` for as long as the keys are the same: tokens that it has verified are remembered with
        it. Return another one when keys change: tokens of a key that is gone are refused from then on.
        """
        ...

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """The keys to look in again, after ``current`` verified nothing for this ``kid`` and ``algorithm``.

        Any client can cause the call, so bound how often it asks something. Return ``current`` if nothing can be
        newer. Raise ``KeysUnavailable`` if it is unknown whether such a key exists: the answer is 503 then.
        """
        ...


class StaticKeys:
    """Keys that the configuration gives. They never change."""

    def __init__(self, keys: Iterable[Key], skipped: Iterable[str] = ()) -> None:
        self.current = KeySet(keys)
        self.health = KeysHealth(len(self.current.keys), skipped=tuple(skipped))

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """``current``: there is nowhere else to look."""
        return self.current


class ProviderKeys:
    """A source as one provider sees it: narrowed to its algorithms, and with its static keys beside it.

    ``by_issuer`` means that issuers share the keys, so a key whose JWK names an issuer verifies its tokens only.
    """

    def __init__(
        self,
        source: KeySource,
        static: StaticKeys,
        algorithms: Collection[str] | None,
        *,
        by_issuer: bool = False,
    ) -> None:
        self._source = source
        self._by_issuer = by_issuer
        self._static = static
        self._algorithms = algorithms
        self._seen: tuple[KeySet | None, KeySet] = (None, static.current)
        self._events = Events()

    @property
    def current(self) -> KeySet:
        """The static keys, and those of the source that are in force."""
        source = self._source.current
        if not source.keys:
            return self._static.current
        seen, keys = self._seen
        if source is not seen:
            keys = KeySet((*self._static.current.keys, *_narrow(source.keys, self._algorithms, self._by_issuer)))
            self._seen = (source, keys)
        return keys

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """Like ``KeySource.refreshed``, but the source is not asked for keys that it cannot have."""
        is_allowed = self._algorithms is None or algorithm in self._algorithms
        if is_allowed and (kid is None or not self._static.current.knows(kid)):
            try:
                await self._source.refreshed(kid, algorithm)
            except Exception as error:
                if isinstance(error, Refusal):
                    raise
                # The source may be the user's own: whatever it raises, it is unknown whether the key exists.
                self._events.tell(UnexpectedError(where="refreshed", error=type(error).__name__), exc_info=error)
                raise KeysUnavailable(retry_after=1) from None
        return self.current

    @property
    def health(self) -> KeysHealth:
        """The state of the source, with the keys of the configuration that are not used."""
        health = health_of(self._source)
        return replace(health, skipped=(*self._static.health.skipped, *health.skipped))


def health_of(source: KeySource) -> KeysHealth:
    """The state of ``source`` as it reports it, or else as far as its keys show it."""
    health = getattr(source, "health", None)
    return health if isinstance(health, KeysHealth) else KeysHealth(len(source.current.keys))


def _narrow(keys: Iterable[Key], algorithms: Collection[str] | None, by_issuer: bool) -> Iterable[Key]:
    for key in keys:
        allowed = tuple(name for name in key.algorithms if algorithms is None or name in algorithms)
        if allowed:
            yield replace(key, algorithms=allowed, issuer=key.published_issuer if by_issuer else None)
