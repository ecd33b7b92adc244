"""An endpoint may demand a certain provider, and a certain way or a recent time of login (RFC 9470)."""

from typing import Any

import httpx2
import pytest
from starlette.authentication import AuthCredentials, SimpleUser
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from jwt_middleware import ConfigurationError, Provider, requires

from ..support import NOW, SECRET, bearer, client, token
from .guarding import plain_app, routed

OTHER = "another secret of thirty-two bytes"
STAFF = Provider(name="staff", key=SECRET, audience="orders", issuer="https://staff.example")
PARTNERS = Provider(name="partners", key=OTHER, audience="orders", issuer="https://partners.example")


def ask(guard: Any, raw: str | None, **options: Any) -> httpx2.Response:
    """The response to ``raw`` from an endpoint that is guarded by ``guard``."""
    headers = {} if raw is None else bearer(raw)
    return routed(Mount("/", guard(plain_app)), **options).get("/", headers=headers)


def from_provider(provider: str) -> str:
    key, issuer = (SECRET, "https://staff.example") if provider == "staff" else (OTHER, "https://partners.example")
    return token(key, iss=issuer, scope="admin")


@pytest.mark.parametrize(
    ("provider", "raw", "code"),
    [
        pytest.param("staff", from_provider("staff"), None, id="its own token"),
        pytest.param("staff", from_provider("partners"), "wrong_issuer", id="another's, with the scope"),
        pytest.param(["staff", "partners"], from_provider("partners"), None, id="one of several"),
        pytest.param("staff", None, "missing_token", id="no token"),
        pytest.param(None, from_provider("partners"), None, id="no provider demanded"),
    ],
)
def test_an_endpoint_may_demand_a_provider(provider: Any, raw: str | None, code: str | None) -> None:
    response = ask(requires("admin", provider=provider), raw, providers=[STAFF, PARTNERS])
    assert response.status_code == (200 if code is None else 401)
    assert code is None or response.json()["code"] == code


def test_the_provider_is_looked_at_before_the_scopes() -> None:
    response = ask(requires("root", provider="staff"), from_provider("partners"), providers=[STAFF, PARTNERS])
    assert response.json()["code"] == "wrong_issuer"


CHALLENGE = (
    'Bearer realm="api", error="insufficient_user_authentication", '
    'error_description="A different or more recent login is needed here."'
)


@pytest.mark.parametrize(
    ("demanded", "acr", "passes"),
    [
        pytest.param("gold", "gold", True, id="the one"),
        pytest.param(["gold", "silver"], "silver", True, id="one of several"),
        pytest.param("gold", "silver", False, id="another"),
        pytest.param("gold", None, False, id="none"),
        pytest.param("gold", "Gold", False, id="another case"),
        pytest.param("gold", ["gold"], False, id="a list"),
        pytest.param("1", 1, False, id="a number"),
        pytest.param("True", True, False, id="a boolean"),
    ],
)
def test_an_endpoint_may_demand_a_way_of_login(demanded: Any, acr: Any, passes: bool) -> None:
    response = ask(requires(acr=demanded), token(acr=acr))
    assert response.status_code == (200 if passes else 401)
    if not passes:
        values = demanded if isinstance(demanded, str) else " ".join(demanded)
        assert response.headers["www-authenticate"] == f'{CHALLENGE}, acr_values="{values}"'
        assert response.json()["code"] == "insufficient_user_authentication"


