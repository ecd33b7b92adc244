"""No request gets an answer that the schema does not describe, and none a 500. (schemathesis)"""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from .documented import make_app

app = make_app()
schema = schemathesis.openapi.from_asgi("/openapi.json", app)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def access_token() -> str:
    """Of a session of the test's own: one of the requests is a logout."""
    answer = TestClient(app).post("/auth/login", data={"username": "ada", "password": "lovelace"})
    token: str = answer.json()["access_token"]
    return token


@schema.parametrize()
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@pytest.mark.parametrize("authorized", [True, False], ids=["with a token", "anonymous"])
def test_every_answer_is_documented(case: Case[Any], access_token: str, authorized: bool) -> None:
    headers = {"Authorization": f"Bearer {access_token}"} if authorized else {}
    case.call_and_validate(headers=headers, checks=CHECKS)
