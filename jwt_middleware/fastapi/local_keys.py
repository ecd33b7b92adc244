"""Which keys verify the tokens of ``testing.headers_for``? A provider's own, and one that this process alone has."""

import os
from copy import copy
from weakref import WeakSet

from ..keys.key_set import Key, KeySet
from ..keys.source import KeySource, StaticKeys
from ..provider import Provider


def with_local_keys(provider: Provider) -> Provider:
    """A copy of ``provider`` that ``add_local_key`` can add a key to; ``provider`` itself never gets it."""
    provider = copy(provider)
    keys = provider.keys
    provider.keys = _StaticKeys(keys) if isinstance(keys, StaticKeys) else _ChangingKeys(keys)
    return provider


def add_local_key(provider: Provider, key: Key) -> None:
    """Let ``key`` verify tokens of ``provider``, beside the provider's own, until this process forks.

    A forked child does not have it. Raises ``TypeError`` if ``provider`` was not made by ``with_local_keys``.
    """
    if not isinstance(provider.keys, _StaticKeys | _ChangingKeys):
        raise TypeError("only the providers of an Auth take a key of this process")
    provider.keys.add(key)
    _changed.add(provider.keys)


def has_local_key(provider: Provider, key: Key) -> bool:
    """Whether ``key`` was added in this process."""
    return key in provider.keys.current.keys


class _StaticKeys(StaticKeys):
    """The key set is replaced when a key is added, so a request works exactly as it does without one."""

    def __init__(self, own: StaticKeys) -> None:
        super().__init__(own.current.keys)
        self._own = self.current

    def add(self, key: Key) -> None:
        self.current = KeySet((*self.current.keys, key))

    def drop(self) -> None:
        self.current = self._own


class _ChangingKeys:
    """Keys that others rotate, and what is added beside them."""

    def __init__(self, own: KeySource) -> None:
        self._own = own
        self._added: tuple[Key, ...] = ()
        self._seen: tuple[KeySet, KeySet] | None = None

    @property
    def current(self) -> KeySet:
        """See ``KeySource``."""
        keys = self._own.current
        if not self._added:
            return keys
        if self._seen is None or self._seen[0] is not keys:
            self._seen = (keys, KeySet((*keys.keys, *self._added)))
        return self._seen[1]

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """See ``KeySource``."""
        await self._own.refreshed(kid, algorithm)
        return self.current

    def add(self, key: Key) -> None:
        self._seen, self._added = None, (*self._added, key)

    def drop(self) -> None:
        self._seen, self._added = None, ()


_changed: WeakSet[_StaticKeys | _ChangingKeys] = WeakSet()


def _drop() -> None:
    for keys in _changed:
        keys.drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop)
