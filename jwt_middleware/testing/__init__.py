"""For tests: fake users, and an identity provider over real HTTP. ``store_contract`` checks a session store."""

from .fake_users import as_user, headers_for
from .identity_provider import Asked, IdentityProvider, SigningKey, Target, signing_key

__all__ = ["Asked", "IdentityProvider", "SigningKey", "Target", "as_user", "headers_for", "signing_key"]
