"""What the README shows works, and what it lists is all there is."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette
from starlette.routing import Route, Router
from starlette.testclient import TestClient

from jwt_middleware import JWTMiddleware, Provider, RevocationView, errors
from jwt_middleware.issuing import Sessions, Throttle
from jwt_middleware.testing.identity_provider import IdentityProvider

from .support import bearer, echo, signed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.rst").read_text(encoding="utf-8")
BLOCKS = [dedent(block) for block in re.findall(r"\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", README)]
SECRET = "a secret that has thirty-two bytes or more"
FAR = 4_000_000_000


def run(*parts: str) -> dict[str, Any]:
    """The names that the README's blocks up to the one with all of ``parts`` define, as a reader would have them."""
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "README.rst", "exec", dont_inherit=True), names)
        if all(part in block for part in parts):
            return names
    pytest.fail(f"no block of the README has {parts}")


def token(**claims: Any) -> dict[str, str]:
    return bearer(jwt.encode({"sub": "ada", "aud": "orders", "exp": FAR, **claims}, SECRET))


def test_the_first_lines_protect_an_app() -> None:
    client = TestClient(run("hello")["app"])
    assert client.get("/").status_code == 401
    assert client.get("/", headers=token()).text == "hello ada"


def test_a_chat_is_renewed_by_a_message() -> None:
    names = run('message["token"]')
    routes = [names["WebSocketRoute"]("/", names["chat"])]
    app = JWTMiddleware(names["Starlette"](routes=routes), key=SECRET, audience="orders")
    good = token()["authorization"].removeprefix("Bearer ")
    with TestClient(app).websocket_connect("/", headers=token()) as websocket:
        for sent, received in ((good, {"expires_at": FAR}), ("x", {"refused": "malformed_token"})):
            websocket.send_json({"token": sent})
            assert websocket.receive_json() == received


def test_the_first_lines_are_few() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) == 6


def test_starlette_apps_see_the_user_and_demand_scopes() -> None:
    client = TestClient(run("def create_order")["app"])
    assert client.get("/me", headers=token()).json()["user"] == "ada"
    assert client.post("/orders", headers=token()).status_code == 403
    assert client.post("/orders", headers=token(scope="orders:write")).status_code == 201


def test_fastapi_apps_demand_scopes_and_show_the_authorize_button() -> None:
    client = TestClient(run("FastAPI()")["app"])
    assert client.get("/orders", headers=token(scope="orders:read")).json() == ["an order of ada"]
    assert client.get("/orders", headers=token()).status_code == 403
    assert "OAuth2PasswordBearer" in client.get("/openapi.json").json()["components"]["securitySchemes"]


@pytest.mark.anyio
async def test_tokens_are_verified_without_asgi(capsys: pytest.CaptureFixture[str]) -> None:
    subject_of = run("verifier.verify")["subject_of"]
    assert await subject_of(token()["authorization"].removeprefix("Bearer ")) == "ada"
    assert await subject_of(token(exp=1)["authorization"].removeprefix("Bearer ")) is None
    assert capsys.readouterr().out == "expired exp\n"


