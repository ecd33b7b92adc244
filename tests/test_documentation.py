"""What the README and the documentation show works, and what they list is all there is."""

import inspect
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import jwt
import pytest
from starlette.testclient import TestClient

import jwt_middleware
import setup
from jwt_middleware import (
    JWTMiddleware,
    LoadBalancerKeys,
    Provider,
    RemoteKeys,
    RevocationView,
    __version__,
    errors,
    fastapi,
    issuing,
    testing,
)
from jwt_middleware.issuing import Cookies, Sessions, Throttle
from jwt_middleware.testing import headers_for
from jwt_middleware.testing.identity_provider import IdentityProvider

from .support.clients import bearer, echo
from .support.documents import DOCUMENTS, ROOT, Block, blocks, example, python_blocks, run, text
from .support.processes import need, program

README = text("README.rst")
SECRET = "a secret that has thirty-two bytes or more"
FAR = 4_000_000_000
BETWEEN = "-- the next command --"


def token(**claims: Any) -> dict[str, str]:
    return bearer(jwt.encode({"sub": "ada", "aud": "orders", "exp": FAR, **claims}, SECRET))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def has_a_test_of_its_own(block: Block) -> bool:
    # A call.py calls a server, and is run with it: see served(). tests/test_shown_frameworks.py serves the frameworks.
    return block.caption == "call.py" or (block.document == "docs/frameworks.rst" and block.caption != "")


@pytest.mark.parametrize("block", [block for block in python_blocks() if not has_a_test_of_its_own(block)], ids=str)
def test_every_python_block_runs_alone(block: Block) -> None:
    for value in run(block).values():
        if isinstance(value, IdentityProvider):
            value.close()


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 200
    assert len([line for line in blocks("README.rst")[0].text.splitlines() if line]) == 6


def test_the_first_lines_protect_an_app() -> None:
    client = TestClient(example("README.rst", "hello")["app"])
    assert client.get("/").status_code == 401
    assert client.get("/", headers=token()).text == "hello ada"


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.rst", "SECURITY.rst"])
def test_lines_have_at_most_120_columns(document: str) -> None:
    lines = enumerate(text(document).splitlines(), 1)
    # An address cannot be broken.
    assert [number for number, line in lines if len(line) > 120 and not re.match(" +<?https://", line)] == []


def served() -> list[tuple[list[Block], str]]:
    """Each program that a reader saves as main.py and serves, what is saved beside it, and the commands that follow."""
    found = []
    for document in DOCUMENTS:
        files: list[Block] = []
        commands = ""
        for block in (*blocks(document), None):
            if block is None or block.caption == "main.py":
                if files and commands:
                    found.append((files, commands))
                files, commands = [block] if block is not None else [], ""
            elif block.caption == "call.py":
                files.append(block)
            elif block.language == "console":
                commands += block.text
    return found


def commands_in(shown: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines of output that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in shown.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif line:
            found[-1][1].append(line)
    return found


def test_the_programs_of_the_start_page_have_at_most_twenty_lines() -> None:
    programs = [files[0].text for files, _ in served() if files[0].document == "docs/start.rst"]
    assert len(programs) == 6
    assert [len(list(filter(None, program.splitlines()))) <= 20 for program in programs] == [True] * 6


@pytest.mark.parametrize(("files", "shown"), [pytest.param(*both, id=str(both[0][0])) for both in served()])
def test_a_served_program_answers_as_shown(files: list[Block], shown: str, tmp_path: Path) -> None:
    need("curl")
    with socket.create_server(("127.0.0.1", 0)) as free:
        here = f"127.0.0.1:{free.getsockname()[1]}"
    for file in files:
        (tmp_path / file.caption).write_text(file.text.replace("127.0.0.1:8000", here), encoding="utf-8")
    server, *commands = commands_in(shown.replace("127.0.0.1:8000", here))
    assert server == ("uvicorn main:app", [])
    serve = [sys.executable, "-m", "uvicorn", "--port", here.partition(":")[2], "main:app"]
    with program(*serve, log=tmp_path / "log", ready=lambda output: "startup complete" in output, folder=tmp_path):
        script = f"\necho; echo '{BETWEEN}'\n".join(command for command, _ in commands)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        shell = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True, env=environment
        )
    answers = shell.stdout.replace("\r", "").split(BETWEEN)
    for (command, lines), answer in zip(commands, answers, strict=True):
        for line in lines:
            # An ellipsis stands for what differs each time.
            pattern = ".*".join(re.escape(part) for part in line.split("..."))
            assert re.search(f"^{pattern}$", answer, re.MULTILINE), f"{command}\n{answer}{shell.stderr}"


