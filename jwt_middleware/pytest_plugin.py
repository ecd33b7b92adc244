"""The fixtures for pytest: ``pytest_plugins = ["jwt_middleware.pytest_plugin"]`` in the root conftest.py gives them."""

from collections.abc import Iterator

import pytest

from .testing.identity_provider import IdentityProvider

# So that a failed assert of it says what it compared.
pytest.register_assert_rewrite("jwt_middleware.testing.store_contract")


@pytest.fixture
def identity_provider() -> Iterator[IdentityProvider]:
    """A fake identity provider of this test's own."""
    with IdentityProvider() as provider:
        yield provider
