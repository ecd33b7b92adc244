"""The programs of docs/frameworks.rst, copied literally, on a real server and with real clients."""

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from .support import bearer
from .support.documents import blocks, text
from .support.frameworks import CHALLENGE, OTHER, READER, Served, served, token

DOCUMENT = "docs/frameworks.rst"
PROGRAMS = {block.caption: block for block in blocks(DOCUMENT) if block.language == "python" and block.caption}


@pytest.fixture(scope="module")
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    block = PROGRAMS[request.param]
    with served(request.param, block.text, tmp_path_factory.mktemp("app")) as running:
        yield running


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("app", names, indirect=True, ids=names)


@on("litestar", "django", "rest_framework", "quart", "blacksheep")
def test_an_author_finds_the_user_and_guards_a_handler(app: Served) -> None:
    assert app.client.get("/me", headers=READER).json() == {"user": "ada"}
    assert app.client.get("/me").json() == {"user": ""}
    assert app.client.get("/orders", headers=READER).json() == ["an order"]
    anonymous, other = app.client.get("/orders"), app.client.get("/orders", headers=OTHER)
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    assert (other.status_code, other.headers["www-authenticate"]) == (403, CHALLENGE)
    body = other.json()
    assert (body.get("extra") or body)["code"] == "insufficient_scope"


@on("rest_framework")
def test_a_permission_of_django_rest_framework_answers_with_our_challenge(app: Served) -> None:
    assert app.client.get("/mine", headers=READER).json() == {"user": "ada"}
    anonymous = app.client.get("/mine")
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, 'Bearer realm="api"')


@on("litestar", "channels", "quart", "blacksheep")
def test_a_websocket_is_guarded(app: Served) -> None:
    with app.websocket("/feed", additional_headers=READER) as connection:
        assert json.loads(connection.recv(timeout=5)) == {"user": "ada"}
    for headers in ({}, OTHER):
        with pytest.raises(InvalidStatus) as refused, app.websocket("/feed", additional_headers=headers):
            pass
        assert refused.value.response.status_code in (401, 403)


@on("litestar", "channels", "quart", "blacksheep")
def test_a_websocket_ends_with_its_token(app: Served) -> None:
    # The leeway is 5 seconds.
    soon = bearer(token(-3, scope="orders:read"))
    with app.websocket("/feed", additional_headers=soon) as connection:
        assert json.loads(connection.recv(timeout=5)) == {"user": "ada"}
        connection.send('{"still": "open"}')
        assert json.loads(connection.recv(timeout=5)) == {"still": "open"}
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3000, "expired")


@on("quart", "channels")
def test_a_websocket_is_denied_with_the_challenge(app: Served) -> None:
    with pytest.raises(InvalidStatus) as refused, app.websocket("/feed", additional_headers=OTHER):
        pass
    response = refused.value.response
    assert (response.status_code, response.headers["www-authenticate"]) == (403, CHALLENGE)
    assert json.loads(response.body)["code"] == "insufficient_scope"


def query(app: Served, text: str, headers: dict[str, str]) -> Any:
    response = app.client.post("/graphql", json={"query": text}, headers=headers)
    assert response.status_code == 200
    return response.json()


@on("falcon")
def test_a_recipe_for_falcon(app: Served) -> None:
    assert app.client.get("/me", headers=READER).json() == {"user": "ada"}
    assert app.client.get("/orders", headers=READER).json() == ["an order"]
    anonymous, other = app.client.get("/orders"), app.client.get("/orders", headers=OTHER)
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, 'Bearer realm="api"')
    assert (other.status_code, other.json()["description"]) == (403, "orders:read is needed")


@on("ariadne")
def test_a_recipe_for_ariadne(app: Served) -> None:
    assert query(app, "{ me orders }", READER)["data"] == {"me": "ada", "orders": ["an order"]}
    (other,) = query(app, "{ orders }", OTHER)["errors"]
    assert other["extensions"]["code"] == "insufficient_scope"
    anonymous = app.client.post("/graphql", json={"query": "{ me }"})
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, 'Bearer realm="api"')


