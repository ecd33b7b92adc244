"""A connection goes on with a new token of the same user."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from jwt_middleware import Provider, Token, renew
from jwt_middleware.errors import (
    BadSignature,
    Expired,
    InvalidClaim,
    MalformedToken,
    MissingToken,
    Refusal,
    Revoked,
    UserRefused,
    WrongIssuer,
)

from ..support import NOW, SECRET, http, token, until, websocket
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
    Provider(name="ours", key=SECRET, audience="orders", issuer="https://ours.example"),
    Provider(name="theirs", key="x" * 32, audience="orders", issuer="https://theirs.example"),
]


OURS: dict[str, Any] = {"iss": "https://ours.example"}


@pytest.mark.parametrize(
    ("new_token", "refusal"),
    [
        pytest.param(token(**OURS, sub="bob", exp=NOW + 100), InvalidClaim, id="another subject"),
        pytest.param(token(**OURS, sub=None, exp=NOW + 100), InvalidClaim, id="no subject"),
        pytest.param(token("x" * 32, iss="https://theirs.example", exp=NOW + 100), WrongIssuer, id="another provider"),
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


async def test_tokens_that_name_nobody_are_not_the_same_persons() -> None:
    app, came = renewing()
    async with running(app, opened(token(sub=None, exp=NOW + 1))) as run:
        await renewed(run, came, token(sub=None, exp=NOW + 100))
        assert isinstance(came[0], InvalidClaim)


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
        await until(lambda: len(run.timer) == 1)
        run.clock.now = NOW + 60
        await run.ends()
    assert isinstance(came[0], Expired)


async def test_nobodys_connection_cannot_be_renewed() -> None:
    app, came = renewing()
    async with running(app, websocket(), public=["/"]) as run:
        await renewed(run, came, LATER)
    assert isinstance(came[0], MissingToken)


async def test_only_open_connections_can_be_renewed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match="close_streams_on_expiry=True"):
            await renew(scope, LATER)
        await JSONResponse("seen")(scope, receive, send)

    async with running(app, http("/", f"Bearer {SOON}".encode())) as run:
        await run.ends()
    assert run.server.sent[-1]["body"] == b'"seen"'


async def test_a_stream_of_nobody_has_no_token_to_renew() -> None:
    refused: list[Refusal] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await renew(scope, SOON)
        except Refusal as refusal:
            refused.append(refusal)

    async with running(app, http("/"), allow_anonymous=True, close_streams_on_expiry=True) as run:
        await run.ends()
    assert [refusal.code for refusal in refused] == ["missing_token"]
