import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from examples.demo import create_app, lines_to_try
from examples.fastapi_app import app as fastapi_app

from .processes import interrupt, need, python
from .support import bearer

BETWEEN = "-- the next line --"


def printed_lines(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.startswith("    ")]


def is_ready(output: str) -> bool:
    return "startup complete" in output


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes of each line that the demo prints, run in one shell in their order, by what is said of it."""
    need("curl")
    log = tmp_path_factory.mktemp("demo") / "log"
    with python("examples/demo.py", "--port", "0", log=log, ready=is_ready):
        lines = printed_lines(log.read_text())
        url = next(line for line in lines if "/me" in line).split()[-1].removesuffix("/me")
        assert [line for _, line in lines_to_try(url)] == lines
        script = f"\necho; echo '{BETWEEN}'\n".join(lines)
        shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    return dict(zip([outcome for outcome, _ in lines_to_try(url)], shell.stdout.split(BETWEEN), strict=True))


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param("A public path, 200", ["200 OK"], id="a public path"),
        pytest.param("No token, 401", ["401 Unauthorized", 'www-authenticate: Bearer realm="demo"\n'], id="no token"),
        pytest.param("Login, 200", ["200 OK", '"token_type":"bearer","expires_in":900'], id="login"),
        pytest.param("Who am I, 200", ["200 OK", '{"user":"ada"'], id="the token's user"),
        pytest.param("Ada may order, 201", ["201 Created", '{"ordered_by":"ada"}'], id="a scope that ada has"),
        pytest.param(
            "He may not order, 403",
            ["403 Forbidden", 'error="insufficient_scope"', 'scope="orders:write"'],
            id="a scope that bob lacks",
        ),
        pytest.param(
            "That is a forgery, 401",
            ["401 Unauthorized", 'error="invalid_token"', '"code":"bad_signature"'],
            id="a changed signature",
        ),
        pytest.param("Renew the login, 200", ["200 OK", '"access_token":"ey'], id="refresh"),
    ],
)
def test_the_lines_that_the_demo_prints_work(answers: dict[str, str], outcome: str, expected: list[str]) -> None:
    answer = answers[outcome].replace("\r", "")
    assert [text for text in expected if text not in answer] == []


def test_every_line_that_the_demo_prints_has_the_outcome_that_it_names(answers: dict[str, str]) -> None:
    for outcome, answer in answers.items():
        status = outcome.rpartition(" ")[2]
        assert not status.isdecimal() or answer.strip().startswith(f"HTTP/1.1 {status} "), outcome


@pytest.mark.parametrize("first", "AYZaz09-_")
def test_the_forgery_differs_whatever_the_signature_starts_with(first: str) -> None:
    (forgery,) = [line for _, line in lines_to_try("") if line.startswith("FORGED=")]
    script = f'TOKEN=header.payload.{first}bcd; {forgery}; echo "$FORGED"'
    forged = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=10, check=True).stdout
    assert forged.startswith("header.payload.")
    assert forged.endswith("bcd\n")
    assert len(forged) == len("header.payload.Abcd\n")
    assert forged != f"header.payload.{first}bcd\n"


def test_the_demo_ends_cleanly_on_ctrl_c_and_takes_another_port_where_its_own_is_taken(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with python("examples/demo.py", "--port", port, log=log, ready=is_ready) as demo:
            assert interrupt(demo) in (0, -signal.SIGINT)
    output = log.read_text()
    assert output.startswith(f"Port {port} is taken")
    assert f"127.0.0.1:{port}" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("username", "password"),
    [pytest.param("ada", "builder", id="wrong password"), pytest.param("eve", "lovelace", id="unknown user")],
)
def test_the_demo_lets_nobody_in_with_a_wrong_password(username: str, password: str) -> None:
    response = TestClient(create_app()).post("/auth/login", data={"username": username, "password": password})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")


def test_an_unknown_user_costs_the_demo_the_time_of_a_wrong_password() -> None:
    client = TestClient(create_app())

    def seconds(username: str) -> float:
        start = time.perf_counter()
        client.post("/auth/login", data={"username": username, "password": "wrong"})
        return time.perf_counter() - start

    assert min(seconds("eve") for _ in range(3)) > min(seconds("ada") for _ in range(3)) / 2


def test_the_websocket_of_the_demo_echoes(backend: str) -> None:
    client = TestClient(create_app(), backend=backend)  # type: ignore[arg-type]  # a literal type, kept to itself
    login = client.post("/auth/login", data={"username": "bob", "password": "builder"}).json()
    with client.websocket_connect("/ws", headers=bearer(login["access_token"])) as websocket:
        websocket.send_text("hello")
        assert websocket.receive_text() == "bob: hello"


def test_the_fastapi_example_has_login_scopes_and_an_authorize_button() -> None:
    client = TestClient(fastapi_app)
    assert client.get("/me").status_code == 401
    assert client.get("/docs").status_code == 200
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["OAuth2PasswordBearer"]["flows"]["password"]["tokenUrl"] == (
        "auth/login"
    )
    assert document["paths"]["/orders"]["get"]["security"] == [{"OAuth2PasswordBearer": []}]
    assert client.post("/auth/login", data={"username": "ada", "password": "wrong"}).status_code == 400
    login = client.post("/auth/login", data={"username": "ada", "password": "lovelace"}).json()
    assert client.get("/me", headers=bearer(login["access_token"])).json() == {"user": "ada"}
    assert client.get("/orders", headers=bearer(login["access_token"])).json() == ["tea", "biscuits"]
