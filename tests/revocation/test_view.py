"""A view of a log that others write; the logs here do what real stores do only when they break."""

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from jwt_middleware import ConfigurationError, Revocation, RevocationView, Token
from jwt_middleware.errors import RevocationsUnavailable
from jwt_middleware.revocation.view import BATCH, FRESH, INTERVAL

from ..support import until
from ..support.tokens import verified

pytestmark = pytest.mark.anyio
FAR = 4_000_000_000


def of(session: str) -> Token:
    return verified(session_id=session, expires_at=FAR)


class Log:
    """A list of sessions that are ended; it fails, or takes its time, when told to."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.reads: list[str] = []
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.is_cancellable = True
        self.until: float = FAR

    async def revocations(self, after: str, limit: int) -> tuple[str, Sequence[Revocation]]:
        self.reads.append(after)
        at = int(after or 0)
        batch = self.ended[at : at + limit]
        with anyio.CancelScope(shield=not self.is_cancellable):
            await anyio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return str(at + len(batch)), [Revocation("jwt", "sid", session, self.until) for session in batch]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(autouse=True)
def clocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time is virtual, it is to the view as well."""
    if request.node.get_closest_marker("virtual_time"):
        monkeypatch.setattr("jwt_middleware.revocation.view.monotonic", anyio.current_time)


async def test_a_view_tells_nothing_before_it_has_read(log: Log) -> None:
    view = RevocationView(log)
    assert view.is_revoked(of("s")) is None
    log.ended.append("s")
    await view.catch_up()
    assert (view.is_revoked(of("s")), view.is_revoked(of("t"))) == (True, False)
    await view.stop()


@pytest.mark.virtual_time
async def test_a_view_is_read_again_without_being_asked_and_from_where_it_was(log: Log) -> None:
    view = RevocationView(log)
    await view.catch_up()
    log.ended.append("s")
    await until(lambda: view.is_revoked(of("s")), 2 * INTERVAL)
    await until(lambda: len(log.reads) >= 3)
    assert log.reads[:3] == ["", "0", "1"]
    await view.stop()


@pytest.mark.virtual_time
async def test_all_who_wait_share_one_read(log: Log) -> None:
    view = RevocationView(log)
    log.seconds = 0.1
    async with anyio.create_task_group() as together:
        for _ in range(50):
            together.start_soon(view.catch_up)
    assert log.reads == [""]
    assert view.is_revoked(of("s")) is False
    await view.stop()


@pytest.mark.virtual_time
async def test_a_waiter_that_is_cancelled_harms_no_other(log: Log) -> None:
    view = RevocationView(log)
    log.seconds = 0.1
    async with anyio.create_task_group() as together:
        together.start_soon(view.catch_up)
        with anyio.move_on_after(0.01):
            await view.catch_up()
    assert view.is_revoked(of("s")) is False
    assert log.reads == [""]
    await view.stop()


@pytest.mark.virtual_time
async def test_after_an_idle_time_a_read_is_waited_for(log: Log) -> None:
    view = RevocationView(log)
    await view.catch_up()
    await view.stop()
    log.ended.append("s")
    await anyio.sleep(FRESH)
    assert view.is_revoked(of("s")) is None
    await view.catch_up()
    assert view.is_revoked(of("s")) is True
    await view.stop()


@pytest.mark.virtual_time
async def test_after_the_event_loop_was_held_a_read_begins_at_once(log: Log) -> None:
    view = RevocationView(log)
    await view.catch_up()
    log.ended.append("s")
    # The reading task sleeps; nobody need wait until it wakes.
    view._answers_until = 0
    with anyio.fail_after(INTERVAL / 2):
        await view.catch_up()
    assert view.is_revoked(of("s")) is True
    await view.stop()


async def test_a_long_log_is_read_in_pieces(log: Log) -> None:
    view = RevocationView(log)
    log.ended = [str(number) for number in range(2 * BATCH + 1)]
    await view.catch_up()
    assert log.reads == ["", str(BATCH), str(2 * BATCH)]
    assert all(view.is_revoked(of(session)) for session in log.ended)
    await view.stop()


