import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from examples.demo import create_app, lines_to_try, name_device

from .support import bearer
from .support.processes import interrupt, need, python
from .support.redis_server import redis_server

BETWEEN = "-- the next line --"


def printed_lines(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.startswith("    ")]


def is_ready(output: str) -> bool:
    return "startup complete" in output


@contextmanager
def demo(data: Path, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with python("examples/demo.py", "--data", str(data), *arguments, log=log, ready=is_ready) as process:
        yield process


def address(log: Path) -> str:
    """Where the demo that writes ``log`` listens."""
    lines = printed_lines(log.read_text())
    return next(line for line in lines if line.endswith("/me")).split()[-1].removesuffix("/me")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes of each line that the demo prints, run in one shell in their order, by what is said of it."""
    need("curl")
    log = tmp_path_factory.mktemp("demo") / "log"
    with demo(log.parent, "--port", "0", log=log):
        lines = printed_lines(log.read_text())
        url = address(log)
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
        pytest.param("Renew the login, 200", ["200 OK", '"access_token":"ey', '"refresh_token":"ey'], id="refresh"),
        pytest.param("Ada's sessions, 200", ["200 OK", '"device":"curl', '"is_this":true'], id="sessions"),
        pytest.param("Log out, 200", ["200 OK"], id="logout"),
        pytest.param("The access token has ended with it, 401", ["401 Unauthorized", '"code":"revoked"'], id="revoked"),
        pytest.param("So has the refresh token, 400", ['"error":"invalid_grant"'], id="invalid_grant"),
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
        with demo(tmp_path, "--port", port, log=log) as running:
            assert interrupt(running) in (0, -signal.SIGINT)
    output = log.read_text()
    assert output.startswith(f"Port {port} is not free")
    assert f"127.0.0.1:{port}" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("username", "password"),
    [pytest.param("ada", "builder", id="wrong password"), pytest.param("eve", "lovelace", id="unknown user")],
)
def test_the_demo_lets_nobody_in_with_a_wrong_password(username: str, password: str) -> None:
    response = TestClient(create_app()).post("/auth/login", data={"username": username, "password": password})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        pytest.param(
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Safari/537.36",
            "Chrome on Linux",
            id="Chrome",
        ),
        pytest.param(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 "
            "Safari/537.36 Edg/143.0.0.0",
            "Edge on Windows",
            id="Edge",
        ),
        pytest.param(
            "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Linux", id="Firefox"
        ),
        pytest.param(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/26.0 Mobile/15E148 Safari/604.1",
            "Safari on iPhone",
            id="an iPhone",
        ),
        pytest.param("Mozilla/5.0 (Plan 9) Firefox/1.0", "Firefox", id="another system"),
        pytest.param("curl/8.5.0", "curl", id="curl"),
        pytest.param("", "", id="no User-Agent"),
    ],
)
def test_the_demo_names_devices_as_people_do(user_agent: str, name: str) -> None:
    assert name_device(user_agent) == name


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


def logged_in(client: TestClient | httpx2.Client, username: str = "bob", password: str = "builder") -> dict[str, str]:
    response = client.post("/auth/login", data={"username": username, "password": password})
    tokens: dict[str, str] = response.raise_for_status().json()
    return tokens


def test_a_user_of_the_demo_ends_sessions_and_only_her_own(backend: str) -> None:
    client = TestClient(create_app(), backend=backend)  # type: ignore[arg-type]  # a literal type, kept to itself
    phone, laptop = (bearer(logged_in(client)["access_token"]) for _ in range(2))
    ada = bearer(logged_in(client, "ada", "lovelace")["access_token"])
    sessions = client.get("/sessions", headers=laptop).json()["sessions"]
    assert [session["is_this"] for session in sessions] == [True, False]
    other = f"/sessions/{sessions[1]['id']}"
    assert client.delete(other, headers=ada).status_code == 404
    assert client.get("/me", headers=phone).status_code == 200
    assert client.delete(other, headers=laptop).status_code == 204
    assert client.get("/me", headers=phone).json()["code"] == "revoked"
    assert client.get("/me", headers=laptop).status_code == 200
    assert client.delete("/sessions", headers=laptop).json() == {"ended": 1}
    assert client.get("/me", headers=laptop).json()["code"] == "revoked"
    assert client.get("/me", headers=ada).status_code == 200


@pytest.mark.parametrize("kept_in", ["SQLite", "Redis"])
def test_a_logout_at_one_instance_of_the_demo_is_one_at_the_other(tmp_path: Path, kept_in: str) -> None:
    logs = [tmp_path / "one", tmp_path / "other"]
    with ExitStack() as stack:
        options = []
        if kept_in == "Redis":
            options = ["--redis", stack.enter_context(redis_server(tmp_path)).url]
        for log in logs:
            stack.enter_context(demo(tmp_path, "--port", "0", *options, log=log))
        one, other = (stack.enter_context(httpx2.Client(base_url=address(log))) for log in logs)
        tokens = logged_in(one)
        headers = bearer(tokens["access_token"])
        assert other.get("/me", headers=headers).status_code == 200
        assert one.post("/auth/logout", data={"token": tokens["refresh_token"]}).status_code == 200
        time.sleep(1)
        assert other.get("/me", headers=headers).json()["code"] == "revoked"
        assert one.get("/me", headers=headers).json()["code"] == "revoked"
        refused = other.post("/auth/refresh", data={"refresh_token": tokens["refresh_token"]})
        assert refused.json()["error"] == "invalid_grant"


def test_sessions_of_the_demo_outlive_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with demo(tmp_path, "--port", "0", log=log), httpx2.Client(base_url=address(log)) as client:
        tokens = logged_in(client)
    with demo(tmp_path, "--port", "0", log=log), httpx2.Client(base_url=address(log)) as client:
        assert client.get("/me", headers=bearer(tokens["access_token"])).status_code == 200
        refreshed = client.post("/auth/refresh", data={"refresh_token": tokens["refresh_token"]})
        assert refreshed.status_code == 200
