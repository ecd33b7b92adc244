"""A connection goes on with a new token of the same user."""

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from jwt_middleware import ConfigurationError, JWTMiddleware, Provider, Token, bearer_header, renew
from jwt_middleware.errors import (
    BadSignature,
    Expired,
    InvalidClaim,
    MalformedToken,
    MissingClaim,
    Refusal,
    Revoked,
    UserRefused,
    WrongIssuer,
)

from ..reading.test_schemes import BOUND, Toy
from ..support import NOW, SECRET, echo, http, logged, token, until, websocket
from .connecting import CLOSED, LATER, LEEWAY, LONG_ENOUGH, SOON, Revoking, opened, renewed, renewing, running

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_a_connection_lives_on_with_a_new_token() -> None:
    app, came = renewing()
    async with running(app, opened()) as run:
        await renewed(run, came, token(exp=NOW + 100, scope="orders:read"))
        run.clock.now = NOW + 60
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 100 + LEEWAY
        await run.ends()
    assert came == [("ada", NOW + 100, ["orders:read"])]
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]


PROVIDERS = [
    Provider(name="ours", key=SECRET, audience="orders", issuer=["https://ours.example", "https://sister.example"]),
    Provider(name="theirs", key="x" * 32, audience="orders", issuer="https://theirs.example"),
]


OURS: dict[str, Any] = {"iss": "https://ours.example"}


@pytest.mark.parametrize(
    ("new_token", "refusal"),
    [
        pytest.param(token(**OURS, sub="bob", exp=NOW + 100), InvalidClaim, id="another subject"),
        pytest.param(token(**OURS, sub=None, exp=NOW + 100), MissingClaim, id="no subject"),
        pytest.param(token("x" * 32, iss="https://theirs.example", exp=NOW + 100), WrongIssuer, id="another provider"),
        pytest.param(token(iss="https://sister.example", exp=NOW + 100), WrongIssuer, id="another issuer"),
        pytest.param(token(**OURS, exp=NOW - LEEWAY), Expired, id="expired"),
        pytest.param(token(**OURS, jti="revoked", exp=NOW + 100), Revoked, id="revoked"),
        pytest.param(token("x" * 32, **OURS, exp=NOW + 100), BadSignature, id="forged"),
        pytest.param(token(**OURS, aud="billing", exp=NOW + 100), Refusal, id="another audience"),
        pytest.param(token(**OURS, jti="unloved", exp=NOW + 100), UserRefused, id="load_user finds nobody"),
        pytest.param("", MalformedToken, id="empty"),
        pytest.param("\u00e9", MalformedToken, id="not ASCII"),
        pytest.param(b"\xff", MalformedToken, id="bytes"),
        pytest.param(None, MalformedToken, id="null"),
        pytest.param({"token": 5}, MalformedToken, id="an object"),
    ],
)
async def test_any_other_token_is_refused_and_changes_nothing(new_token: Any, refusal: type[Refusal]) -> None:
    class ByToken(Revoking):
        def is_revoked(self, token: Token) -> bool:
            return token.id == "revoked"

    class User:
        identity = "ada"

    async def load_user(token: Token) -> Any:
        return None if token.id == "unloved" else User()

    app, came = renewing()
    scope = opened(token(**OURS, exp=NOW + 1))
    async with running(app, scope, providers=PROVIDERS, revocations=ByToken(), load_user=load_user) as run:
        await renewed(run, came, new_token)
        assert isinstance(came[0], refusal)
        run.clock.now = NOW + 1 + LEEWAY
        await run.ends()
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]


@pytest.mark.parametrize(
    ("before", "after", "claim"),
    [
        pytest.param("app-1", "app-1", None, id="the same client"),
        pytest.param("app-1", "app-2", "client_id", id="another client"),
        pytest.param("app-1", None, "client_id", id="no client"),
        pytest.param(None, "app-1", "client_id", id="no client before"),
        pytest.param(None, None, "client_id", id="no client at all"),
        pytest.param(5, 5, "client_id", id="a client that is a number"),
    ],
)
async def test_where_tokens_have_no_subject_the_client_must_be_the_same(
    before: Any, after: Any, claim: str | None
) -> None:
    app, came = renewing()
    async with running(app, opened(token(sub=None, client_id=before, exp=NOW + 1)), subject_claim=None) as run:
        await renewed(run, came, token(sub=None, client_id=after, exp=NOW + 100))
    assert (came[0].claim if isinstance(came[0], Refusal) else None) == claim


