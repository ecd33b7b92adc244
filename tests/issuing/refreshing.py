"""Many clients of one server, in a process of its own, for tests that start several: what each token's refreshes gave.

    python -m tests.issuing.refreshing STORE CLIENTS < TOKENS

Presents each of the refresh tokens ``CLIENTS`` times at once, one token after the other, and prints a line for each:
the generations that came. STORE is a file's path, or the address of a Redis.
"""

import asyncio
import sys
from contextlib import suppress

import jwt

from jwt_middleware.errors import StoreUnavailable
from jwt_middleware.issuing import Grant, RedisStore, Sessions, SessionStore, SQLiteStore, TokenIssuer

from ..support import SECRET


def sessions(where: str) -> Sessions:
    store: SessionStore = RedisStore(where) if "://" in where else SQLiteStore(where)
    return Sessions(store, TokenIssuer(SECRET, audience="orders"), grace=60)


async def main(where: str, clients: int) -> None:
    here = sessions(where)
    for token in sys.stdin.read().split():
        grants = await asyncio.gather(*(refreshed(here, token) for _ in range(clients)))
        generations = {generation_of(grant.refresh_token) for grant in grants}
        sys.stdout.write(f"{sorted(generations)}\n")
    await here.stop()


async def refreshed(sessions: Sessions, token: str) -> Grant:
    while True:
        # A machine that is busy enough is an outage; whoever is told so asks again.
        with suppress(StoreUnavailable):
            return await sessions.refresh(token)


def generation_of(refresh_token: str) -> int:
    generation: int = jwt.decode(refresh_token, options={"verify_signature": False})["gen"]
    return generation


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