@pytest.mark.parametrize(
    ("auth_time", "passes"),
    [
        pytest.param(NOW, True, id="now"),
        pytest.param(NOW - 300, True, id="just recent enough"),
        pytest.param(NOW - 299.5, True, id="a fraction"),
        pytest.param(NOW - 301, False, id="too old"),
        pytest.param(0, False, id="long ago"),
        pytest.param(-(10**300), False, id="before all time"),
        pytest.param(NOW + 5, True, id="in the future, within the leeway"),
        pytest.param(NOW + 6, False, id="in the future"),
        pytest.param(10**300, False, id="in the far future"),
        pytest.param(1e300, False, id="in the far future, as a float"),
        pytest.param(None, False, id="missing"),
        pytest.param(str(NOW), False, id="a text"),
        pytest.param(True, False, id="a boolean"),
        pytest.param([NOW], False, id="a list"),
        pytest.param({"time": NOW}, False, id="an object"),
    ],
)
def test_an_endpoint_may_demand_a_recent_login(auth_time: Any, passes: bool) -> None:
    response = ask(requires(max_age=300), token(auth_time=auth_time))
    assert response.status_code == (200 if passes else 401)
    if not passes:
        assert response.headers["www-authenticate"] == f'{CHALLENGE}, max_age="300"'
        assert response.json()["code"] == "insufficient_user_authentication"


def test_both_may_be_demanded_at_once() -> None:
    guard = requires("admin", acr=["gold", "silver"], max_age=60)
    good: dict[str, Any] = {"acr": "gold", "auth_time": NOW, "scope": "admin"}
    assert ask(guard, token(**good)).text == "hello"
    for changes in ({"acr": "bronze"}, {"auth_time": NOW - 61}):
        response = ask(guard, token(**{**good, **changes}))
        assert (
            response.headers["www-authenticate"]
            == f'{CHALLENGE}, acr_values="gold silver", max_age="60", scope="admin"'
        )


def test_a_missing_scope_is_answered_first() -> None:
    response = ask(requires("admin", acr="gold", max_age=60), token(scope="other", auth_time=None))
    assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")


def with_api_key(app: ASGIApp) -> ASGIApp:
    """``app`` behind a middleware that has authenticated a robot without a token."""

    async def grant(scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"], scope["auth"] = SimpleUser("robot"), AuthCredentials(["admin"])
        await app(scope, receive, send)

    return grant


@pytest.mark.parametrize("demand", [{"provider": "jwt"}, {"acr": "gold"}, {"max_age": 60}])
@pytest.mark.parametrize("headers", [{}, bearer(token(acr="gold", auth_time=NOW))], ids=["no token", "a token before"])
def test_what_is_about_a_token_is_not_met_without_one(demand: dict[str, Any], headers: dict[str, str]) -> None:
    app = with_api_key(requires("admin", **demand)(plain_app))
    response = client(app, allow_anonymous=True).get("/", headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "missing_token")
    assert client(with_api_key(requires("admin")(plain_app)), allow_anonymous=True).get("/").text == "hello"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"provider": ""}, "provider must be", id="an empty provider"),
        pytest.param({"provider": []}, "provider must be", id="no provider"),
        pytest.param({"provider": 5}, "provider must be", id="a number as provider"),
        pytest.param({"acr": ""}, "acr must be", id="an empty acr"),
        pytest.param({"acr": ["gold", 5]}, "acr must be", id="a number as acr"),
        pytest.param({"max_age": 0}, "max_age must be", id="no seconds"),
        pytest.param({"max_age": "300"}, "max_age must be", id="a text as max_age"),
        pytest.param({"max_age": True}, "max_age must be", id="a boolean as max_age"),
    ],
)
def test_a_demand_that_cannot_be_met_is_refused_where_it_is_written(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        requires(**arguments)


def test_a_guarded_function_says_so_as_well() -> None:
    @requires(max_age=300)
    async def transfer(request: Any) -> None:
        raise AssertionError("the endpoint was reached")

    assert routed(Route("/", transfer)).get("/", headers=bearer(token())).status_code == 401


@pytest.mark.parametrize("login", [{}, {"scope": "admin offline_access", "acr": "silver"}], ids=["403", "401"])
def test_no_challenge_asks_for_offline_access(login: dict[str, Any]) -> None:
    challenge = ask(requires("admin", "offline_access", acr="gold"), token(**login)).headers["www-authenticate"]
    assert 'scope="admin"' in challenge
    assert "offline_access" not in challenge