# What a reader has before the commands of a page that serves nothing.
BEFORE = {
    "docs/commands.rst": {},
    "docs/oncall.rst": {"main.py": blocks("README.rst")[0].text, "token": jwt.encode({"sub": "ada", "exp": 1}, SECRET)},
}


def test_no_command_goes_without_a_test() -> None:
    with_commands = {document for document in DOCUMENTS for block in blocks(document) if block.language == "console"}
    assert with_commands == {files[0].document for files, _ in served()} | set(BEFORE)


@pytest.mark.parametrize("document", BEFORE)
def test_commands_answer_as_shown(document: str, tmp_path: Path) -> None:
    for name, content in BEFORE[document].items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    shown = "".join(block.text for block in blocks(document) if block.language == "console")
    for command, lines in commands_in(shown):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        ended = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False, env=environment
        )
        # 1: the token is refused, as shown.
        assert ended.returncode in (0, 1), ended.stderr
        assert [line for line in lines if line not in ended.stdout.splitlines()] == [], ended.stdout


def test_a_chat_is_renewed_by_a_message() -> None:
    app = example("docs/connections.rst", 'message["token"]')["app"]
    good = token()["authorization"].removeprefix("Bearer ")
    with TestClient(app).websocket_connect("/", headers=token()) as websocket:
        for sent, received in ((good, {"expires_at": FAR}), ("x", {"refused": "malformed_token"})):
            websocket.send_json({"token": sent})
            assert websocket.receive_json() == received


def test_starlette_apps_see_the_user_and_demand_scopes() -> None:
    client = TestClient(example("docs/requires.rst", "def create_order")["app"])
    assert client.get("/me", headers=token()).json()["user"] == "ada"
    assert client.post("/orders", headers=token()).status_code == 403
    assert client.post("/orders", headers=token(scope="orders:write")).status_code == 201


def test_fastapi_apps_know_who_is_calling() -> None:
    app = example("docs/fastapi.rst", "docs_client_id")
    headers = headers_for(app["auth"], "ada", scopes=["orders:write"])
    client = TestClient(app["app"])
    assert client.get("/me", headers=headers).json() == "ada"
    assert client.post("/orders", headers=headers).json() == "an order of ada"
    assert client.get("/me").status_code == 401
    assert '"clientId": "orders-docs"' in client.get("/docs").text


def test_fastapi_apps_log_users_in() -> None:
    client = TestClient(example("docs/fastapi.rst", "check_password", "get_users")["app"])
    answers = [client.post("/auth/login", data={"username": "ada", "password": word}) for word in ("lovelace", "x")]
    assert [answer.status_code for answer in answers] == [200, 400]


