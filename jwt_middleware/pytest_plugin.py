"""The fixtures for pytest: ``pytest_plugins = ["jwt_middleware.pytest_plugin"]`` in the root conftest.py gives them."""

from collections.abc import Iterator

import pytest

from .testing import IdentityProvider


@pytest.fixture
def identity_provider() -> Iterator[IdentityProvider]:
    """A fake identity provider of this test's own."""
    with IdentityProvider() as provider:
        yield provider
