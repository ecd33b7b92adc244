"""The Authorize button of /docs logs users in, in a real browser: at our login, and at an issuer with PKCE."""

import json
import os
import socket
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import Depends, FastAPI, Form
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from jwt_middleware import JWTUser
from jwt_middleware.fastapi import Auth, auth_router
from jwt_middleware.issuing import MemoryStore, Sessions, TokenIssuer
from jwt_middleware.testing import IdentityProvider

from ..support import SECRET
from ..support.chromium import Chromium, Page

PUBLIC = ["/docs", "/docs/*", "/static/*", "/openapi.json"]


@pytest.fixture(scope="module")
def swagger() -> Path:
    """The folder of Swagger UI, which FastAPI's page loads from elsewhere."""
    folder = Path(os.environ.get("OIDC_PROVIDER", "")) / "node_modules" / "swagger-ui-dist"
    if not (folder / "swagger-ui-bundle.js").is_file():
        if os.environ.get("CI"):
            pytest.fail("OIDC_PROVIDER must name a folder with npm's swagger-ui-dist")
        pytest.skip("OIDC_PROVIDER names no folder with npm's swagger-ui-dist")
    return folder


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of ``app``, which uvicorn serves in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            deadline = time.monotonic() + 10
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def documented(app: FastAPI, auth: Auth, swagger: Path, root_path: str = "") -> None:
    """FastAPI's page of Swagger UI, with the files of ``swagger``, and a route to try."""
    app.mount("/static", StaticFiles(directory=swagger))

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=f"{root_path}/openapi.json",
            title="docs",
            oauth2_redirect_url=f"{root_path}/docs/oauth2-redirect",
            init_oauth=app.swagger_ui_init_oauth,
            swagger_js_url=f"{root_path}/static/swagger-ui-bundle.js",
            swagger_css_url=f"{root_path}/static/swagger-ui.css",
            swagger_favicon_url=f"{root_path}/static/favicon-32x32.png",
        )

    @app.get("/docs/oauth2-redirect", include_in_schema=False)
    def redirect() -> HTMLResponse:
        return get_swagger_ui_oauth2_redirect_html()

    @app.get("/me")
    def me(user: Annotated[JWTUser, Depends(auth)]) -> list[Any]:
        return ["hello", user.identity]


def until_there(page: Page, selector: str) -> None:
    page.until(f"document.querySelector({json.dumps(selector)}) !== null")


def fill(page: Page, selector: str, text: str) -> None:
    until_there(page, selector)
    page.run(f"document.querySelector({json.dumps(selector)}).focus()")
    page.type(text)


def press(page: Page, selector: str) -> None:
    until_there(page, selector)
    page.click(selector)


def try_me(page: Page) -> None:
    press(page, ".btn-done")
    press(page, "#operations-default-me_me_get .opblock-summary-control")
    press(page, ".try-out__btn")
    press(page, ".btn.execute")
    page.until("/\"hello\",\\s*\"ada\"/.test(document.querySelector('.live-responses-table')?.innerText ?? '')")


@pytest.mark.parametrize("mounted", [False, True], ids=["at the root", "mounted"])
def test_the_button_logs_users_in_with_their_password(browser: Chromium, swagger: Path, mounted: bool) -> None:
    sessions = Sessions(MemoryStore(), TokenIssuer(SECRET, "orders"))
    auth = Auth(sessions=sessions)
    app, outer = FastAPI(docs_url=None), FastAPI()
    auth.install(app, public=PUBLIC, docs=True)
    documented(app, auth, swagger, "/api" if mounted else "")
    app.include_router(auth_router(sessions, authenticate=authenticate), prefix="/auth")
    outer.mount("/api", app)
    with served(outer if mounted else app) as address:
        page = browser.page()
        page.open(f"{address}/api/docs" if mounted else f"{address}/docs")
        press(page, ".btn.authorize")
        fill(page, "#oauth_username", "ada")
        fill(page, "#oauth_password", "lovelace")
        press(page, ".auth-btn-wrapper .btn.authorize")
        try_me(page)


def authenticate(username: str, password: str) -> str | None:
    return username if (username, password) == ("ada", "lovelace") else None


def login_of(provider: IdentityProvider) -> FastAPI:
    """A provider's login: who comes is ada. Its token endpoint demands the verifier of RFC 7636."""
    login = FastAPI()
    login.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    challenges: dict[str, str] = {}

    @login.get("/authorize")
    def authorize(
        redirect_uri: str, state: str, client_id: str, code_challenge: str, code_challenge_method: str
    ) -> RedirectResponse:
        assert (client_id, code_challenge_method) == ("docs", "S256")
        challenges["the code"] = code_challenge
        return RedirectResponse(f"{redirect_uri}?code=the%20code&state={state}", 302)

    @login.post("/token")
    def token(code: Annotated[str, Form()], code_verifier: Annotated[str, Form()]) -> dict[str, Any]:
        digest = sha256(code_verifier.encode()).digest()
        assert urlsafe_b64encode(digest).rstrip(b"=").decode() == challenges.pop(code)
        return {"access_token": provider.mint(aud="orders"), "token_type": "bearer", "expires_in": 900}

    return login


def test_the_button_logs_users_in_at_an_issuer_with_pkce(browser: Chromium, swagger: Path) -> None:
    with IdentityProvider() as provider, served(login_of(provider)) as login:
        provider.metadata |= {"authorization_endpoint": f"{login}/authorize", "token_endpoint": f"{login}/token"}
        auth = Auth(issuer=provider.issuer, audience="orders", docs_client_id="docs")
        app = FastAPI(docs_url=None)
        auth.install(app, public=PUBLIC, docs=True)
        documented(app, auth, swagger)
        with served(app) as address:
            page = browser.page()
            page.open(f"{address}/docs")
            press(page, ".btn.authorize")
            until_there(page, "#client_id_authorizationCode")
            press(page, ".auth-container:has(#client_id_authorizationCode) .auth-btn-wrapper .btn.authorize")
            page.until("document.body.innerText.includes('Logout')")
            try_me(page)