def test_fastapi_apps_keep_tokens_in_cookies() -> None:
    client = TestClient(example("docs/fastapi.rst", 'cookies="all"')["app"], base_url="https://shop.example")
    assert client.get("/nothing").status_code == 401
    form = {"username": "ada", "password": "lovelace"}
    assert client.post("/auth/login", data=form, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert client.get("/nothing").status_code == 404


def test_fastapi_apps_count_refusals() -> None:
    client = TestClient(example("docs/fastapi.rst", "make_asgi_app")["app"])
    assert [client.get(path).status_code for path in ("/health/live", "/health/ready", "/me")] == [200, 200, 401]
    assert 'requests_refused_total{error_type="missing_token",provider=""} 1.0' in client.get("/metrics/").text


def test_fastapi_apps_are_tested_with_fake_users() -> None:
    tests = example("docs/fastapi.rst", "headers_for")
    tests["test_without_keys"]()
    tests["test_the_honest_way"]()


@pytest.mark.anyio
async def test_tokens_are_verified_without_asgi(capsys: pytest.CaptureFixture[str]) -> None:
    subject_of = example("docs/keys.rst", "verifier.verify")["subject_of"]
    assert await subject_of(token()["authorization"].removeprefix("Bearer ")) == "ada"
    assert await subject_of(token(exp=1)["authorization"].removeprefix("Bearer ")) is None
    assert capsys.readouterr().out == "expired exp\n"


def test_claims_and_users_are_demanded_as_shown() -> None:
    client = TestClient(JWTMiddleware(echo, providers=example("docs/claims.rst", "is_verified")["provider"]))
    good = {"sub": "ada", "aud": "orders", "client_id": "shop", "iat": time.time(), "exp": FAR}
    for claims, code in (({"email_verified": True}, None), ({}, "invalid_claim")):
        raw = jwt.encode({**good, **claims}, SECRET, headers={"typ": "at+jwt"})
        assert client.get("/", headers=bearer(raw)).json().get("code") == code
    client = TestClient(example("docs/claims.rst", "async def load_user")["app"])
    assert client.get("/", headers=token()).status_code == 404
    assert client.get("/", headers=token(sub="eve")).json()["code"] == "user_refused"


def test_public_paths_are_open_as_shown() -> None:
    client = TestClient(example("docs/public.rst", "allow_preflight")["app"])
    opened = {path: client.get(path).status_code for path in ("/health", "/docs/a", "/items/1", "/docs", "/items/1/2")}
    assert opened == {"/health": 404, "/docs/a": 404, "/items/1": 404, "/docs": 401, "/items/1/2": 401}


def test_pages_of_other_origins_read_our_challenge() -> None:
    client = TestClient(example("docs/public.rst", "CORSMiddleware")["app"])
    origin = {"origin": "https://pages.example"}
    preflight = {**origin, "access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    assert client.options("/", headers=preflight).status_code == 200
    response = client.get("/", headers=origin)
    assert response.status_code == 401
    assert response.headers["access-control-expose-headers"] == "WWW-Authenticate"


def test_users_log_in_renew_and_log_out() -> None:
    with TestClient(example("docs/sessions.rst", "SQLiteStore(")["app"]) as client:
        assert client.post("/auth/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        login = client.post("/auth/login", data={"username": "ada", "password": "lovelace"}).json()
        assert list(login) == ["access_token", "token_type", "expires_in", "refresh_token"]
        assert client.get("/me", headers=bearer(login["access_token"])).json()["user"] == "ada"
        refreshed = client.post("/auth/refresh", data={"refresh_token": login["refresh_token"]}).json()
        assert refreshed["expires_in"] == 900
        assert client.post("/auth/logout", data={"token": refreshed["refresh_token"]}).status_code == 200
        assert client.get("/me", headers=bearer(login["access_token"])).json()["code"] == "revoked"
        assert client.get("/auth/jwks.json").json() == {"keys": []}


def test_an_app_opens_shows_and_ends_sessions() -> None:
    with TestClient(example("docs/sessions.rst", "log_out_everywhere")["app"]) as client:
        headers = bearer(client.get("/single-sign-on").json()["access_token"])
        assert [session["device"] for session in client.get("/sessions", headers=headers).json()] == ["testclient"]
        assert client.delete("/sessions", headers=headers).status_code == 204
        assert client.get("/sessions", headers=headers).json()["code"] == "revoked"


def test_another_service_sees_revocations() -> None:
    stack = example("docs/sessions.rst", "RevocationView(")["app"].build_middleware_stack()
    assert isinstance(stack.app.verifier.revocations, RevocationView)


def test_users_log_in_without_a_store() -> None:
    client = TestClient(example("docs/sessions.rst", "session_lifetime=8 * 3600")["app"])
    login = client.post("/login", data={"username": "ada", "password": "lovelace"}).json()
    assert list(login) == ["access_token", "token_type", "expires_in"]
    assert client.post("/refresh", headers=bearer(login["access_token"])).json()["expires_in"] == 900


def test_a_page_logs_in_by_cookies_that_it_cannot_read() -> None:
    app = example("docs/browsers.rst", 'cookies="all"')["app"]
    browser = TestClient(app, base_url="https://testserver")
    own = {"origin": "https://testserver"}
    login = browser.post("/auth/login", data={"username": "ada", "password": "lovelace"}, headers=own)
    assert login.json() == {"token_type": "bearer", "expires_in": 900}
    assert browser.get("/me").json()["user"] == "ada"
    assert browser.post("/auth/logout", headers={"origin": "https://evil.example"}).status_code == 403
    assert browser.post("/auth/logout", headers=own).json() == {}
    assert browser.get("/me").status_code == 401


def test_a_login_of_the_app_sets_the_cookies() -> None:
    browser = TestClient(example("docs/browsers.rst", "set_cookies")["app"], base_url="https://testserver")
    response = browser.get("/single-sign-on", follow_redirects=False)
    assert set(response.cookies) == {"__Host-access", "__Secure-refresh"}


def test_an_app_behind_an_identity_provider_survives_its_outage(identity_provider: IdentityProvider) -> None:
    example("docs/testing.rst", "survive_an_outage")["test_orders_survive_an_outage"](identity_provider)


def test_a_provider_is_tried_without_it() -> None:
    example("docs/providers/index.rst", "test_a_token_of_keycloak")["test_a_token_of_keycloak"]()


def test_an_app_is_tested_with_tokens_of_its_own() -> None:
    names = example("docs/testing.rst", "test_ada_is_greeted")
    names["test_ada_is_greeted"]()
    names["test_an_anonymous_request_is_refused"]()


def test_failed_logins_are_throttled() -> None:
    client = TestClient(example("docs/throttle.rst", "Throttle(")["app"])
    assert client.post("/login", data={"username": "ada", "password": "lovelace"}).status_code == 200
    wrong = {"username": "eve", "password": "lovelace"}
    assert [client.post("/login", data=wrong).status_code for _ in range(11)] == [400] * 10 + [429]


def test_refusals_are_answered_in_another_form() -> None:
    response = TestClient(example("docs/refusals.rst", "in_plain_text")["app"]).get("/")
    assert response.text == "This resource needs an access token: Authorization: Bearer <token>."
    assert response.headers["www-authenticate"] == 'Bearer realm="api"'
    provider = example("docs/refusals.rst", "TermsNotAccepted")["provider"]
    refused = TestClient(JWTMiddleware(echo, providers=provider)).get("/", headers=token())
    assert refused.json()["code"] == "terms_not_accepted"


@pytest.mark.parametrize(
    "function", [Provider, JWTMiddleware, RemoteKeys, LoadBalancerKeys, Sessions, Cookies, Throttle]
)
def test_every_argument_is_in_the_settings(function: Any) -> None:
    settings = text("docs/settings.rst")
    missing = [name for name in inspect.signature(function).parameters if f"    * - ``{name}``\n" not in settings]
    assert [name for name in missing if name not in ("app", "provider")] == [], "add them to docs/settings.rst"


def test_every_refusal_is_explained() -> None:
    explained = text("docs/refusals.rst").partition("Every code\n")[2].partition("Challenges\n")[0]
    leaves = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.Refusal)]
    # Among ours: a test may have made subclasses, too.
    codes = {kind.code for kind in leaves if not any(other is not kind and issubclass(other, kind) for other in leaves)}
    assert set(re.findall(r"^``([a-z_]+)`` \(\d{3}\)$", explained, re.MULTILINE)) == codes, "see docs/refusals.rst"


def test_there_are_two_set_up_commands_and_both_work_from_nothing() -> None:
    commands = re.findall(r"^ *\$ (python3 -m venv .*)$", README, re.MULTILINE)
    assert len(commands) == len(re.findall("-m venv", README)) == 2
    for command, part in zip(commands, ("examples/demo.py", "-m pytest"), strict=True):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert part in command


def test_links_to_files_lead_somewhere() -> None:
    for document in DOCUMENTS:
        folder = (ROOT / document).parent
        linked = re.findall(r"<([\w./-]+\.rst)>`_|^ *\.\. image:: (\S+)$", text(document), re.MULTILINE)
        for target in filter(None, (name for pair in linked for name in pair)):
            assert (folder / target).exists(), f"{document}: {target}"


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert "version = attr: jwt_middleware.__version__\n" in text("setup.cfg")


@pytest.mark.parametrize("package", [jwt_middleware, issuing, fastapi, testing], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference(package: ModuleType) -> None:
    shown = set(re.findall(r"^\.\. auto\w+:: (\S+)$", text("docs/reference.rst"), re.MULTILINE))
    assert [name for name in package.__all__ if f"{package.__name__}.{name}" not in shown] == []


@pytest.mark.parametrize("address", ["", "https://forge.example/orders/middleware"])
def test_the_readme_leads_nowhere_wrong_outside_the_repository(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ADDRESS", address), ("FILES", f"{address}/blob/main"), ("IMAGES", f"{address}/raw/main")):
        monkeypatch.setattr(setup, name, value)
    shown = setup.description(README)
    links = re.findall(r"<([^>]*\.rst)>`_|^ *\.\. image:: (\S+)$", shown, re.MULTILINE)
    targets = [target for pair in links for target in pair if target]
    assert len(targets) == (0 if address == "" else len(re.findall(r"\.rst>`_|image:: ", README)))
    assert all(target.startswith(f"{address}/") for target in targets)


def test_actions_are_pinned_by_their_commit() -> None:
    for workflow in (ROOT / ".github").rglob("*.yml"):
        for action in re.findall(r"uses: (\S.*)", workflow.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), f"{workflow.name}: {action}"


@pytest.mark.parametrize(("document", "least"), [("docs/security.rst", 40), ("docs/mcp.rst", 15)])
def test_tests_that_a_page_names_exist(document: str, least: int) -> None:
    named = set(re.findall(r"``(test_\w+)``", text(document)))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > least
    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []


def test_probes_are_answered_as_shown() -> None:
    client = TestClient(example("docs/deployment.rst", "health_routes")["app"])
    assert (client.get("/health/live").status_code, client.get("/health/ready").json()) == (200, {"ready": True})
    assert len(client.get("/health/ready", headers=token(scope="operator")).json()) > 1
