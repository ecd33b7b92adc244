import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from jwt_middleware.errors import ConfigurationError
from jwt_middleware.issuing import password_check

CHEAP = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))


@dataclass(frozen=True)
class User:
    identity: str
    password_hash: str | None


ADA = User("ada", CHEAP.hash("lovelace"))
BOB = User("bob", None)
EVE = User("eve", "")
USERS = {user.identity: user for user in (ADA, BOB, EVE)}


async def find_async(username: str) -> User | None:
    await checkpoint()
    return USERS.get(username)


class Recorder:
    """A hasher that says what it is asked, and in which thread."""

    def __init__(self) -> None:
        self.hashed: list[str] = []
        self.verified: list[tuple[str, str]] = []
        self.threads: set[int] = set()

    def hash(self, password: str) -> str:
        self.hashed.append(password)
        return CHEAP.hash(password)

    def verify(self, password: str, hash: str) -> bool:
        self.threads.add(threading.get_ident())
        self.verified.append((password, hash))
        return CHEAP.verify(password, hash)


@pytest.mark.anyio
@pytest.mark.parametrize("find_user", [pytest.param(USERS.get, id="sync"), pytest.param(find_async, id="async")])
@pytest.mark.parametrize(
    ("username", "password", "found"),
    [
        pytest.param("ada", "lovelace", ADA, id="right"),
        pytest.param("ada", "Lovelace", None, id="wrong"),
        pytest.param("nobody", "lovelace", None, id="unknown user"),
        pytest.param("bob", "lovelace", None, id="a user without a hash"),
        pytest.param("eve", "lovelace", None, id="a user with an empty hash"),
    ],
)
async def test_a_user_is_who_knows_the_password(
    find_user: Callable[[str], Any], username: str, password: str, found: User | None
) -> None:
    assert await password_check(find_user, CHEAP)(username, password) is found


@pytest.mark.anyio
@pytest.mark.parametrize("username", ["ada", "nobody", "bob", "eve"])
async def test_one_hash_is_verified_for_everybody(username: str) -> None:
    hasher = Recorder()
    authenticate = password_check(USERS.get, hasher)
    assert len(hasher.hashed) == 1
    assert await authenticate(username, "wrong") is None
    ((password, verified),) = hasher.verified
    assert password == "wrong"
    # The same algorithm, parameters and length: what differs is salt and digest.
    assert ADA.password_hash is not None
    assert verified.rsplit("$", 2)[0] == ADA.password_hash.rsplit("$", 2)[0]
    assert len(verified) == len(ADA.password_hash)


@pytest.mark.anyio
async def test_a_guess_of_the_password_for_unknown_users_lets_no_one_in() -> None:
    hasher = Recorder()
    authenticate = password_check(USERS.get, hasher)
    (password,) = hasher.hashed
    assert len(password) > 40
    assert await authenticate("nobody", password) is None
    assert await authenticate("bob", password) is None
    assert CHEAP.verify(*hasher.verified[0])


def test_the_password_for_unknown_users_is_new_each_time() -> None:
    one, other = Recorder(), Recorder()
    password_check(USERS.get, one)
    password_check(USERS.get, other)
    assert one.hashed != other.hashed


@pytest.mark.anyio
async def test_hashes_are_verified_off_the_event_loop() -> None:
    hasher = Recorder()
    await password_check(find_async, hasher)("ada", "lovelace")
    assert threading.get_ident() not in hasher.threads


@pytest.mark.anyio
async def test_no_more_are_verified_at_once_than_there_are_processors() -> None:
    processors = os.cpu_count() or 1
    release = threading.Event()
    running = threading.Semaphore(0)

    class Slow(Recorder):
        def verify(self, password: str, hash: str) -> bool:
            running.release()
            return not release.wait(10)

    authenticate = password_check(find_async, Slow())
    async with anyio.create_task_group() as tasks:
        for _ in range(processors + 5):
            tasks.start_soon(authenticate, "ada", "wrong")
        for _ in range(processors):
            assert await to_thread.run_sync(running.acquire, True, 10)
        assert not await to_thread.run_sync(running.acquire, True, 0.1)
        release.set()


@pytest.mark.anyio
async def test_the_hash_is_where_the_app_keeps_it() -> None:
    users = {"ada": {"pw": CHEAP.hash("lovelace")}, "bob": {"pw": None}}
    authenticate = password_check(users.get, CHEAP, hash_of=lambda user: user["pw"])
    assert await authenticate("ada", "lovelace") is users["ada"]
    assert await authenticate("bob", "lovelace") is None


@pytest.mark.anyio
async def test_what_the_app_raises_gets_through() -> None:
    def fail(username: str) -> User | None:
        raise LookupError("the database is away")

    with pytest.raises(LookupError, match="the database is away"):
        await password_check(fail, CHEAP)("ada", "lovelace")


@pytest.mark.anyio
@pytest.mark.parametrize("stored", ["plain", "!", "$argon2id$broken"])
async def test_a_hash_that_cannot_be_read_is_logged_without_naming_the_account(
    stored: str, caplog: pytest.LogCaptureFixture
) -> None:
    authenticate = password_check(lambda username: User(username, stored), CHEAP)
    assert await authenticate("ada", stored) is None
    assert "the password hash of a user cannot be read" in caplog.text
    assert stored not in caplog.messages[0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        pytest.param(({}, CHEAP), {}, "find_user must be callable as \\(username\\)", id="users"),
        pytest.param((USERS.get, "hunter2"), {}, "hasher must have hash.* and str does not$", id="a text"),
        pytest.param((USERS.get, None), {}, "hasher must have hash\\(password\\) and verify", id="no hasher"),
        pytest.param((USERS.get, hash), {}, "hasher must have hash\\(password\\) and verify", id="a function"),
        pytest.param((USERS.get, CHEAP), {"hash_of": "pw"}, "hash_of must be callable as \\(user\\)", id="a name"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_by_name(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        password_check(*arguments, **options)
