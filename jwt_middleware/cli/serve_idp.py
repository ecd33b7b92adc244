"""``serve-idp``: the fake identity provider of ``jwt_middleware.testing``, to try a service without a real one."""

import sys
from argparse import Namespace
from contextlib import suppress
from threading import Event

from ..testing import IdentityProvider
from .inputs import UsageError
from .output import show, show_json


def run(arguments: Namespace) -> int:
    """Serve until interrupted; print the settings and a token."""
    try:
        serving = IdentityProvider(algorithm=arguments.algorithm, port=arguments.port)
    except OSError as error:
        raise UsageError(f"cannot serve on port {arguments.port}: {error.strerror}") from None
    with serving as provider:
        token = provider.mint(aud=arguments.audience, sub=arguments.subject, scope=" ".join(arguments.scope) or None)
        if arguments.json:
            show_json({"issuer": provider.issuer, "audience": arguments.audience, "access_token": token})
        else:
            show(
                f'JWTMiddleware(app, issuer="{provider.issuer}", audience="{arguments.audience}")',
                "",
                f"curl -H 'Authorization: Bearer {token}' http://127.0.0.1:8000/",
                "",
                "Serving on loopback until you press Ctrl-C. Anybody on this machine can use it: it is for trials.",
            )
        # A program that reads this through a pipe waits for it.
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            Event().wait(arguments.seconds)
    return 0
