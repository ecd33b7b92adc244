"""How a login is renewed where nothing is stored."""

from typing import Any

import jwt
import pytest
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from jwt_middleware import Refusal
from jwt_middleware.issuing import TokenIssuer

from ..support import NOW, SECRET, Clock, bearer, claims, signed
from ..support.keys import RSA
from .stateless import GOOD, User, client, finds, minted


def test_there_is_no_refresh_without_a_session_lifetime() -> None:
    browser = client()
    raw = browser.post("/login", data=GOOD).json()["access_token"]
    assert browser.post("/refresh", headers=bearer(raw)).status_code == 404


def test_refresh_answers_as_login_does_and_carries_everything_on(backend: str) -> None:
    clock = Clock()
    user = User(scopes=["a", "b", "c"], claims={"name": "Ada", "nbf": NOW, "sid": "1"})
    browser = client(finds(user), clock=clock, session_lifetime=3600, backend=backend)
    login = browser.post("/login", data={**GOOD, "scope": "b a"})
    clock.now += 600
    refreshed = browser.post("/refresh", headers=bearer(login.json()["access_token"]))
    assert refreshed.headers["cache-control"] == "no-store"
    assert {**refreshed.json(), "access_token": ""} == {**login.json(), "access_token": ""}
    before, after = minted(login), minted(refreshed)
    assert before.pop("jti") != after.pop("jti")
    assert after == {**before, "iat": NOW + 600, "exp": NOW + 1500}
    assert after["auth_time"] == NOW


def test_refresh_without_a_token_is_refused() -> None:
    response = client(session_lifetime=3600).post("/refresh", data=GOOD)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer realm="api"')