def test_users_log_in_renew_and_log_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with TestClient(run("auth_routes(sessions")["app"]) as client:
        assert client.post("/auth/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        login = client.post("/auth/login", data={"username": "ada", "password": "lovelace"}).json()
        assert list(login) == ["access_token", "token_type", "expires_in", "refresh_token"]
        assert client.get("/me", headers=bearer(login["access_token"])).json()["user"] == "ada"
        refreshed = client.post("/auth/refresh", data={"refresh_token": login["refresh_token"]}).json()
        assert refreshed["expires_in"] == 900
        assert client.post("/auth/logout", data={"token": refreshed["refresh_token"]}).status_code == 200
        assert client.get("/me", headers=bearer(login["access_token"])).json()["code"] == "revoked"
        assert client.get("/auth/jwks.json").json() == {"keys": []}


def test_an_app_opens_shows_and_ends_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("log_out_everywhere")
    names["app"].router.routes[:0] = [
        Route("/auth/sso", names["after_single_sign_on"]),
        Route("/sessions", names["my_sessions"]),
        Route("/end", names["log_out_everywhere"]),
    ]
    with TestClient(names["app"]) as client:
        headers = bearer(client.get("/auth/sso").json()["access_token"])
        assert [session["device"] for session in client.get("/sessions", headers=headers).json()] == ["testclient"]
        assert client.get("/end", headers=headers).status_code == 204
        assert client.get("/me", headers=headers).json()["code"] == "revoked"


def test_another_service_sees_revocations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(run("RevocationView(")["app"].verifier.revocations, RevocationView)


def test_users_log_in_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("public = [")
    client = TestClient(JWTMiddleware(Router(names["routes"]), providers=names["tokens"].provider(), public=["/login"]))
    login = client.post("/login", data={"username": "ada", "password": "lovelace"}).json()
    assert list(login) == ["access_token", "token_type", "expires_in"]
    assert client.post("/refresh", headers=bearer(login["access_token"])).json()["expires_in"] == 900


def test_a_page_logs_in_by_cookies_that_it_cannot_read() -> None:
    browser = TestClient(run('cookies="all"')["app"], base_url="https://testserver")
    own = {"origin": "https://testserver"}
    login = browser.post("/auth/login", data={"username": "ada", "password": "lovelace"}, headers=own)
    assert login.json() == {"token_type": "bearer", "expires_in": 900}
    assert browser.get("/me").json()["user"] == "ada"
    assert browser.post("/auth/logout", headers={"origin": "https://evil.example"}).status_code == 403
    assert browser.post("/auth/logout", headers=own).json() == {}
    assert browser.get("/me").status_code == 401


def test_tokens_of_fastapi_users_stay_good() -> None:
    app = run("fastapi-users:auth")["app"]
    app.app = echo
    old = signed({"alg": "HS256"}, {"user_id": "9221ffc9", "aud": "fastapi-users:auth", "exp": FAR}, "SECRET")
    assert TestClient(app).get("/", headers=bearer(old)).json()["user"] == "9221ffc9"


def test_an_app_behind_an_identity_provider_survives_its_outage(identity_provider: IdentityProvider) -> None:
    names = run("orders_survive_an_outage")
    assert names["app"].verifier.health()["jwt"].keys == 0
    names["orders_app"] = echo
    names["test_orders_survive_an_outage"](identity_provider)


def test_failed_logins_are_throttled() -> None:
    client = TestClient(Starlette(routes=run("Throttle(")["routes"]))
    assert client.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
    wrong = {"username": "eve", "password": "lovelace"}
    assert [client.post("/login", data=wrong).status_code for _ in range(11)] == [400] * 10 + [429]


@pytest.mark.parametrize("function", [Provider, JWTMiddleware, Sessions, Throttle])
def test_every_argument_is_in_the_tables(function: Any) -> None:
    for name in inspect.signature(function).parameters:
        if name not in ("app", "provider"):
            assert f"    * - ``{name}``\n" in README, name


def test_every_refusal_is_in_the_table() -> None:
    listed = README.partition("Refusals\n--------")[2].partition("The body is")[0]
    leaves = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.Refusal)]
    codes = {kind.code for kind in leaves if not kind.__subclasses__()}
    assert {code for code in re.findall(r"``([a-z_]+)``", listed) if code != "error"} == codes


def test_there_are_two_set_up_commands_and_both_work_from_nothing() -> None:
    commands = re.findall(r"^ *\$ (python3 -m venv .*)$", README, re.MULTILINE)
    assert len(commands) == len(re.findall("-m venv", README)) == 2
    for command, last in zip(commands, ("examples/demo.py", "-m pytest --quiet"), strict=True):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert command.endswith(last)


def test_the_code_blocks_run_in_a_fresh_process() -> None:
    subprocess.run([sys.executable, "-c", "\n".join(BLOCKS)], check=True, cwd=ROOT, timeout=60)