TITLES = {"blacksheep": "BlackSheep", "rest_framework": "REST framework", "socketio": "Socket.IO"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_lines_that_an_author_adds_are_few_and_counted(name: str) -> None:
    marked = [int(number) for number in re.findall(r"# (\d)$", PROGRAMS[name].text, re.MULTILINE)]
    assert marked == list(range(1, len(marked) + 1))
    assert len(marked) <= 5
    title = TITLES.get(name, name.capitalize())
    assert f"    * - {title}\n      - {len(marked)}\n" in text(DOCUMENT)


@on("strawberry")
def test_a_field_is_guarded(app: Served) -> None:
    assert query(app, "{ me orders }", READER)["data"] == {"me": "ada", "orders": ["an order"]}
    (anonymous,) = query(app, "{ orders }", {})["errors"]
    assert anonymous["extensions"] == {
        "code": "missing_token",
        "status": 401,
        "headers": {"www-authenticate": 'Bearer realm="api"'},
    }
    (other,) = query(app, "{ orders }", OTHER)["errors"]
    assert (other["extensions"]["status"], other["extensions"]["headers"]["www-authenticate"]) == (403, CHALLENGE)
    # The other fields of the query are answered.
    assert query(app, "{ me }", OTHER)["data"] == {"me": "ada"}


@on("strawberry")
@pytest.mark.parametrize("spelled", ["token", "Authorization", "authorization"])
def test_a_subscription_authenticates_by_connection_init(app: Served, spelled: str) -> None:
    raw = token(scope="orders:read")
    payload = {spelled: raw if spelled == "token" else f"Bearer {raw}"}
    assert subscribe(app, payload) == {"data": {"feed": "ada"}}


@on("strawberry")
@pytest.mark.parametrize(
    "payload",
    [{}, {"Authorization": "Basic Og=="}, {"Authorization": 5}, {"a": 1}],
    ids=["none", "Basic", "odd", "other"],
)
def test_a_subscription_without_a_token_is_anonymous(app: Served, payload: Any) -> None:
    (error,) = subscribe(app, payload)
    assert error["extensions"]["code"] == "missing_token"


@on("strawberry")
def test_a_client_of_the_older_protocol_that_sends_no_payload_is_anonymous(app: Served) -> None:
    with app.websocket("/graphql", subprotocols=[Subprotocol("graphql-ws")]) as connection:
        connection.send(json.dumps({"type": "connection_init"}))
        assert json.loads(connection.recv(timeout=5))["type"] == "connection_ack"
        connection.send(json.dumps({"id": "1", "type": "start", "payload": {"query": "subscription { feed }"}}))
        error = json.loads(connection.recv(timeout=5))["payload"]
    assert error["extensions"]["code"] == "missing_token"


@on("strawberry")
@pytest.mark.parametrize("raw", ["garbage", 5, {"a": 1}], ids=["garbage", "a number", "an object"])
def test_a_subscription_with_a_bad_token_is_refused(app: Served, raw: Any) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        subscribe(app, {"token": raw})
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403


def subscribe(app: Served, payload: Any) -> Any:
    """The payload of the first answer to a subscription, on a connection that begins with ``payload``."""
    with app.websocket("/graphql", subprotocols=[Subprotocol("graphql-transport-ws")]) as connection:
        connection.send(json.dumps({"type": "connection_init", "payload": payload}))
        assert json.loads(connection.recv(timeout=5))["type"] == "connection_ack"
        question = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { feed }"}}
        connection.send(json.dumps(question))
        return json.loads(connection.recv(timeout=5))["payload"]


@on("strawberry")
def test_a_subscription_ends_with_its_token(app: Served) -> None:
    raw = token(-3, scope="orders:read")
    with app.websocket("/graphql", subprotocols=[Subprotocol("graphql-transport-ws")]) as connection:
        connection.send(json.dumps({"type": "connection_init", "payload": {"token": raw}}))
        connection.recv(timeout=5)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3000, "expired")


socketio = pytest.importorskip("socketio") if not os.environ.get("CI") else __import__("socketio")


@on("socketio")
@pytest.mark.parametrize(
    "transports", [["polling"], ["websocket"], None], ids=["polling", "websocket", "polling, then websocket"]
)
@pytest.mark.parametrize("how", ["auth", "header"])
def test_a_socketio_client_authenticates(app: Served, transports: list[str] | None, how: str) -> None:
    raw = token()
    credentials: dict[str, Any] = {"auth": {"token": raw}} if how == "auth" else {"headers": bearer(raw)}
    client = socketio.SimpleClient()
    try:
        client.connect(f"http://127.0.0.1:{app.port}", transports=transports, wait_timeout=10, **credentials)
        assert client.call("me", timeout=10) == "ada"
        assert client.call("me", timeout=10) == "ada"
    finally:
        # The server of python-engineio leaves a poll unanswered when its client says goodbye beside it, and
        # `client.disconnect()` would wait 30 seconds for that answer. So we do not wait for the client's threads.
        client.client.eio.disconnect(abort=True)


@on("socketio")
@pytest.mark.parametrize(
    ("auth", "code"),
    [
        (None, "missing_token"),
        ({}, "missing_token"),
        ({"token": "garbage"}, "malformed_token"),
        ({"token": token(-100)}, "expired"),
        ({"token": 5}, "malformed_token"),
        (["token"], "missing_token"),
    ],
    ids=["none", "empty", "garbage", "expired", "a number", "a list"],
)
def test_a_socketio_client_without_a_good_token_is_refused(app: Served, auth: Any, code: str) -> None:
    client, refused = socketio.Client(reconnection=False), list[Any]()
    client.on("connect_error", refused.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(f"http://127.0.0.1:{app.port}", transports=["websocket"], auth=auth, wait_timeout=10)
    assert re.search(rf"\b{code}\b", str(refused))


@on("socketio")
@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_socketio_client_is_disconnected_when_its_token_expires(app: Served, transport: str) -> None:
    client, gone = socketio.Client(reconnection=False), list[Any]()
    client.on("disconnect", lambda reason: gone.append(reason))
    client.connect(f"http://127.0.0.1:{app.port}", transports=[transport], auth={"token": token(-3)}, wait_timeout=10)
    assert client.call("me", timeout=5) == "ada"
    deadline = time.monotonic() + 10
    while not gone and time.monotonic() < deadline:
        time.sleep(0.05)
    client.disconnect()
    assert gone == ["server disconnect"]