def test_a_client_that_renews_in_time_ends_with_the_session_and_not_later() -> None:
    clock = Clock()
    browser = client(clock=clock, access_lifetime=900, session_lifetime=3600)
    response = browser.post("/login", data=GOOD)
    ends = []
    while response.status_code == 200:
        assert minted(response)["exp"] - clock.now == response.json()["expires_in"]
        ends.append(minted(response)["exp"] - NOW)
        raw = response.json()["access_token"]
        # As clients do: at four fifths of the lifetime that was told.
        clock.now += max(1, response.json()["expires_in"] * 4 // 5)
        response = browser.post("/refresh", headers=bearer(raw))
    assert ends[:5] == [900, 1620, 2340, 3060, 3600]
    assert set(ends[4:]) == {3600}
    assert (response.status_code, response.json()["code"]) == (401, "too_old")
    assert clock.now == NOW + 3600


@pytest.mark.parametrize("step", [0.1, 0.5, 0.9, 1, 1.3])
def test_no_token_outlives_the_session_whenever_the_clock_ticks(step: float) -> None:
    for lifetimes in ((900, 900), (60, 900), (899, 900)):
        clock = Clock(NOW + 0.05, step)
        browser = client(clock=clock, access_lifetime=lifetimes[0], session_lifetime=lifetimes[1])
        response = browser.post("/login", data=GOOD)
        end = minted(response)["iat"] + lifetimes[1]
        while response.status_code == 200:
            assert minted(response)["exp"] <= end
            assert minted(response)["exp"] - minted(response)["iat"] == response.json()["expires_in"]
            raw = response.json()["access_token"]
            clock.now += max(1, (minted(response)["exp"] - int(clock.now)) // 2)
            response = browser.post("/refresh", headers=bearer(raw))
        assert response.json()["code"] == "too_old"


@pytest.mark.parametrize(
    ("after", "status", "expires_in"),
    [
        pytest.param(0, 200, 900, id="at once"),
        pytest.param(1800, 200, 900, id="the last whole one"),
        pytest.param(1801, 200, 899, id="one second of it lost"),
        pytest.param(2699, 200, 1, id="the last second"),
        pytest.param(2700, 401, None, id="the end"),
        pytest.param(10_000, 401, None, id="long after"),
    ],
)
def test_what_is_left_of_the_session_is_counted_from_the_login(after: int, status: int, expires_in: int | None) -> None:
    tokens = TokenIssuer(SECRET, audience="orders", session_lifetime=2700)
    raw = tokens.mint("ada", claims={"auth_time": NOW}, now=NOW + after)
    response = client(clock=Clock(NOW + after), session_lifetime=2700).post("/refresh", headers=bearer(raw))
    assert (response.status_code, response.json().get("expires_in")) == (status, expires_in)


INVALID = 'Bearer realm="api", error="invalid_token", error_description="{}"'


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"exp": NOW - 5}, "expired", id="expired"),
        pytest.param({"aud": "invoices"}, "wrong_audience", id="another audience"),
        pytest.param({"auth_time": None}, "missing_claim", id="no login made it"),
        pytest.param({"auth_time": str(NOW)}, "invalid_claim", id="auth_time is a string"),
        pytest.param({"auth_time": True}, "invalid_claim", id="auth_time is a boolean"),
        pytest.param({"auth_time": NOW + 0.5}, "invalid_claim", id="auth_time is a fraction"),
        pytest.param({"auth_time": NOW + 6}, "invalid_claim", id="a login in the future"),
        pytest.param({"auth_time": 10**300}, "invalid_claim", id="a login at the end of time"),
        pytest.param({"auth_time": NOW - 3600}, "too_old", id="an old login"),
        pytest.param({"auth_time": -(10**300)}, "too_old", id="a login before time"),
        pytest.param({"sub": None}, "missing_claim", id="no subject"),
        pytest.param({"sub": ""}, "invalid_claim", id="an empty subject"),
        pytest.param({"scope": 'a "'}, "invalid_claim", id="a scope that cannot be one"),
        pytest.param({"scope": None, "scp": ["a b"]}, "invalid_claim", id="a scope with a space"),
        pytest.param({"x": "x" * 12_095}, "invalid_claim", id="a token that would grow too large"),
    ],
)
def test_a_token_that_no_login_of_ours_made_is_not_renewed(changes: dict[str, Any], code: str) -> None:
    raw = signed({"alg": "HS256"}, claims(**{"auth_time": NOW, **changes}))
    response = client(session_lifetime=3600).post("/refresh", headers=bearer(raw))
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert response.headers["www-authenticate"] == INVALID.format(response.json()["error_description"])


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({"authorization": "Bearer x"}, 401, "malformed_token", id="no token"),
        pytest.param({"authorization": "Bearer " + "x" * 20_000}, 400, "token_too_large", id="a large one"),
        pytest.param([("authorization", "Bearer x")] * 2, 400, "ambiguous_token", id="two"),
        pytest.param({"authorization": "Basic Og=="}, 401, "missing_token", id="another scheme"),
    ],
)
def test_refresh_reads_the_header_as_the_middleware_does(headers: Any, status: int, code: str) -> None:
    response = client(session_lifetime=3600).post("/refresh", headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_token_of_an_old_key_is_renewed_with_the_new_one() -> None:
    old = client(session_lifetime=3600).post("/login", data=GOOD).json()["access_token"]
    clock = Clock(NOW + 600)
    browser = client(key=RSA, old_keys=[SECRET], clock=clock, session_lifetime=3600)
    new = browser.post("/refresh", headers=bearer(old)).json()["access_token"]
    assert jwt.get_unverified_header(new)["alg"] == "RS256"
    after = client(key=RSA, clock=clock, session_lifetime=3600)
    assert minted(after.post("/refresh", headers=bearer(new)))["auth_time"] == NOW
    assert after.post("/refresh", headers=bearer(old)).status_code == 401


def test_an_rfc_9068_token_is_renewed_as_one() -> None:
    options: Any = {
        "issuer": "https://login.example",
        "client_id": "web",
        "token_type": "at+jwt",
        "session_lifetime": 3600,
    }
    browser = client(finds(User(scopes=["a"])), **options)
    raw = browser.post("/login", data=GOOD).json()["access_token"]
    refreshed = browser.post("/refresh", headers=bearer(raw))
    assert jwt.get_unverified_header(refreshed.json()["access_token"])["typ"] == "at+jwt"
    assert minted(refreshed)["client_id"] == "web"


def test_refresh_refuses_in_the_words_of_the_app() -> None:
    def refuse(connection: HTTPConnection, refusal: Refusal) -> Response:
        return PlainTextResponse(f"{refusal.code} {refusal.claim}", refusal.status)

    tokens = TokenIssuer(SECRET, audience="orders", clock=Clock())
    browser = client(session_lifetime=3600, routes={"realm": "demo", "refusal_response": refuse})
    response = browser.post("/refresh", headers=bearer(tokens.mint("ada")))
    assert response.text == "missing_claim auth_time"
    assert response.headers["www-authenticate"].startswith('Bearer realm="demo", error="invalid_token"')
