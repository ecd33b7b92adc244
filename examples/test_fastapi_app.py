"""How to test an app with users: two ways to fake one, and the real thing."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from examples.fastapi_app import User, app, auth, current_user
from jwt_middleware.testing import as_user, headers_for

ADA = {"email": "ada@example.com", "password": "lovelace"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(app) as client:
        client.post("/users", json=ADA)
        yield client


@pytest.fixture(autouse=True)
def no_overrides() -> Iterator[None]:
    yield
    app.dependency_overrides.clear()


# The first way: as_user, without keys and tokens. The rest of the app is as it is.


def test_a_buyer_places_an_order(client: TestClient) -> None:
    app.dependency_overrides[auth] = as_user("1", scopes=["orders:write"])
    assert client.patch("/me", json={"name": "Ada"}).status_code == 200
    assert client.get("/me").json() == {"email": "ada@example.com", "name": "Ada"}
    assert client.post("/orders", json={"item": "tea"}).json() == "tea for Ada"


def test_who_is_no_buyer_places_none(client: TestClient) -> None:
    app.dependency_overrides[auth] = as_user("1")
    assert client.post("/orders", json={"item": "tea"}).status_code == 403


def test_a_fake_user_of_the_apps_own_class_needs_no_database(client: TestClient) -> None:
    app.dependency_overrides[current_user] = lambda: User(email="grace@example.com", name="Grace")
    assert client.get("/me").json()["name"] == "Grace"


# The second way: headers_for, with a token that passes every check of the middleware.


def test_a_token_of_a_user_who_is_gone_is_refused(client: TestClient) -> None:
    assert client.get("/me", headers=headers_for(auth, "1")).status_code == 200
    assert client.get("/me", headers=headers_for(auth, "99")).json()["code"] == "user_refused"


def test_a_token_without_the_scope_buys_nothing(client: TestClient) -> None:
    order = {"item": "tea"}
    assert client.post("/orders", json=order, headers=headers_for(auth, "1", scopes=["orders:write"])).is_success
    assert client.post("/orders", json=order, headers=headers_for(auth, "1")).json()["code"] == "insufficient_scope"
    assert client.post("/orders", json=order).json()["code"] == "missing_token"


# The real thing: from sign-up to logout.


def test_a_user_signs_up_logs_in_changes_a_name_and_logs_out(client: TestClient) -> None:
    grace = {"email": "grace@example.com", "password": "hopper"}
    assert client.post("/users", json=grace).status_code == 201
    assert client.post("/users", json=grace).status_code == 409
    form = {"username": "grace@example.com", "password": "hopper"}
    assert client.post("/auth/login", data={**form, "password": "x"}).json()["error"] == "invalid_grant"
    tokens = client.post("/auth/login", data=form).json()
    tokens = client.post("/auth/refresh", data={"refresh_token": tokens["refresh_token"]}).json()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert client.patch("/me", json={"name": "Grace"}, headers=headers).status_code == 200
    assert client.get("/me", headers=headers).json() == {"email": "grace@example.com", "name": "Grace"}
    assert client.post("/auth/logout", headers=headers).status_code == 200
    assert client.get("/me", headers=headers).json()["code"] == "revoked"
    assert client.get("/docs").status_code == 200
