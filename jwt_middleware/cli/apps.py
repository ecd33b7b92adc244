"""Which app does ``module:name`` mean, and where in it is the middleware?"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from inspect import iscoroutinefunction, isfunction, signature
from itertools import islice
from types import BuiltinFunctionType, CellType, ModuleType
from typing import Any

from starlette.routing import Mount

from ..middleware import JWTMiddleware
from .inputs import UsageError

MAX_OBJECTS = 10_000
"""The number of objects of an app that are looked at, so that an app of any shape is searched in bounded time."""


def import_app(name: str) -> Any:
    """The object that ``name`` means, such as ``main:app``; in ``main:make()``, the function is called.

    It runs the app's import. Raises ``UsageError``, also for whatever the app itself raises.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"--app needs a module and a name, such as main:app, not {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = run_app_code(f"importing {module}", lambda: importlib.import_module(module))
        for part in attribute.removesuffix("()").split("."):
            if not hasattr(found, part):
                raise UsageError(f"--app: {module} has no {attribute!r}")
            found = getattr(found, part)
        return run_app_code(f"calling {name}", found) if attribute.endswith("()") else found
    finally:
        sys.path.remove(os.getcwd())


def find_middleware(app: Any, name: str) -> list[JWTMiddleware]:
    """Every ``JWTMiddleware`` around or in ``app``, the outermost first.

    Raises ``UsageError`` if there is none, and names ``name``.
    """
    apps = run_app_code(f"building the middlewares of {name}", lambda: list(islice(_apps(app, {}), MAX_OBJECTS)))
    found = [one for one in apps if isinstance(one, JWTMiddleware)]
    if not found:
        is_factory = isfunction(app) and not iscoroutinefunction(app) and not signature(app).parameters
        hint = f"; it is a function: did you mean '{name}()'?" if is_factory else ""
        raise UsageError(f"--app: there is no JWTMiddleware in {name}{hint}")
    return found


def run_app_code(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``, which runs code of the app. Raise ``UsageError`` for whatever it raises."""
    try:
        return function(*arguments)
    # Some apps end the process instead.
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it is, it is the app's
        raised: BaseException = error
        places = traceback.extract_tb(error.__traceback__)
        while isinstance(raised, BaseExceptionGroup):
            raised = raised.exceptions[0]
            # An exception that was put into a group without being raised has no traceback.
            places = traceback.extract_tb(raised.__traceback__) or places
        place = places[-1]
        raise UsageError(
            f"--app: {what} raised {type(raised).__name__}: {raised} ({place.filename}, line {place.lineno})"
        ) from None


def _apps(app: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """``app`` and every app that can be found inside it: wrapped, added as a middleware, or mounted."""
    if id(app) in seen:
        return
    # The object is kept: the id of an object that is gone may be given to another one.
    seen[id(app)] = app
    yield app
    build = getattr(app, "build_middleware_stack", None)
    if callable(build) and getattr(app, "user_middleware", None):
        # Built anew: the app's own stack is made at its first request.
        yield from _apps(build(), seen)
    for route in getattr(app, "routes", None) or ():
        if isinstance(route, Mount):
            yield from _apps(route.app, seen)
    for inner in _held(app):
        yield from _apps(inner, seen)


def _held(app: Any) -> list[Any]:
    """What a wrapper holds that may be an app: under whatever name, also in a closure."""
    cells = getattr(app, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells if _is_filled(cell)] if isfunction(app) else []
    if not isinstance(app, type | ModuleType | JWTMiddleware):
        held += getattr(app, "__dict__", {}).values()
    if isinstance(app, partial):
        held += [app.func, *app.args]
    if isinstance(app, JWTMiddleware):
        held.append(app.app)
    return [one for one in held if callable(one) and not isinstance(one, type | BuiltinFunctionType)]


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        # The variable has no value yet.
        return False
