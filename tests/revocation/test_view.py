"""A view of a log that others write; the logs here do what real stores do only when they break."""

import logging
import os
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from jwt_middleware import ConfigurationError, Revocation, RevocationView, Token
from jwt_middleware.errors import RevocationsUnavailable
from jwt_middleware.revocation.log import RevocationPage
from jwt_middleware.revocation.view import BATCH, FRESH, INTERVAL, MOST_READS, PATIENCE, PATIENT_INTERVAL, PIECE

from ..support.clock import NOW, Clock
from ..support.tokens import verified
from ..support.waiting import most_between_turns, until

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
        self.now = float(NOW)
        self.until = float(FAR)
        self.on_read: Callable[[str], None] | None = None
        self.under_way = self.most = 0

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        self.reads.append(after)
        if self.on_read is not None:
            self.on_read(after)
        at = int(after or 0)
        batch = self.ended[at : at + limit]
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            with anyio.CancelScope(shield=not self.is_cancellable):
                await anyio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        revocations = [Revocation("jwt", "sid", session, self.until) for session in batch]
        return RevocationPage(str(at + len(batch)), revocations, self.now)


@pytest.fixture
def log() -> Log:
    return Log()


def view_of(log: Log, **options: Any) -> RevocationView:
    """A view to which time is what it is to the event loop, virtual or not."""
    return RevocationView(log, clock=anyio.current_time, **options)


async def test_a_view_tells_nothing_before_it_has_read(log: Log) -> None:
    view = view_of(log)
    assert view.is_revoked(of("s")) is None
    log.ended.append("s")
    await view.catch_up()
    assert (view.is_revoked(of("s")), view.is_revoked(of("t"))) == (True, False)
    await view.stop()


@pytest.mark.virtual_time
async def test_a_view_is_read_again_without_being_asked_and_from_where_it_was(log: Log) -> None:
    view = view_of(log)
    await view.catch_up()
    log.ended.append("s")
    await until(lambda: view.is_revoked(of("s")), 2 * INTERVAL)
    await until(lambda: len(log.reads) >= 3)
    assert log.reads[:3] == ["", "0", "1"]
    await view.stop()


@pytest.mark.virtual_time
async def test_all_who_wait_share_one_read(log: Log) -> None:
    view = view_of(log)
    log.seconds = 0.1
    async with anyio.create_task_group() as together:
        for _ in range(50):
            together.start_soon(view.catch_up)
    assert log.reads == [""]
    assert view.is_revoked(of("s")) is False
    await view.stop()


@pytest.mark.virtual_time
async def test_a_waiter_that_is_cancelled_harms_no_other(log: Log) -> None:
    view = view_of(log)
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
    view = view_of(log)
    await view.catch_up()
    await view.stop()
    log.ended.append("s")
    await anyio.sleep(FRESH)
    assert view.is_revoked(of("s")) is None
    await view.catch_up()
    assert view.is_revoked(of("s")) is True
    await view.stop()


async def test_after_the_event_loop_was_held_a_read_begins_at_once(log: Log) -> None:
    clock = Clock()
    view = RevocationView(log, clock=clock)
    await view.catch_up()
    log.ended.append("s")
    # The reading task sleeps; no request need wait until it wakes.
    clock.now += FRESH
    assert view.is_revoked(of("s")) is None
    with anyio.fail_after(INTERVAL / 2):
        await view.catch_up()
    assert view.is_revoked(of("s")) is True
    await view.stop()


@pytest.mark.virtual_time
async def test_a_long_log_is_read_in_pieces(log: Log) -> None:
    view = view_of(log)
    log.ended = [str(number) for number in range(2 * BATCH + 1)]
    await view.catch_up()
    assert log.reads == ["", str(BATCH), str(2 * BATCH)]
    assert all(view.is_revoked(of(session)) for session in log.ended)
    await view.stop()


@pytest.mark.virtual_time
async def test_while_a_long_log_is_added_other_work_gets_its_turn(log: Log) -> None:
    view = view_of(log)
    log.ended = [str(number) for number in range(BATCH - 1)]
    pieces = [of(session) for session in (*log.ended[PIECE - 1 :: PIECE], log.ended[-1])]

    def known() -> int:
        return sum(view.is_revoked(piece) is True for piece in pieces)

    # Two, because trio gives turns in random order.
    assert await most_between_turns(view.catch_up, known) <= 2
    assert known() == len(pieces)
    await view.stop()


@pytest.mark.virtual_time
async def test_the_next_page_of_a_long_log_is_read_while_the_one_before_is_added(log: Log) -> None:
    view = view_of(log)
    log.ended = [str(number) for number in range(2 * BATCH)]
    were_known: list[bool] = []

    def look(after: str) -> None:
        if after:
            were_known.append(view.is_revoked(of(str(int(after) - 1))) is True)

    log.on_read = look
    await view.catch_up()
    assert were_known[:2] == [False, False]
    assert view.is_revoked(of(log.ended[-1])) is True
    await view.stop()


