"""The fixtures for pytest: ``pytest_plugins = ["jwt_middleware.pytest_plugin"]`` in the root conftest.py gives them."""

from collections.abc import Iterator

import pytest

from .testing.identity_provider import IdentityProvider

# So that a failed assert in it says what it compared.
pytest.register_assert_rewrite("jwt_middleware.testing.store_contract")


@pytest.fixture
def identity_provider() -> Iterator[IdentityProvider]:
    """A fake identity provider for this test alone."""
    with IdentityProvider() as provider:
        yield provider
