"""Which keys verify the tokens of ``testing.headers_for``? A provider's own, and one that this process alone has."""

import os
from copy import copy
from threading import Lock
from weakref import WeakSet

from ..keys.key_set import Key, KeySet
from ..keys.source import KeySource, StaticKeys
from ..provider import Provider


def with_local_keys(provider: Provider) -> Provider:
    """A copy of ``provider`` that ``add_local_key`` can add a key to; ``provider`` itself never gets it."""
    provider = copy(provider)
    keys = provider.keys
    if isinstance(keys, _StaticKeys | _ChangingKeys):
        # It belongs to another Auth. Keys that were added there stay there.
        keys = keys.own
    provider.keys = _StaticKeys(keys) if isinstance(keys, StaticKeys) else _ChangingKeys(keys)
    return provider


def add_local_key(provider: Provider, key: Key) -> Key:
    """Let ``key`` verify tokens of ``provider``, beside the provider's own, until this process forks.

    Returns the key that does so, which is an earlier one if there is one already. A forked child does not have it.
    Raises ``TypeError`` if ``provider`` was not made by ``with_local_keys``. Any thread may call it.
    """
    keys = provider.keys
    if not isinstance(keys, _StaticKeys | _ChangingKeys):
        raise TypeError("only the providers of an Auth take a key of this process")
    with _lock:
        if keys.added is None:
            keys.add(key)
            _changed.add(keys)
        return keys.added or key


class _StaticKeys(StaticKeys):
    """The key set is replaced when a key is added, so a request works exactly as it does without one."""

    def __init__(self, own: StaticKeys) -> None:
        super().__init__(own.current.keys)
        self.own = own
        self.added: Key | None = None

    def add(self, key: Key) -> None:
        self.added = key
        self.current = KeySet((*self.own.current.keys, key))

    def drop(self) -> None:
        self.added = None
        self.current = KeySet(self.own.current.keys)


class _ChangingKeys:
    """Keys that others rotate, and what is added beside them."""

    def __init__(self, own: KeySource) -> None:
        self.own = own
        self.added: Key | None = None
        self._seen: tuple[KeySet, KeySet] | None = None

    @property
    def current(self) -> KeySet:
        """See ``KeySource``."""
        keys = self.own.current
        added = self.added
        if added is None:
            return keys
        if self._seen is None or self._seen[0] is not keys:
            self._seen = (keys, KeySet((*keys.keys, added)))
        return self._seen[1]

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        """See ``KeySource``."""
        await self.own.refreshed(kid, algorithm)
        return self.current

    def add(self, key: Key) -> None:
        self._seen, self.added = None, key

    def drop(self) -> None:
        self._seen, self.added = None, None


_changed: WeakSet[_StaticKeys | _ChangingKeys] = WeakSet()
_lock = Lock()


def _drop() -> None:
    global _lock  # a thread that the child does not have may hold it
    _lock = Lock()
    for keys in _changed:
        keys.drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop)
