"""A connection ends when its token is revoked."""

import anyio
import anyio.lowlevel
import pytest

from jwt_middleware import JWTMiddleware, Token
from jwt_middleware.live.timer import TICK

from ..support import NOW, SECRET, Clock, token, until
from .connecting import CLOSED, LATER, LONG_ENOUGH, Listener, Revoking, Server, opened, running

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_a_revoked_token_ends_its_connection_within_the_second() -> None:
    revocations = Revoking()
    app = Listener()
    async with running(app, opened(LATER), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        await anyio.sleep(2 * TICK)
        assert not run.over.is_set()
        revocations.subjects.add("ada")
        with anyio.fail_after(2 * TICK):
            await run.over.wait()
    assert run.server.sent[-1] == {"type": "websocket.close", "code": 3000, "reason": "revoked"}
    assert app.received[-1] == {"type": "websocket.disconnect", "code": 3000, "reason": "revoked"}


async def test_revocations_that_must_be_waited_for_are() -> None:
    revocations = Revoking()
    async with running(Listener(), opened(LATER), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.can_tell = False
        revocations.subjects.add("ada")
        await run.ends()


async def test_while_revocations_cannot_be_told_connections_go_on_and_still_expire() -> None:
    revocations = Revoking()
    async with running(Listener(), opened(), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.can_tell = revocations.can_catch_up = False
        revocations.subjects.add("ada")
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == CLOSED


async def test_revocations_that_fail_are_logged_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    revocations = Revoking()
    async with running(Listener(), opened(LATER), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.error = LookupError("a bug of theirs")
        await anyio.sleep(LONG_ENOUGH)
        revocations.error, revocations.can_tell, revocations.is_broken = None, False, True
        await anyio.sleep(LONG_ENOUGH)
        assert len([record for record in caplog.records if "looking up revocations" in record.getMessage()]) == 1
        revocations.is_broken = False
        revocations.subjects.add("ada")
        await run.ends()


class Knowing(Revoking):
    """Revocations that cannot tell of one subject, or fail there, as soon as another one is revoked."""

    def __init__(self, subject: str, error: Exception | None) -> None:
        super().__init__()
        self.subject = subject
        self.failure = error

    def is_revoked(self, token: Token) -> bool | None:
        if token.subject != self.subject or not self.subjects:
            return token.subject in self.subjects
        if self.failure is not None:
            raise self.failure
        return None


@pytest.mark.parametrize("error", [None, LookupError("a bug of theirs")], ids=["cannot be told", "fails"])
@pytest.mark.parametrize("order", [["ada", "bob"], ["bob", "ada"]])
async def test_one_that_cannot_be_looked_up_saves_no_other_from_its_end(
    order: list[str], error: Exception | None
) -> None:
    revocations = Knowing("bob", error)
    revocations.can_catch_up = False
    app, clock = Listener(), Clock()
    middleware = JWTMiddleware(app, key=SECRET, audience="orders", clock=clock, revocations=revocations)
    servers = {name: Server({"type": "websocket.connect"}) for name in order}
    async with anyio.create_task_group() as together:
        for name, server in servers.items():
            raw = token(sub=name, exp=NOW + 900)
            together.start_soon(middleware, opened(raw), server.receive, server.send)
            await server.has_sent("websocket.accept")
        revocations.subjects.add("ada")
        await servers["ada"].has_sent("websocket.close")
        assert not any(message["type"] == "websocket.close" for message in servers["bob"].sent)
        together.cancel_scope.cancel()
    for server in servers.values():
        server.close()


async def test_a_mistake_in_catching_up_is_logged_and_everybody_still_expires(caplog: pytest.LogCaptureFixture) -> None:
    revocations = Revoking()
    async with running(Listener(), opened(), revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        revocations.can_tell, revocations.is_broken = False, True
        await until(lambda: "another bug of theirs" in caplog.text)
        run.clock.now = NOW + 60
        await run.ends()
