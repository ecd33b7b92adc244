"""``mint``: a token signed with your own key, to try a service."""

from argparse import Namespace

from ..errors import ConfigurationError
from ..issuing.issuer import TokenIssuer
from .inputs import UsageError, read_key, read_object
from .output import show, show_json


def run(arguments: Namespace) -> int:
    """Print a new token."""
    try:
        issuer = TokenIssuer(
            read_key(arguments.key),
            audience=arguments.audience,
            issuer=arguments.issuer,
            algorithm=arguments.algorithm,
            access_lifetime=arguments.lifetime,
        )
        token = issuer.mint(
            arguments.subject,
            scopes=arguments.scope,
            claims=None if arguments.claims is None else read_object(arguments.claims, "claims"),
        )
    except (ConfigurationError, ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    if arguments.json:
        show_json({"access_token": token, "expires_in": arguments.lifetime})
    else:
        show(token)
    return 0
