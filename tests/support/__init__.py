"""What the tests share. What most of them need is imported from here; the rest stands in modules by subject."""

from .clients import bare_client, bearer, client, echo, provider
from .clock import NOW, Clock
from .logs import logged
from .scopes import http, sent, websocket
from .tokens import SECRET, b64, claims, signed, token
from .waiting import until

__all__ = [
    "NOW",
    "SECRET",
    "Clock",
    "b64",
    "bare_client",
    "bearer",
    "claims",
    "client",
    "echo",
    "http",
    "logged",
    "provider",
    "sent",
    "signed",
    "token",
    "until",
    "websocket",
]
