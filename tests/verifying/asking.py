"""What the tests of the verifier share: providers, and one question to a verifier of its own."""

import json
from typing import Any

import pytest

from jwt_middleware import Provider, Refusal, Token, Verifier
from jwt_middleware.errors import KeysUnavailable
from jwt_middleware.keys.key_set import KeySet

from ..support import NOW, SECRET, b64, claims, provider, token

# For the large tables: where nothing waits, one event loop tells as much as two.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def verify(raw: str | bytes, *providers: Provider, now: float = NOW, **options: Any) -> Token:
    return await Verifier(providers or provider(**options), clock=lambda: now).verify(raw)


async def refused(refusal: type[Refusal], raw: str | bytes, *providers: Provider, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as error:
        await verify(raw, *providers, **options)
    assert type(error.value) is refusal
    return error.value


def by(name: str, **options: Any) -> Provider:
    """A provider named ``name``, with a secret of its own unless another is given."""
    return provider(**{"name": name, "key": f"{SECRET} {name}", **options})


def token_of(name: str, **changes: Any) -> str:
    """A token signed with the secret of ``by(name)``."""
    return token(f"{SECRET} {name}", **changes)


GOOD = json.dumps(claims()).encode()


class Unreachable:
    """Keys that cannot be had."""

    current = KeySet(())

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        raise KeysUnavailable


class Rotating:
    """Keys that are new once they were asked for."""

    def __init__(self, before: KeySet, after: KeySet) -> None:
        self.current = before
        self.after = after
        self.asked: list[tuple[str | None, str]] = []

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        self.asked.append((kid, algorithm))
        self.current = self.after
        return self.after


def named(kid: str, secret: str = SECRET) -> dict[str, str]:
    return {"kty": "oct", "kid": kid, "k": b64(secret.encode()).decode()}
