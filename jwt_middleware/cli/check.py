"""``check``: what can be said about an app's settings before it starts?"""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any

import anyio
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Mount

from ..middleware import JWTMiddleware
from ..provider import Provider
from ..requires import is_bypassed
from ..verifying.verifier import Verifier
from .apps import find_middleware, import_app, run_app_code
from .output import paint, show, show_json


def run(arguments: Namespace) -> int:
    """Show what should be mended. Return 0 if nothing should."""
    app = import_app(arguments.app)
    middlewares = find_middleware(app, arguments.app)
    findings = [*_check_order(app)]
    for middleware in middlewares:
        findings += [*_check_public(app, middleware), *_check_settings(middleware.verifier.providers)]
        if middleware.debug:
            findings.append("debug=True: refusals explain themselves to clients on this machine; for development only")
        findings += run_app_code("asking the providers", anyio.run, _check_providers, middleware.verifier)
    findings += _check_guards(app, middlewares)
    if arguments.json:
        show_json({"findings": findings})
    else:
        for finding in findings:
            show(f"{paint('mend', 'yellow')}  {finding}")
        if not findings:
            show(f"{paint('ok', 'green')}  nothing to mend in {arguments.app}")
    return 1 if findings else 0


def _check_order(app: Any) -> Iterator[str]:
    kinds = [entry.cls for entry in getattr(app, "user_middleware", ())]
    if JWTMiddleware in kinds and CORSMiddleware in kinds[kinds.index(JWTMiddleware) :]:
        yield (
            "CORSMiddleware is inside JWTMiddleware: browsers see neither logins nor refusals of other origins, and "
            "preflights are refused; add CORSMiddleware after JWTMiddleware, so that it is outside"
        )


def _check_public(app: Any, middleware: JWTMiddleware) -> Iterator[str]:
    routes = list(_routes(app))
    if not routes:
        return
    for entry in middleware.public_entries:
        method, _, path = entry.rpartition(" ")
        if not any(_may_match(full, route, path, method) for full, route in routes):
            yield f"public: no route matches {entry!r}"


def _check_settings(providers: Iterable[Provider]) -> Iterator[str]:
    for provider in providers:
        # The signer of a load balancer's token says whom it is for.
        if provider.rules.audiences is None and provider.load_balancer is None:
            yield (
                f"provider {provider.name!r} accepts tokens for any audience: safe only where its keys sign for "
                "nothing but this service"
            )
        if not provider.issuers and provider.remote is not None and provider.load_balancer is None:
            yield f"provider {provider.name!r} does not check the issuer; name it with issuer="
        for reason in provider.health.skipped:
            yield f"provider {provider.name!r}: {reason}"


async def _check_providers(verifier: Verifier) -> list[str]:
    findings = []
    await verifier.start()
    try:
        for name, health in verifier.health().items():
            if health.error is not None:
                findings.append(f"provider {name!r} cannot be reached: {health.error}")
    finally:
        await verifier.stop()
    return findings


def _check_guards(app: Any, middlewares: Iterable[JWTMiddleware]) -> Iterator[str]:
    # An ``Auth`` of FastAPI looks for these mistakes itself, at start-up.
    checks = [check for one in middlewares if (check := getattr(one, "check_routes", None)) is not None]
    for check in checks:
        try:
            check()
        except RuntimeError as error:
            yield str(error)
    for path, route in () if checks else _routes(app):
        if is_bypassed(getattr(route, "endpoint", None)):
            yield f"{path}: @requires stands above the decorator of the route, which registered the unguarded function"


def _routes(app: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every route of ``app`` with its whole path, those of mounted apps included."""
    for route in getattr(app, "routes", ()):
        path = prefix + getattr(route, "path", "")
        if isinstance(route, Mount):
            yield path, route
            yield from _routes(route.app, path)
        else:
            yield path, route
    if not hasattr(app, "routes") and hasattr(app, "app"):
        yield from _routes(app.app, prefix)


def _may_match(full: str, route: Any, entry: str, method: str) -> bool:
    if entry.endswith("/*"):
        below = entry[:-1]
        return full.startswith(below) or f"{full}/" == below
    # Any text will do for a segment in braces.
    path = "/".join("x" if part.startswith("{") else part for part in entry.split("/"))
    prefix = full[: len(full) - len(getattr(route, "path", ""))]
    if not path.startswith(prefix) or isinstance(route, Mount):
        return False
    scope = {"type": "http", "path": path[len(prefix) :], "method": method or "GET", "headers": [], "root_path": ""}
    matched, _ = route.matches(scope)
    if method:
        return bool(matched is Match.FULL)
    # An entry without a method is for all methods, and for WebSockets.
    return bool(matched is not Match.NONE or route.matches({**scope, "type": "websocket"})[0] is not Match.NONE)
