"""A service that logs its users in: run python examples/demo.py, then open its address in a browser.

Or try the lines that it prints in a second terminal.

Sessions are kept in a SQLite file, or in Redis with --redis redis://127.0.0.1:6379/0. Two demos that are started in one
folder are two instances of one service: a session that ends on one ends on the other.
"""

import logging
import os
import re
import secrets
import socket
from argparse import ArgumentParser
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

import uvicorn
from pwdlib import PasswordHash
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from jwt_middleware import JWTMiddleware, Refusal, bearer_header, cookie, renew, requires, subprotocol
from jwt_middleware.issuing import (
    MemoryStore,
    RedisStore,
    Sessions,
    SessionStore,
    SQLiteStore,
    Throttle,
    TokenIssuer,
    auth_routes,
    password_check,
)


@dataclass(frozen=True)
class User:
    identity: str
    scopes: tuple[str, ...]
    password_hash: str


def create_app(
    store: SessionStore | None = None,
    secret: str | None = None,
    throttle: Throttle | None = None,
    page_lifetime: float = 60,
) -> Starlette:
    """The service. Its sessions are kept in ``store``, and its tokens are signed with ``secret``; by default, neither
    outlives the process.

    Access tokens of the page are valid for ``page_lifetime`` seconds, so that you can watch them expire.
    """
    hasher = PasswordHash.recommended()
    ada = User("ada", ("orders:read", "orders:write"), hasher.hash("lovelace"))
    bob = User("bob", ("orders:read",), hasher.hash("builder"))
    users = {user.identity: user for user in (ada, bob)}

    # An unknown user takes as long as a wrong password, so nobody can find out who has an account.
    authenticate = password_check(users.get, hasher)
    secret, store, throttle = secret or secrets.token_urlsafe(64), store or MemoryStore(), throttle or Throttle()
    tokens = TokenIssuer(secret, audience="demo")
    short_lived = TokenIssuer(secret, audience="demo", access_lifetime=page_lifetime)
    # A user who was deleted, or may do less than before, learns so at the next refresh.
    sessions, of_the_page = (
        Sessions(store, issuer, idle_lifetime=24 * 3600, reload_user=users.get) for issuer in (tokens, short_lived)
    )

    def login(at: str, sessions: Sessions, cookies: Literal["refresh", "all"] | None = None) -> Mount:
        routes = auth_routes(
            sessions, authenticate=authenticate, throttle=throttle, device=device, cookies=cookies, realm="demo"
        )
        return Mount(at, routes=routes)

    async def my_sessions(request: Request) -> JSONResponse:
        listed = await sessions.list(request.user.identity)
        return JSONResponse(
            {
                "sessions": [
                    {
                        "id": session.id,
                        "device": session.device,
                        "opened_at": session.opened_at,
                        "used_at": session.used_at,
                        "is_this": session.id == request.auth.token.session_id,
                    }
                    for session in listed
                ]
            }
        )

    async def end_session(request: Request) -> Response:
        id = request.path_params["id"]
        # Only sessions of the user's own: an id is no secret.
        if all(session.id != id for session in await sessions.list(request.user.identity)):
            return JSONResponse({"error": "You have no such session."}, status_code=404)
        await sessions.revoke(session=id)
        return Response(status_code=204)

    async def end_all_sessions(request: Request) -> JSONResponse:
        return JSONResponse({"ended": await sessions.revoke(subject=request.user.identity)})

    return Starlette(
        routes=[
            Route("/", home),
            Route("/me", me),
            Route("/orders", list_orders),
            Route("/orders", create_order, methods=["POST"]),
            WebSocketRoute("/ws", echo),
            Route("/sessions", my_sessions),
            Route("/sessions", end_all_sessions, methods=["DELETE"]),
            Route("/sessions/{id}", end_session, methods=["DELETE"]),
            login("/auth", sessions),
            login("/page/auth", of_the_page, cookies="refresh"),
            login("/cookie/auth", of_the_page, cookies="all"),
        ],
        middleware=[
            Middleware(
                JWTMiddleware,
                providers=tokens.provider(),
                revocations=sessions,
                sources=[bearer_header(), subprotocol("bearer"), cookie("__Host-access")],
                public=["/", "/auth/*", "/page/auth/*", "/cookie/auth/*"],
                realm="demo",
            )
        ],
    )


def device(request: Request) -> str:
    """What people call the device of a session, such as ``Firefox on Windows``."""
    return name_device(request.headers.get("user-agent", ""))


def name_device(user_agent: str) -> str:
    """The browser and the system in a User-Agent; for other programs, their own name."""
    browser = next((name for mark, name in BROWSERS if mark in user_agent), None)
    system = next((name for mark, name in SYSTEMS if mark in user_agent), None)
    if browser is None:
        return re.split(r"[/ (]", user_agent, maxsplit=1)[0]
    return browser if system is None else f"{browser} on {system}"


# Each browser claims to be all those below it, too.
BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS", "Firefox"),
    ("CriOS", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "Mac"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


async def home(request: Request) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)
    return PlainTextResponse("Anyone may read this.\n", headers={"vary": "accept"})


def sources_within(page: str, element: str) -> str:
    """The sources of a Content-Security-Policy that allow the text of each ``element`` of ``page``."""
    texts = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", page, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts)


