"""Can this process verify tokens now?"""

import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from jwt_middleware import (
    ConfigurationError,
    JWTMiddleware,
    RemoteKeys,
    RevocationView,
    Token,
    health,
    health_routes,
)
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.revocation.log import RevocationPage
from jwt_middleware.testing import IdentityProvider

from .support import SECRET, bare_client, bearer, client, token

ROUTES = [Mount("/health", routes=health_routes(details="health:read"))]
PUBLIC: dict[str, Any] = {"public": ["/health/*"]}


def test_a_probe_learns_yes_or_no_and_no_more(backend: str) -> None:
    one = client(Starlette(routes=ROUTES), backend=backend, **PUBLIC)
    for headers in ({}, bearer(token())):
        response = one.get("/health/ready", headers=headers)
        assert (response.status_code, response.json()) == (200, {"ready": True})
        assert response.headers["cache-control"] == "no-store"
    assert one.get("/health/live").json() == {"live": True}


def test_who_has_the_scope_sees_everything() -> None:
    one = client(Starlette(routes=ROUTES), **PUBLIC)
    seen = one.get("/health/ready", headers=bearer(token(scope="health:read"))).json()
    assert seen == {
        "ready": True,
        "keys": {
            "jwt": {
                "keys": 1,
                "fetched_at": None,
                "age": None,
                "error": None,
                "next_attempt": None,
                "skipped": [],
                "on_demand": False,
            }
        },
        "revocations": None,
        "resolved": None,
        "store": None,
    }


def test_details_are_shown_to_no_one_unless_a_scope_is_named() -> None:
    one = client(Starlette(routes=health_routes()), public=["/ready"])
    assert one.get("/ready", headers=bearer(token(scope="health:read admin"))).json() == {"ready": True}


def test_a_process_without_keys_is_alive_and_not_ready() -> None:
    with IdentityProvider() as provider:
        provider.fail()
        keys = RemoteKeys(provider.jwks_uri)
        with client(Starlette(routes=ROUTES), key=None, jwks=keys, audience="orders", **PUBLIC) as one:
            assert one.get("/health/live").status_code == 200
            response = one.get("/health/ready")
            assert (response.status_code, response.json()) == (503, {"ready": False})
        provider.recover()


class Log:
    def __init__(self) -> None:
        self.error: Exception | None = None

    async def revocations(self, after: str, limit: int) -> RevocationPage:
        if self.error is not None:
            raise self.error
        return RevocationPage("1", (), time.time())


def test_revocations_that_can_be_read_say_how_old_they_are() -> None:
    with client(Starlette(routes=ROUTES), revocations=RevocationView(Log()), **PUBLIC) as one:
        seen = one.get("/health/ready", headers=bearer(token(scope="health:read"))).json()
    assert seen["ready"] is True
    assert seen["revocations"]["usable"] is True
    assert 0 <= seen["revocations"]["age"] < 5


def test_revocations_that_were_never_read_have_no_age() -> None:
    async def app(request: Request) -> Response:
        return JSONResponse(health(request.scope).as_json())

    middleware = client(Starlette(routes=[Route("/", app)]), revocations=RevocationView(Log()), allow_anonymous=True)
    assert middleware.get("/").json()["revocations"] == {"usable": True, "age": None, "error": None}


@pytest.mark.parametrize(("when_unavailable", "status"), [("refuse", 503), ("pass", 200)])
def test_a_log_that_cannot_be_read_makes_the_process_unready_where_tokens_are_refused(
    when_unavailable: Any, status: int
) -> None:
    log = Log()
    log.error = RuntimeError("down")
    view = RevocationView(log, when_unavailable=when_unavailable)
    with client(Starlette(routes=ROUTES), revocations=view, **PUBLIC) as one:
        for _ in range(3):
            one.get("/x", headers=bearer(token()))
        assert one.get("/health/ready").status_code == status


def test_sessions_tell_of_their_store() -> None:
    tokens = TokenIssuer(SECRET, audience="orders")
    sessions = Sessions(MemoryStore(), tokens)
    app = JWTMiddleware(Starlette(routes=ROUTES), providers=tokens.provider(), revocations=sessions, **PUBLIC)
    raw = tokens.mint("ada", scopes=["health:read"])
    with bare_client(app) as one:
        seen = one.get("/health/ready", headers=bearer(raw)).json()
    assert (seen["store"]["reachable"], seen["store"]["error"]) == (True, None)
    assert abs(seen["store"]["clock_difference"]) < 5
    assert seen["revocations"]["usable"] is True


def test_keys_that_are_fetched_say_when_the_next_attempt_is() -> None:
    with IdentityProvider() as provider:
        raw = provider.mint(aud="orders", scope="health:read")
        app = JWTMiddleware(Starlette(routes=ROUTES), issuer=provider.issuer, audience="orders", **PUBLIC)
        with bare_client(app) as one:
            keys = one.get("/health/ready", headers=bearer(raw)).json()["keys"]["jwt"]
        assert 60 < keys["next_attempt"] < 3600
        provider.fail()
        app = JWTMiddleware(Starlette(routes=ROUTES), issuer=provider.issuer, audience="orders", **PUBLIC)
        with bare_client(app) as one:
            found = app.verifier.health()["jwt"]
            assert found.next_attempt is not None
            assert 0 <= found.next_attempt <= 60
            assert "500" in str(found.error)


class Own:
    def is_revoked(self, token: Token) -> bool:
        return False

    async def catch_up(self) -> None: ...

    async def stop(self) -> None: ...


def test_revocations_of_ones_own_need_say_nothing() -> None:
    one = client(Starlette(routes=ROUTES), revocations=Own(), **PUBLIC)
    assert one.get("/health/ready", headers=bearer(token(scope="health:read"))).json()["revocations"] is None


def test_a_request_that_no_middleware_let_through_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="JWTMiddleware"):
        health({"type": "http"})


def test_details_must_be_a_scope() -> None:
    with pytest.raises(ConfigurationError, match="details"):
        health_routes(details="")
