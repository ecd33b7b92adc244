"""A client and its server in one process, for tests that kill it: each generation is printed once it is answered.

python -m tests.issuing.rotating FILE GENERATION
"""

import asyncio
import sys

from jwt_middleware.issuing import SQLiteStore
from jwt_middleware.testing.store_contract import rotation


async def main(path: str, generation: int) -> None:
    store = SQLiteStore(path)
    # Whoever was killed asks again for what it got no answer to.
    grace = 3600
    while True:
        outcome, session = await store.rotate(rotation("s", generation, grace=grace))
        assert session is not None, outcome
        generation, grace = session.generation, 0
        sys.stdout.write(f"{outcome.value} {generation}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