@pytest.mark.virtual_time
async def test_what_a_log_loses_stays_revoked(log: Log) -> None:
    view = RevocationView(log)
    log.ended.append("s")
    await view.catch_up()
    log.ended.clear()
    await until(lambda: len(log.reads) >= 3)
    assert view.is_revoked(of("s")) is True
    await view.stop()


async def test_what_this_process_revokes_is_known_at_once(log: Log) -> None:
    view = RevocationView(log)
    await view.catch_up()
    view.add(Revocation("jwt", "sid", "s", FAR))
    assert view.is_revoked(of("s")) is True
    await view.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "error",
    [pytest.param(OSError("gone"), id="an OSError"), pytest.param(ExceptionGroup("", [OSError("gone")]), id="a group")],
)
async def test_while_the_log_cannot_be_read_nobody_waits_and_what_is_known_goes_on(
    log: Log, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    view = RevocationView(log)
    log.ended.append("s")
    await view.catch_up()
    log.error = error
    await until(lambda: "not read" in caplog.text)
    log.seconds = 60
    await until(lambda: view.is_revoked(of("t")) is None)
    with anyio.fail_after(0.1):
        await view.catch_up()
    assert (view.is_revoked(of("s")), view.is_revoked(of("t"))) == (True, False)
    await view.stop()


@pytest.mark.virtual_time
async def test_a_view_that_is_too_old_is_not_believed(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    view = RevocationView(log, max_stale=1)
    log.ended.append("ended")
    await view.catch_up()
    log.error = OSError("gone")
    await until(lambda: view.is_revoked(of("s")) is None)
    for _ in range(3):
        with pytest.raises(RevocationsUnavailable):
            await view.catch_up()
        assert view.is_revoked(of("s")) is None
        assert view.is_revoked(of("ended")) is True
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert "OSError: gone" in caplog.text
    log.error = None
    await until(lambda: view.is_revoked(of("s")) is False, 3 * INTERVAL)
    assert "read again, after: OSError: gone" in caplog.text
    await view.stop()


@pytest.mark.virtual_time
async def test_a_log_that_fails_is_asked_no_oftener_than_one_that_does_not(log: Log) -> None:
    view = RevocationView(log)
    log.error = OSError("gone")
    for _ in range(100):
        with pytest.raises(RevocationsUnavailable):
            await view.catch_up()
        await anyio.sleep(0.02 * INTERVAL)
    assert len(log.reads) <= 4
    await view.stop()


@pytest.mark.virtual_time
async def test_a_view_may_be_believed_however_old_it_is(log: Log) -> None:
    view = RevocationView(log, max_stale=1, when_unavailable="pass")
    log.error = OSError("gone")
    await view.catch_up()
    assert view.is_revoked(of("s")) is False
    log.error, log.ended = None, ["s"]
    await until(lambda: view.is_revoked(of("s")), 3 * INTERVAL)
    await view.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("is_cancellable", [True, False], ids=["a read that can be cancelled", "one that cannot"])
async def test_a_read_that_hangs_is_waited_for_once(log: Log, is_cancellable: bool) -> None:
    view = RevocationView(log)
    log.is_cancellable = is_cancellable
    log.seconds = 1.5 * FRESH
    with anyio.fail_after(1.4 * FRESH), pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    with anyio.fail_after(0.05), pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    log.seconds = 0
    await until(lambda: view.is_revoked(of("s")) is False)
    await view.stop()


async def test_a_read_that_is_cancelled_is_no_error(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    view = RevocationView(log)
    log.seconds = 60
    with anyio.move_on_after(0.05):
        await view.catch_up()
    await view.stop()
    assert caplog.text == ""


async def test_whoever_waits_when_reading_is_stopped_is_told(log: Log) -> None:
    view = RevocationView(log)
    log.seconds = 60
    told: list[bool] = []

    async def wait() -> None:
        with pytest.raises(RevocationsUnavailable):
            await view.catch_up()
        told.append(True)

    async with anyio.create_task_group() as together:
        together.start_soon(wait)
        await until(lambda: log.reads)
        with anyio.fail_after(0.5):
            await view.stop()
            await until(lambda: told)
    log.seconds = 0
    await view.catch_up()
    assert view.is_revoked(of("s")) is False
    await view.stop()


async def test_each_event_loop_reads_for_itself_and_all_see_it(log: Log, anyio_backend_name: str) -> None:
    view = RevocationView(log)
    await view.catch_up()

    async def elsewhere() -> None:
        view._answers_until = 0
        log.ended.append("s")
        await view.catch_up()

    await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, backend=anyio_backend_name))
    assert view.is_revoked(of("s")) is True
    await view.stop()


def test_one_event_loop_after_the_other_reads_again(log: Log, anyio_backend: str) -> None:
    view = RevocationView(log)
    for session in "ab":
        log.ended.append(session)
        view._answers_until = 0
        anyio.run(view.catch_up, backend=anyio_backend)
        assert view.is_revoked(of(session)) is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_reads_for_itself(log: Log) -> None:
    view = RevocationView(log)
    anyio.run(view.catch_up)
    log.ended.append("s")
    view._answers_until = 0
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # measured in the parent only
        anyio.run(view.catch_up)
        os._exit(0 if view.is_revoked(of("s")) is True else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_view_knows_its_age(log: Log) -> None:
    view = RevocationView(log)
    assert view.age == float("inf")
    anyio.run(view.catch_up)
    assert 0 <= view.age < 5
    assert "Log" in repr(view)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"log": object()}, "log must have a method revocations", id="no log"),
        pytest.param({"max_stale": 0.5}, "max_stale must be a number of seconds, 1 or more", id="no time to read"),
        pytest.param({"when_unavailable": "ignore"}, "'refuse' or 'pass'", id="another word"),
        pytest.param({"clock": 5}, "clock must be callable", id="no clock"),
    ],
)
def test_what_cannot_work_is_said_at_construction(arguments: dict[str, Any], message: str, log: Log) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RevocationView(**{"log": log, **arguments})