@pytest.mark.virtual_time
async def test_a_long_log_that_fails_on_its_way_is_read_on_from_where_it_failed(log: Log) -> None:
    view = view_of(log)
    log.ended = [str(number) for number in range(2 * BATCH + 1)]

    def fail(after: str) -> None:
        if after == str(BATCH):
            log.error = OSError("gone")

    log.on_read = fail
    with pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    assert view.error == "OSError: gone"
    assert view.is_revoked(of(log.ended[0])) is True
    log.on_read = log.error = None
    await until(lambda: view.is_revoked(of("t")) is False)
    assert view.is_revoked(of(log.ended[-1])) is True
    assert log.reads.count("") == 1
    await view.stop()


@pytest.mark.virtual_time
async def test_what_a_log_loses_stays_revoked(log: Log) -> None:
    view = view_of(log)
    log.ended.append("s")
    await view.catch_up()
    log.ended.clear()
    await until(lambda: len(log.reads) >= 3)
    assert view.is_revoked(of("s")) is True
    await view.stop()


async def test_what_this_process_revokes_is_known_at_once(log: Log) -> None:
    view = view_of(log)
    await view.catch_up()
    view.add(Revocation("jwt", "sid", "s", FAR))
    assert view.is_revoked(of("s")) is True
    await view.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "error",
    [pytest.param(OSError("gone"), id="an OSError"), pytest.param(ExceptionGroup("", [OSError("gone")]), id="a group")],
)
async def test_while_the_log_cannot_be_read_no_request_waits_and_known_revocations_still_count(
    log: Log, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    view = view_of(log)
    log.ended.append("s")
    await view.catch_up()
    log.error = error
    await until(lambda: "could not be read" in caplog.text)
    log.seconds = 60
    await until(lambda: view.is_revoked(of("t")) is None)
    with anyio.fail_after(0.1):
        await view.catch_up()
    assert (view.is_revoked(of("s")), view.is_revoked(of("t"))) == (True, False)
    await view.stop()


@pytest.mark.virtual_time
async def test_a_view_that_is_too_old_is_not_believed(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    view = view_of(log, max_stale=1)
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
    view = view_of(log)
    log.error = OSError("gone")
    for _ in range(100):
        with pytest.raises(RevocationsUnavailable):
            await view.catch_up()
        await anyio.sleep(0.02 * INTERVAL)
    assert len(log.reads) <= 4
    await view.stop()


@pytest.mark.virtual_time
async def test_a_view_may_be_believed_however_old_it_is(log: Log) -> None:
    view = view_of(log, max_stale=1, when_unavailable="pass")
    log.error = OSError("gone")
    await view.catch_up()
    assert view.is_revoked(of("s")) is False
    log.error, log.ended = None, ["s"]
    await until(lambda: view.is_revoked(of("s")), 3 * INTERVAL)
    await view.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("is_cancellable", [True, False], ids=["a read that can be cancelled", "one that cannot"])
async def test_a_read_that_hangs_is_waited_for_once(log: Log, is_cancellable: bool) -> None:
    view = view_of(log)
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
    view = view_of(log)
    log.seconds = 60
    with anyio.move_on_after(0.05):
        await view.catch_up()
    await view.stop()
    assert caplog.text == ""


async def test_whoever_waits_when_reading_is_stopped_is_told(log: Log) -> None:
    view = view_of(log)
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
    clock = Clock()
    view = RevocationView(log, clock=clock)
    await view.catch_up()

    async def elsewhere() -> None:
        clock.now += FRESH
        log.ended.append("s")
        await view.catch_up()

    await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, backend=anyio_backend_name))
    assert view.is_revoked(of("s")) is True
    await view.stop()