async def test_a_connection_that_was_ended_is_not_renewed() -> None:
    came: list[Refusal] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        try:
            await renew(scope, LATER)
        except Refusal as refusal:
            came.append(refusal)

    async with running(app, opened()) as run:
        await until(lambda: run.open_connections == 1)
        run.clock.now = NOW + 60
        await run.ends()
    assert isinstance(came[0], Expired)


async def test_only_open_connections_can_be_renewed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match="close_streams_on_expiry=True"):
            await renew(scope, LATER)
        await JSONResponse("seen")(scope, receive, send)

    async with running(app, http("/", f"Bearer {SOON}".encode())) as run:
        await run.ends()
    assert run.server.sent[-1]["body"] == b'"seen"'


@pytest.mark.parametrize("options", [{"public": ["/"]}, {"allow_anonymous": True}], ids=["public", "anonymous"])
async def test_a_connection_that_began_anonymous_authenticates_by_its_first_message(options: dict[str, Any]) -> None:
    app, came = renewing()
    async with running(app, websocket(), **options) as run:
        await run.server.has_sent("websocket.accept")
        assert run.open_connections == 0
        await renewed(run, came, SOON)
        assert run.open_connections == 1
        run.clock.now = NOW + 1 + LEEWAY
        await run.ends()
    assert came == [("ada", NOW + 1, ["orders:read", "orders:write"])]
    assert run.server.sent == [{"type": "websocket.accept"}, CLOSED]


async def test_the_first_token_that_is_good_decides_whose_connection_it_is() -> None:
    app, came = renewing()
    async with running(app, websocket(), public=["/"]) as run:
        await renewed(run, came, "garbage", token("x" * 32), SOON, token(sub="bob"), LATER)
    codes = [one.code if isinstance(one, Refusal) else one[0] for one in came]
    assert codes == ["malformed_token", "bad_signature", "ada", "invalid_claim", "ada"]


async def test_of_two_first_tokens_at_once_one_decides_whose_connection_it_is() -> None:
    came: list[str] = []

    class User:
        identity = "somebody"

    async def load_user(found: Token) -> User:
        # The token that was presented first takes longer.
        await anyio.sleep(2 if found.subject == "ada" else 1)
        return User()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def authenticate(subject: str) -> None:
            try:
                await renew(scope, token(sub=subject))
            except Refusal as refusal:
                came.append(refusal.code)
            else:
                came.append(scope["auth"].token.subject)

        async with anyio.create_task_group() as together:
            together.start_soon(authenticate, "ada")
            together.start_soon(authenticate, "bob")

    async with running(app, websocket(), public=["/"], load_user=load_user) as run:
        await run.ends()
    assert came == ["bob", "invalid_claim"]


async def test_a_connection_that_authenticates_after_its_client_has_gone_is_not_watched() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        await renew(scope, LATER)
        await anyio.sleep_forever()

    async with running(app, websocket(), public=["/"]) as run:
        run.server.comes({"type": "websocket.disconnect", "code": 1001})
        await until(lambda: "auth" in run.scope and run.scope["auth"].token is not None)
        assert run.open_connections == 0


async def test_a_stream_that_began_anonymous_authenticates_as_well() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await renew(scope, SOON)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with running(app, http("/"), allow_anonymous=True, close_streams_on_expiry=True) as run:
        await run.server.has_sent("http.response.start")
        run.clock.now = NOW + 60
        await run.ends()
    assert run.server.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def opened_by_toy(*raw: str) -> Scope:
    """A handshake with the proof that the scheme demands, and with a token or without one."""
    scope = websocket("/", *(f"Toy {one}".encode() for one in raw))
    return {**scope, "headers": [*scope["headers"], (b"toy", BOUND["toy"].encode())]}


@pytest.mark.parametrize("schemes", [["bearer", "toy"], ["toy"]], ids=["beside Bearer", "alone"])
@pytest.mark.parametrize(
    ("new_token", "came_of_it"),
    [
        pytest.param(token(cnf=BOUND, exp=NOW + 1000), "ada", id="bound to the same sender"),
        pytest.param(token(cnf={"toy": "another"}, exp=NOW + 1000), "invalid_toy_proof", id="bound to another sender"),
        pytest.param(token(exp=NOW + 1000), "invalid_toy_proof", id="not bound"),
    ],
)
async def test_a_connection_is_renewed_by_the_scheme_that_it_began_with(
    schemes: list[str], new_token: str, came_of_it: str
) -> None:
    app, came = renewing()
    sources = [bearer_header() if name == "bearer" else Toy() for name in schemes]
    async with running(app, opened_by_toy(token(cnf=BOUND, exp=NOW + 1)), sources=sources) as run:
        await renewed(run, came, new_token)
        run.clock.now = NOW + 60
        await (anyio.sleep(LONG_ENOUGH) if came_of_it == "ada" else run.ends())
        assert run.over.is_set() == (came_of_it != "ada")
    assert [one.code if isinstance(one, Refusal) else one[0] for one in came] == [came_of_it]


