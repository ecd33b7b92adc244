"""FastAPI: who is calling, as dependencies that type checkers, OpenAPI and tests understand; the extra ``fastapi``."""

from importlib.util import find_spec

if find_spec("fastapi") is None:
    raise ImportError("jwt_middleware.fastapi needs FastAPI: pip install 'asgi-jwt-middleware[fastapi]'")

# Imported so that FastAPI knows the encoders.
from . import encoders as encoders
from .auth import Auth
from .router import auth_router

__all__ = ["Auth", "auth_router"]
