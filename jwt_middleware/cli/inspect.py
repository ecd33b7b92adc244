"""``inspect``: what does this token say? Nothing is verified."""

import json
import time
from argparse import Namespace

from ..explaining.loose import moment_in_words, read_loosely
from .inputs import UsageError, read_text
from .output import show, show_json, show_table, warn

_MOMENTS = ("exp", "nbf", "iat", "auth_time", "updated_at")


def run(arguments: Namespace) -> int:
    """Show header and claims. Return 0 if both can be read."""
    token = read_loosely(read_text(arguments.token, "token"))
    if token.header is None or token.claims is None:
        raise UsageError("this is no JSON Web Token: its header or payload is not a JSON object in base64url")
    if arguments.json:
        show_json({"header": token.header, "claims": token.claims})
        return 0
    now = time.time()
    show("header")
    show_table((name, json.dumps(value, ensure_ascii=False)) for name, value in token.header.items())
    show("claims")
    show_table(
        (name, moment_in_words(value, now) if name in _MOMENTS else json.dumps(value, ensure_ascii=False))
        for name, value in token.claims.items()
    )
    warn("Nothing was verified: anybody could have written this.")
    return 0
