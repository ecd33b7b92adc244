"""Which app does ``module:name`` mean, and where in it is the middleware?"""

import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from starlette.routing import Mount

from ..middleware import JWTMiddleware
from .inputs import UsageError


def import_app(name: str) -> Any:
    """The object that ``name`` means, such as ``main:app``; in ``main:make()``, the function is called.

    It runs the app's import. Raises ``UsageError``.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"--app needs a module and a name, such as main:app, not {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.removesuffix("()").split("."):
            found = getattr(found, part)
        return found() if attribute.endswith("()") else found
    except ImportError as error:
        raise UsageError(f"--app: cannot import {module}: {error}") from None
    except AttributeError:
        raise UsageError(f"--app: {module} has no {attribute!r}") from None
    finally:
        sys.path.remove(os.getcwd())


def find_middleware(app: Any) -> list[JWTMiddleware]:
    """Every ``JWTMiddleware`` around or in ``app``, the outermost first."""
    return list(dict.fromkeys(found for found in _apps(app) if isinstance(found, JWTMiddleware)))


def the_middleware(name: str) -> JWTMiddleware:
    """The outermost ``JWTMiddleware`` of the app called ``name``; raises ``UsageError``."""
    found = find_middleware(import_app(name))
    if not found:
        raise UsageError(f"--app: there is no JWTMiddleware in {name}")
    return found[0]


def _apps(app: Any) -> Iterator[Any]:
    """``app`` and every app that can be found inside it: wrapped, added as a middleware, or mounted."""
    yield app
    build = getattr(app, "build_middleware_stack", None)
    if callable(build) and getattr(app, "user_middleware", None):
        # Built anew: the app's own stack is made at its first request.
        yield from _apps(build())
    for route in getattr(app, "routes", ()):
        if isinstance(route, Mount):
            yield from _apps(route.app)
    if hasattr(app, "app"):
        yield from _apps(app.app)