def test_one_event_loop_after_the_other_reads_again(log: Log, anyio_backend: str) -> None:
    clock = Clock()
    view = RevocationView(log, clock=clock)
    for session in "ab":
        log.ended.append(session)
        clock.now += FRESH
        anyio.run(view.catch_up, backend=anyio_backend)
        assert view.is_revoked(of(session)) is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_reads_for_itself(log: Log) -> None:
    clock = Clock()
    view = RevocationView(log, clock=clock)
    anyio.run(view.catch_up)
    log.ended.append("s")
    clock.now += FRESH
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # measured in the parent only
        anyio.run(view.catch_up)
        os._exit(0 if view.is_revoked(of("s")) is True else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_view_knows_its_age(log: Log) -> None:
    clock = Clock()
    view = RevocationView(log, clock=clock)
    assert view.age == float("inf")
    anyio.run(view.catch_up)
    clock.now += 7
    assert view.age == 7
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
@pytest.mark.parametrize("jump", [7200, 86_400, -86_400])
async def test_a_clock_that_was_wrong_for_a_moment_makes_nothing_forgotten(log: Log, jump: float) -> None:
    view = view_of(log)
    log.until = NOW + 86_400 + 900
    log.ended.append("s")
    await view.catch_up()
    for session, now in (("t", log.now + jump), ("u", log.now)):
        log.now = now
        log.ended.append(session)
        await anyio.sleep(2 * INTERVAL)
    assert [view.is_revoked(of(session)) for session in "stu"] == [True, True, True]
    await view.stop()


@pytest.mark.virtual_time
@pytest.mark.parametrize("ahead", [0, 3600, -3600])
async def test_a_revocation_is_known_until_it_is_over_by_the_clock_of_the_log(log: Log, ahead: float) -> None:
    view = view_of(log)
    log.now += ahead
    log.until = log.now + 7200
    log.ended.append("s")
    for seconds, is_revoked in ((0, True), (7000, True), (300, False)):
        await anyio.sleep(seconds)
        await view.catch_up()
        assert view.is_revoked(of("s")) is is_revoked
        await view.stop()
        log.ended.clear()


@pytest.mark.virtual_time
async def test_what_a_slow_log_says_is_known_at_last(log: Log) -> None:
    view = view_of(log)
    log.ended.append("s")
    log.seconds = 1.2 * FRESH
    with pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    await until(lambda: view.is_revoked(of("s")))
    await view.stop()


@pytest.mark.virtual_time
async def test_a_log_that_becomes_slow_holds_no_request(log: Log) -> None:
    """From one moment to the next, a read takes 0.8 s."""
    view = view_of(log)
    await view.catch_up()
    await anyio.sleep(INTERVAL / 2)
    log.seconds = 0.8
    for _ in range(500):
        assert view.is_revoked(of("s")) is False
        await anyio.sleep(0.01)
    log.ended.append("s")
    await anyio.sleep(FRESH)
    assert view.is_revoked(of("s")) is True
    await view.stop()


@pytest.mark.virtual_time
async def test_where_every_second_read_hangs_a_revocation_is_known_within_a_second(log: Log) -> None:
    view = view_of(log)
    await view.catch_up()

    async def alternate() -> None:
        while True:
            log.seconds = 60 if len(log.reads) % 2 else 0
            await anyio.sleep(INTERVAL / 10)

    async with anyio.create_task_group() as together:
        together.start_soon(alternate)
        for number in range(40):
            log.ended.append(f"{number}")
            await anyio.sleep(FRESH)
            assert view.is_revoked(of(f"{number}")) is True
        together.cancel_scope.cancel()
    await view.stop()


@pytest.mark.virtual_time
async def test_where_every_second_read_fails_the_log_does_not_count_as_unreadable(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    view = view_of(log)
    await view.catch_up()
    for number in range(40):
        log.error = OSError("gone") if number % 2 else None
        await anyio.sleep(INTERVAL)
        assert view.is_revoked(of("s")) is False
    assert caplog.text == ""
    # After an idle time, the first read fails and the second one does not.
    await view.stop()
    log.ended.append("s")
    log.error = OSError("gone")
    await anyio.sleep(FRESH)
    async with anyio.create_task_group() as together:
        together.start_soon(view.catch_up)
        await anyio.sleep(INTERVAL / 2)
        log.error = None
    assert view.is_revoked(of("s")) is True
    await view.stop()


@pytest.mark.virtual_time
async def test_a_log_that_hangs_has_a_bounded_number_of_reads_under_way_and_is_well_again_soon(log: Log) -> None:
    view = view_of(log)
    await view.catch_up()
    log.seconds = 3600
    log.is_cancellable = False
    await anyio.sleep(60)
    assert log.most <= MOST_READS
    await view.stop()


@pytest.mark.virtual_time
async def test_a_log_that_hung_is_read_again_soon(log: Log) -> None:
    view = view_of(log)
    await view.catch_up()
    log.seconds = 3600
    await anyio.sleep(60)
    log.seconds = 0
    await until(lambda: view.is_revoked(of("s")) is False, 2 * PATIENT_INTERVAL)
    await view.stop()


@pytest.mark.virtual_time
async def test_a_read_that_never_ends_is_given_up(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    view = view_of(log)
    log.seconds = 3600
    with pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    assert view.error == "no answer within 1 s"
    await anyio.sleep(PATIENCE)
    assert view.error == f"no answer within {PATIENCE} s"
    log.seconds = 0
    await until(lambda: view.is_revoked(of("s")) is False)
    assert view.error is None
    await view.stop()


@pytest.mark.virtual_time
async def test_a_page_that_takes_long_ends_no_other(log: Log) -> None:
    """Each page has its time: a long log is read to its end however long that takes, and once."""
    view = view_of(log)
    log.ended = [str(number) for number in range(4 * BATCH)]
    log.seconds = 0.9 * PATIENCE
    with pytest.raises(RevocationsUnavailable):
        await view.catch_up()
    await anyio.sleep(4.6 * PATIENCE)
    assert view.is_revoked(of(str(4 * BATCH - 1))) is True
    assert log.reads.count(str(2 * BATCH)) == 1
    await view.stop()
