"""A service that logs its users in: python examples/demo.py, then, in a second terminal, the lines that it prints."""

import logging
import secrets
import socket
from argparse import ArgumentParser
from contextlib import suppress
from dataclasses import dataclass

import uvicorn
from pwdlib import PasswordHash
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from jwt_middleware import JWTMiddleware, requires
from jwt_middleware.issuing import Throttle, TokenIssuer, auth_routes, password_check


@dataclass(frozen=True)
class User:
    identity: str
    scopes: tuple[str, ...]
    password_hash: str


def create_app() -> Starlette:
    hasher = PasswordHash.recommended()
    ada = User("ada", ("orders:read", "orders:write"), hasher.hash("lovelace"))
    bob = User("bob", ("orders:read",), hasher.hash("builder"))
    users = {user.identity: user for user in (ada, bob)}

    # An unknown user costs the same time as a wrong password, so that nobody learns who has an account.
    authenticate = password_check(users.get, hasher)
    # A secret per start: tokens end with the process. A real service keeps its secret.
    tokens = TokenIssuer(secrets.token_urlsafe(64), audience="demo", session_lifetime=8 * 3600)
    return Starlette(
        routes=[
            Route("/", home),
            Route("/me", me),
            Route("/orders", list_orders),
            Route("/orders", create_order, methods=["POST"]),
            WebSocketRoute("/ws", echo),
            Mount("/auth", routes=auth_routes(tokens, authenticate=authenticate, throttle=Throttle(), realm="demo")),
        ],
        middleware=[
            Middleware(
                JWTMiddleware, providers=tokens.provider(), public=["/", "/auth/login", "/auth/jwks.json"], realm="demo"
            )
        ],
    )


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("Anyone may read this.\n")


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
        await websocket.send_text(f"{websocket.user.identity}: {text}")


def lines_to_try(url: str) -> list[tuple[str, str]]:
    """What comes of each line, and the line, for any POSIX shell."""

    ada = f"-d 'username=ada&password=lovelace' {url}/auth/login"
    bob = f"-d 'username=bob&password=builder' {url}/auth/login"
    access_token = """sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'"""
    forged = """"${TOKEN%.*}.$(echo "${TOKEN##*.}" | sed -e 's/^[A-Y]/Z/' -e t -e 's/^./A/')\""""
    return [
        ("A public path, 200", f"curl -i {url}/"),
        ("No token, 401", f"curl -i {url}/me"),
        ("Login, 200", f"curl -i {ada}"),
        ("The same, and keep the token", f"TOKEN=$(curl -s {ada} | {access_token})"),
        ("Who am I, 200", f'curl -i -H "Authorization: Bearer $TOKEN" {url}/me'),
        ("Ada may order, 201", f'curl -i -X POST -H "Authorization: Bearer $TOKEN" {url}/orders'),
        ("Bob logs in", f"BOB=$(curl -s {bob} | {access_token})"),
        ("He may not order, 403", f'curl -i -X POST -H "Authorization: Bearer $BOB" {url}/orders'),
        ("One character of the signature changed", f"FORGED={forged}"),
        ("That is a forgery, 401", f'curl -i -H "Authorization: Bearer $FORGED" {url}/me'),
        ("Renew the login, 200", f'curl -i -X POST -H "Authorization: Bearer $TOKEN" {url}/auth/refresh'),
    ]


app = create_app()


def listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        listener = socket.create_server(("127.0.0.1", 0))
        print(f"Port {port} is taken, or not for us; this is port {listener.getsockname()[1]} instead.\n")
        return listener


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default 8000")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")  # refusals, and why
    with listen(parser.parse_args().port) as listener:
        for outcome, line in lines_to_try(f"http://127.0.0.1:{listener.getsockname()[1]}"):
            print(f"{outcome}:\n    {line}\n")
        print("Ctrl-C ends it.\n", flush=True)
        with suppress(KeyboardInterrupt):
            # By default uvicorn believes whatever address a program on this machine gives itself.
            uvicorn.Server(uvicorn.Config(app, proxy_headers=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
