"""How do OAuth clients ask, and how are they answered? (RFC 6749, sections 4.3, 5 and 6)"""

import re
from collections.abc import Collection, Iterable
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..errors import MalformedToken
from ..verifying.compact import json_object

MAX_BODY_SIZE = 16 * 1024
"""Bytes of a request's body, at most."""

# RFC 6749 5.1: both headers, on every response that holds a token. On errors too, because they reveal logins.
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


class OAuthError(Exception):
    """RFC 6749 5.2: an error response of the token endpoint. ``retry_after`` is in seconds."""

    def __init__(self, error: str, description: str, *, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(error)
        headers = NO_STORE if retry_after is None else {**NO_STORE, "retry-after": str(retry_after)}
        self.response = JSONResponse(
            {"error": error, "error_description": description}, status_code=status, headers=headers
        )


async def read_fields(request: Request, names: Collection[str]) -> dict[str, str]:
    """The parameters among ``names`` in the form, or the JSON object, of ``request``. Raises ``OAuthError``."""
    return pick_fields(await read_parameters(request), names)


async def read_parameters(request: Request) -> Iterable[tuple[str, Any]]:
    """Name and value of each parameter in the form, or the JSON object, of ``request``. Raises ``OAuthError``.

    Without a body there are none, whatever the content type says: many clients send one with each POST.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await _read_body(request)
    if not body:
        return ()
    try:
        if media_type == "application/json":
            return json_object(body).items()
        if media_type == _FORM:
            return parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except (ValueError, MalformedToken):
        raise OAuthError("invalid_request", "The body cannot be read.") from None
    raise OAuthError("invalid_request", f"The content type must be {_FORM} or application/json.")


def pick_fields(parameters: Iterable[tuple[str, Any]], names: Collection[str]) -> dict[str, str]:
    """The texts of the ``parameters`` among ``names``. Others are ignored. Raises ``OAuthError``."""
    fields: dict[str, str] = {}
    for name, value in parameters:
        if name not in names or value is None:
            continue
        # RFC 6749 3.2: parameters MUST NOT be included more than once.
        if name in fields or not isinstance(value, str):
            raise OAuthError("invalid_request", f"The parameter {name} must be a single string.")
        if name != "scope" and not _TEXT.fullmatch(value):
            raise OAuthError("invalid_request", f"The parameter {name} contains a character that is not allowed.")
        fields[name] = value
    # RFC 6749 3.2: parameters without a value MUST be treated as if they were omitted.
    return {name: value for name, value in fields.items() if value}


def token_response(
    access_token: str | None, lifetime: int, scopes: tuple[str, ...], refresh_token: str | None = None
) -> Response:
    """RFC 6749 5.1: the response to a login and to a refresh. A token that a cookie holds is not in it."""
    content: dict[str, Any] = {} if access_token is None else {"access_token": access_token}
    content |= {"token_type": "bearer", "expires_in": lifetime}
    if refresh_token is not None:
        content["refresh_token"] = refresh_token
    if scopes:
        content["scope"] = " ".join(scopes)
    return JSONResponse(content, headers=NO_STORE)


_FORM = "application/x-www-form-urlencoded"

# RFC 6749 A, UNICODECHARNOCRLF: databases, hashers and logs stumble over NUL and other control characters.
_TEXT = re.compile(r"[\t\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY_SIZE:
                    raise OAuthError("invalid_request", "The body is too large.", status=413)
    except ClientDisconnect:
        raise OAuthError("invalid_request", "The body is incomplete.") from None
    return bytes(body)
