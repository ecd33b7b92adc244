"""``serve-idp``: the fake identity provider of ``jwt_middleware.testing``, to try a service without a real one."""

from argparse import Namespace
from threading import Event

from ..testing import IdentityProvider
from .output import show


def run(arguments: Namespace) -> int:
    """Serve until interrupted; print the settings and a token."""
    with IdentityProvider(algorithm=arguments.algorithm) as provider:
        token = provider.mint(aud=arguments.audience, sub=arguments.subject, scope=" ".join(arguments.scope) or None)
        show(
            f'JWTMiddleware(app, issuer="{provider.issuer}", audience="{arguments.audience}")',
            "",
            f"curl -H 'Authorization: Bearer {token}' http://127.0.0.1:8000/",
            "",
            "Serving on loopback until you press Ctrl-C. For trying things out: anybody on this machine can use it.",
        )
        try:
            Event().wait(arguments.seconds)
        except KeyboardInterrupt:
            show("")
    return 0
