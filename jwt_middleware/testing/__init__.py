"""Fakes for tests: an identity provider over real HTTP. What a session store must keep to: ``store_contract``."""

from .identity_provider import Asked, IdentityProvider, SigningKey, Target, signing_key

__all__ = ["Asked", "IdentityProvider", "SigningKey", "Target", "signing_key"]