@pytest.mark.virtual_time
async def test_a_clock_that_was_wrong_for_a_moment_makes_nothing_forgotten(log: Log) -> None:
    wrong = 0.0
    view = RevocationView(log, clock=lambda: time.time() + wrong)
    log.until = time.time() + 900
    log.ended.append("s")
    await view.catch_up()
    wrong = 7200
    log.ended.append("t")
    await until(lambda: view.is_revoked(of("t")))
    wrong = 0.0
    log.ended.append("u")
    await until(lambda: view.is_revoked(of("u")))
    assert [view.is_revoked(of(session)) for session in "stu"] == [True, True, True]
    await view.stop()


@pytest.mark.virtual_time
async def test_what_a_slow_log_says_is_known_at_last(log: Log) -> None:
    view = RevocationView(log)
    log.ended.append("s")
    log.seconds = 1.2 * FRESH
    with pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    await until(lambda: of("s") in view._known)
    await view.stop()


@pytest.mark.virtual_time
async def test_a_log_that_takes_its_time_is_read_as_often(log: Log) -> None:
    view = RevocationView(log)
    log.seconds = 0.6 * INTERVAL
    await view.catch_up()
    reads = len(log.reads)
    await anyio.sleep(2.2 * INTERVAL)
    assert len(log.reads) >= reads + 2
    await view.stop()


async def test_a_read_that_never_ends_is_given_up(
    log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jwt_middleware.revocation.view.PATIENCE", 0.1)
    view = RevocationView(log)
    log.seconds = 60
    with pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    assert "no answer within 0.1 s" in caplog.text
    log.seconds = 0
    await until(lambda: view.is_revoked(of("s")) is False)
    await view.stop()
