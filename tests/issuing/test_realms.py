"""Two providers share subjects, ids and a store; neither reaches what is the other's, nor does one issuer of two."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from jwt_middleware import JWTMiddleware, Provider, Refusal, current_token, renew
from jwt_middleware.issuing import Grant, MemoryStore, Sessions, SQLiteStore, TokenIssuer

from ..support import SECRET, bearer

STAFF, PARTNERS, OTHERS = "https://staff.example", "https://partners.example", "https://others.example"
PARTNERS_SECRET = SECRET[::-1]


def mint(issuer: str, **claims: Any) -> str:
    """A token of the partners' provider, which can write whatever it likes."""
    now = int(time.time())
    good = {"iss": issuer, "sub": "1", "aud": "orders", "iat": now, "exp": now + 600}
    return jwt.encode({**good, **claims}, PARTNERS_SECRET, "HS256")


class Service:
    """Staff log in here; partners bring the tokens of their own provider, which has two issuers."""

    def __init__(self, store: Any) -> None:
        self.staff = Sessions(store, TokenIssuer(SECRET, audience="orders", name="staff", issuer=STAFF))
        # Another service with the same store, whose users have the same subjects.
        self.desk = Sessions(store, TokenIssuer(PARTNERS_SECRET, audience="orders", name="partners", issuer=PARTNERS))
        self.closed = 0
        routes = [
            Route("/", self.show),
            Route("/sessions", self.list_sessions),
            Route("/revoke", self.revoke, methods=["POST"]),
            Route("/login", self.log_in, methods=["POST"]),
            WebSocketRoute("/live", self.serve),
        ]
        self.app = JWTMiddleware(
            Starlette(routes=routes, lifespan=self.lifespan),
            providers=[
                self.staff.tokens.provider(),
                Provider(name="partners", key=PARTNERS_SECRET, issuer=[PARTNERS, OTHERS], audience="orders"),
            ],
            revocations=self.staff,
            public=["/login"],
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await self.desk.stop()

    async def show(self, request: Request) -> JSONResponse:
        return JSONResponse({"provider": request.auth.token.provider})

    async def log_in(self, request: Request) -> JSONResponse:
        sessions = self.staff if request.query_params["at"] == "staff" else self.desk
        return JSONResponse(_shown(await sessions.open("1")))

    async def list_sessions(self, request: Request) -> JSONResponse:
        token = current_token(request)
        try:
            return JSONResponse([session.id for session in await self.staff.list(token)])
        except ValueError as error:
            return JSONResponse(str(error), 409)

    async def revoke(self, request: Request) -> JSONResponse:
        token = current_token(request)
        try:
            what: dict[str, Any] = {
                "token": lambda: self.staff.revoke(token),
                "subject": lambda: self.staff.revoke(subject=token),
                "text": lambda: self.staff.revoke(subject=str(token.subject)),
                "jti": lambda: self.staff.revoke(
                    jti=str(token.id), expires_at=token.expires_at, provider=token.provider, issuer=token.issuer
                ),
            }
            return JSONResponse(await what[request.query_params["what"]]())
        except ValueError as error:
            return JSONResponse(str(error), 409)

    async def serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            try:
                await renew(websocket.scope, text)
                await websocket.send_text("renewed")
            except Refusal as refusal:
                await websocket.send_text(refusal.code)


def _shown(grant: Grant) -> dict[str, str]:
    return {"token": grant.access_token, "refresh": grant.refresh_token, "session": grant.session_id}


@pytest.fixture(params=["memory", "sqlite"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Service, TestClient]]:
    service = Service(MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "sessions.db"))
    with TestClient(service.app) as client:
        yield service, client


def test_what_ends_at_one_provider_ends_at_no_other(service: tuple[Service, TestClient]) -> None:
    served, client = service
    staff = client.post("/login?at=staff").json()
    desk = client.post("/login?at=partners").json()
    alike = mint(PARTNERS, sid=staff["session"], jti=staff["session"])

    def statuses(*tokens: str) -> list[int]:
        return [client.get("/", headers=bearer(token)).status_code for token in tokens]

    assert statuses(staff["token"], desk["token"], alike) == [200, 200, 200]
    # A partner asks for the end of what it names: the staff's session, subject and token.
    for what in ("token", "subject"):
        refused = client.post(f"/revoke?what={what}", headers=bearer(alike))
        assert (refused.status_code, "sessions are of 'staff'" in refused.text) == (409, True)
    assert client.get("/sessions", headers=bearer(alike)).status_code == 409
    assert client.post("/revoke?what=jti", headers=bearer(alike)).json() == 1
    assert statuses(staff["token"], desk["token"], alike) == [200, 200, 401]
    assert client.get("/sessions", headers=bearer(staff["token"])).json() == [staff["session"]]
    # A refresh token of the one is none of the other, though the store is the same.
    for sessions, refresh in ((served.staff, desk["refresh"]), (served.desk, staff["refresh"])):
        assert client.portal is not None
        assert client.portal.call(sessions.logout, refresh) is False
    # Subject 1 of the staff logs out everywhere; subject 1 of the partners stays.
    assert client.post("/revoke?what=text", headers=bearer(staff["token"])).json() == 1
    another = mint(PARTNERS, sid=staff["session"])
    assert statuses(staff["token"], desk["token"], another) == [401, 200, 200]


def test_what_ends_at_one_issuer_of_a_provider_ends_at_no_other(service: tuple[Service, TestClient]) -> None:
    _, client = service
    tokens = [mint(issuer, jti="a") for issuer in (PARTNERS, OTHERS)]
    assert client.post("/revoke?what=jti", headers=bearer(tokens[0])).json() == 1
    assert [client.get("/", headers=bearer(token)).status_code for token in tokens] == [401, 200]


def test_an_open_connection_goes_on_with_a_token_of_its_own_provider_and_issuer_alone(
    service: tuple[Service, TestClient],
) -> None:
    _, client = service
    staff = client.post("/login?at=staff").json()["token"]
    tokens = {STAFF: staff, PARTNERS: mint(PARTNERS), OTHERS: mint(OTHERS)}
    for its, first in tokens.items():
        with client.websocket_connect("/live", headers=bearer(first)) as connection:
            for issuer, token in tokens.items():
                connection.send_text(token)
                assert connection.receive_text() == ("renewed" if issuer == its else "wrong_issuer")