PAGE = Path(__file__).with_name("demo.html").read_text("utf-8")
# The page holds a token. No script runs in it except its own, known by its hash, and it connects to this service only.
PAGE_HEADERS = {
    "content-security-policy": f"default-src 'none'; script-src {sources_within(PAGE, 'script')}; "
    f"style-src {sources_within(PAGE, 'style')}; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "vary": "accept",
    "x-content-type-options": "nosniff",
}


async def me(request: Request) -> JSONResponse:
    return JSONResponse({"user": request.user.identity, "scopes": request.user.scopes})


@requires("orders:read")
async def list_orders(request: Request) -> JSONResponse:
    return JSONResponse({"orders": ["tea", "biscuits"]})


@requires("orders:write")
async def create_order(request: Request) -> JSONResponse:
    return JSONResponse({"ordered_by": request.user.identity}, status_code=201)


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        if not text.startswith("renew "):
            await websocket.send_text(f"{websocket.user.identity}: {text}")
            continue
        try:
            token = await renew(websocket.scope, text.removeprefix("renew "))
        except Refusal as refusal:
            await websocket.send_text(f"not renewed: {refusal.code}")
        else:
            await websocket.send_text(f"renewed until {datetime.fromtimestamp(token.expires_at):%H:%M:%S}")


def lines_to_try(url: str) -> list[tuple[str, str]]:
    """For each line, for any POSIX shell, what comes of it and the line itself."""

    ada = f"-d 'username=ada&password=lovelace' {url}/auth/login"
    bob = f"-d 'username=bob&password=builder' {url}/auth/login"
    access_token = """sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'"""
    refresh_token = """sed 's/.*"refresh_token":"\\([^"]*\\)".*/\\1/'"""
    forged = """"${TOKEN%.*}.$(echo "${TOKEN##*.}" | sed -e 's/^[A-Y]/Z/' -e t -e 's/^./A/')\""""
    return [
        ("A public path, 200", f"curl -i {url}/"),
        ("No token, 401", f"curl -i {url}/me"),
        ("Login, 200", f"curl -i {ada}"),
        ("The same, and keep the answer", f"LOGIN=$(curl -s {ada})"),
        ("The access token in it", f'TOKEN=$(echo "$LOGIN" | {access_token})'),
        ("The refresh token in it", f'REFRESH=$(echo "$LOGIN" | {refresh_token})'),
        ("Who am I, 200", f'curl -i -H "Authorization: Bearer $TOKEN" {url}/me'),
        ("Ada may order, 201", f'curl -i -X POST -H "Authorization: Bearer $TOKEN" {url}/orders'),
        ("Bob logs in", f"BOB=$(curl -s {bob} | {access_token})"),
        ("He may not order, 403", f'curl -i -X POST -H "Authorization: Bearer $BOB" {url}/orders'),
        ("One character of the signature changed", f"FORGED={forged}"),
        ("That is a forgery, 401", f'curl -i -H "Authorization: Bearer $FORGED" {url}/me'),
        ("Renew the login, 200", f'curl -i -d "refresh_token=$REFRESH" {url}/auth/refresh'),
        ("Ada's sessions, 200", f'curl -i -H "Authorization: Bearer $TOKEN" {url}/sessions'),
        ("Log out, 200", f'curl -i -d "token=$REFRESH" {url}/auth/logout'),
        ("The access token has ended with it, 401", f'curl -i -H "Authorization: Bearer $TOKEN" {url}/me'),
        ("So has the refresh token, 400", f'curl -i -d "refresh_token=$REFRESH" {url}/auth/refresh'),
    ]


def kept_secret(path: Path) -> str:
    """The secret in the file ``path``. A new one is made if there is none. So tokens outlive the process."""
    with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(64))
    return path.read_text()


def listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        listener = socket.create_server(("127.0.0.1", 0))
        print(f"Port {port} is not free; this is port {listener.getsockname()[1]} instead.\n")
        return listener


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes any free one")
    parser.add_argument(
        "--redis",
        metavar="ADDRESS",
        help="keep sessions and failed logins in this Redis; default: in a SQLite file and in memory",
    )
    parser.add_argument("--page-lifetime", type=float, default=60, help="seconds that a token of the page is valid")
    parser.add_argument("--data", type=Path, default=Path(".demo"), help="folder for the secret and the SQLite file")
    arguments = parser.parse_args()
    arguments.data.mkdir(exist_ok=True)
    store = RedisStore(arguments.redis) if arguments.redis else SQLiteStore(arguments.data / "sessions.db")
    throttle = Throttle(storage=arguments.redis)
    app = create_app(store, kept_secret(arguments.data / "secret"), throttle, arguments.page_lifetime)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")  # refusals, and why
    with listen(arguments.port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(f"Open {url} in a browser, or try these lines in a second terminal.\n")
        for outcome, line in lines_to_try(url):
            print(f"{outcome}:\n    {line}\n")
        print("Ctrl-C stops the demo.\n", flush=True)
        with suppress(KeyboardInterrupt):
            # By default, uvicorn believes any address that a program on this machine gives itself.
            uvicorn.Server(uvicorn.Config(app, proxy_headers=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