@pytest.mark.parametrize(
    ("sources", "codes"),
    [
        pytest.param([Toy(), bearer_header()], ["sender_constrained", "ada"], id="Bearer, if it is a scheme here"),
        pytest.param([Toy()], ["ada", "invalid_toy_proof"], id="the only scheme"),
    ],
)
async def test_a_connection_that_began_anonymous_is_renewed_by_the_usual_scheme(
    sources: list[Any], codes: list[str]
) -> None:
    app, came = renewing()
    async with running(app, opened_by_toy(), sources=sources, public=["/"]) as run:
        await renewed(run, came, token(cnf=BOUND), token())
    assert [one.code if isinstance(one, Refusal) else one[0] for one in came] == codes


async def test_a_handshake_with_two_tokens_is_renewed_by_the_usual_scheme() -> None:
    """It is anonymous, on a public path: neither token counts."""
    app, came = renewing()
    scope = opened_by_toy(token(cnf=BOUND))
    sources = [bearer_header(), Toy(), lambda scope: "a.b.c"]
    async with running(app, scope, sources=sources, public=["/"]) as run:
        await renewed(run, came, token(cnf=BOUND), SOON)
    assert [one.code if isinstance(one, Refusal) else one[0] for one in came] == ["sender_constrained", "ada"]


async def test_a_renewal_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jwt_middleware.connections")
    app, came = renewing()
    async with running(app, opened()) as run:
        await renewed(run, came, LATER)
    assert (logging.DEBUG, "a connection of 'ada' was renewed (provider=jwt)") in logged(caplog)


NOBODY = {"type": "websocket.close", "code": 3000, "reason": "missing_token"}


async def test_a_websocket_on_which_nobody_authenticates_in_time_is_closed() -> None:
    app, _ = renewing()
    async with running(app, websocket(), public=["/"], authenticate_within=10) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 9.9
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 10
        await run.ends()
    assert run.server.sent == [{"type": "websocket.accept"}, NOBODY]


async def test_a_websocket_on_which_somebody_has_authenticated_in_time_goes_on() -> None:
    app, came = renewing()
    async with running(app, websocket(), public=["/"], authenticate_within=10) as run:
        await renewed(run, came, LATER)
        run.clock.now = NOW + 900
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()
        run.clock.now = NOW + 1000 + LEEWAY
        await run.ends()
    assert run.server.sent[-1] == CLOSED


async def test_bad_tokens_gain_no_time() -> None:
    app, came = renewing()
    async with running(app, websocket(), public=["/"], authenticate_within=10) as run:
        await run.server.has_sent("websocket.accept")
        run.clock.now = NOW + 9
        await renewed(run, came, "garbage", token("x" * 32))
        run.clock.now = NOW + 10
        await run.ends()
    assert run.server.sent[-1] == NOBODY


async def test_revocations_are_not_asked_about_a_websocket_that_is_still_anonymous() -> None:
    revocations, (app, _) = Revoking(), renewing()
    async with running(app, websocket(), public=["/"], authenticate_within=10, revocations=revocations) as run:
        await run.server.has_sent("websocket.accept")
        await anyio.sleep(LONG_ENOUGH)
    assert revocations.looked == 0


@pytest.mark.parametrize("options", [{}, {"authenticate_within": 10}], ids=["no limit", "a limit"])
async def test_a_stream_may_stay_anonymous(options: dict[str, Any]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.sleep_forever()

    async with running(app, http("/"), public=["/"], close_streams_on_expiry=True, **options) as run:
        await run.server.has_sent("http.response.start")
        run.clock.now = NOW + 1000
        await anyio.sleep(LONG_ENOUGH)
        assert not run.over.is_set()


@pytest.mark.parametrize("value", [0, -1, "10", True, float("inf")])
def test_a_limit_that_cannot_work_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="authenticate_within must be a number of seconds, 1 or more"):
        JWTMiddleware(echo, key=SECRET, audience="orders", authenticate_within=value)
