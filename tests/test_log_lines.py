"""Is the log line alone enough? For each mistake of the table, the fact in the line that names the cause."""

import logging
from typing import Any

import pytest

from jwt_middleware import JWTMiddleware

from .support import NOW, bare_client, echo, token
from .test_explanation import ENTRA, ISSUER, MISTAKES, provider

LINES = {
    # The text.
    "empty": "malformed_token (found=an empty text)",
    "scheme twice": "found=the scheme twice, Bearer Bearer",
    "quoted": "found=quotation marks",
    "line": "found=white space",
    "percent": "found=percent-encoding",
    "opaque": "found=an opaque text",
    "cut": "found=2 segments instead of three",
    "padded": "found=padding",
    "base64": "found=standard base64",
    "part": "found=a payload that is not",
    "list": "found=a header that is not",
    "crit": "found=an extension in the header that is not understood here, crit",
    "no alg": "found=no alg in the header",
    "twice": "found=a payload that is not",
    "JWE": "encrypted_token (found=five segments)",
    "large": "token_too_large (expected=16384 bytes at most, found=20000 bytes)",
    # The issuer.
    "slash": f"expected={ISSUER}, found={ISSUER}/",
    "scheme": f"expected={ISSUER}, found=http://login.example",
    "case": f"expected={ISSUER}, found=https://Login.example",
    "Entra v1": f"expected={ENTRA}, found=https://sts.windows.net/11111111",
    "Google": f"expected={ISSUER}, found=accounts.google.com",
    "unknown issuer": f"expected=https://b.example, {ISSUER}, found=https://other.example",
    "no issuer": f"missing_claim (claim=iss, expected={ISSUER}",
    # Key and signature.
    "unknown kid": "expected=old, provider=jwt, kid=new",
    "HS for RSA": "expected=PS256, PS384, PS512, RS256, RS384, ..., found=HS256",
    "RS for a secret": "expected=HS256, found=RS256",
    "PS for RS": "expected=RS256, found=PS512",
    "a refresh token of this package": "unknown_key (expected=old, found=what looks like a refresh token",
    "Keycloak's refresh token": "found=HS512, in what looks like a refresh token",
    "none": "found=none",
    "no signature": "found=no signature",
    "other secret": "bad_signature (expected=a signature by the secret, found=another HS256 signature",
    "base64 secret": "expected=a signature by the secret, which looks like base64",
    "secret with a space": "expected=a signature by the secret, which begins or ends with white space",
    "changed": "bad_signature (expected=a signature by the RSA key, found=another RS256 signature",
    "Microsoft Graph": "found=another RS256 signature, and a nonce in the header",
    # Time.
    "expired": "expired (claim=exp, seconds_off=40",
    "nbf": "not_yet_valid (claim=nbf, seconds_off=30",
    "milliseconds": "claim=iat, found=milliseconds instead of seconds",
    "old": "too_old (claim=iat, expected=60 s at most, found=7300 s",
    "no iat": "missing_claim (claim=iat, expected=iat for max_token_age",
    "no exp": "missing_claim (claim=exp",
    "exp text": "claim=exp, expected=a number of seconds, found=a text",
    # The audience and the kind of token.
    "wrong audience": "wrong_audience (claim=aud, expected=orders, found=billing",
    "Keycloak's account": "expected=orders, found=account",
    "api:// in front": "expected=orders, found=api://orders",
    "audience with a slash": "expected=https://api.example, found=https://api.example/",
    "audience is Graph": "expected=orders, found=00000003-0000-0000-c000-000000000000",
    "ID token": "expected=orders, found=client-1, in what looks like an ID token",
    "Keycloak's ID token": "expected=orders, found=client-1, in what looks like an ID token",
    "Cognito": "claim=aud, expected=orders, found='client_id=c-1'",
    "no audience": "missing_claim (claim=aud, expected=orders",
    "typ": "wrong_type (expected=at+jwt, found=JWT",
    # Other claims.
    "bound to its sender": "sender_constrained (claim=cnf, expected=no cnf, found=jkt",
    "required": "missing_claim (claim=tenant",
    "validate": "invalid_claim (expected=validate returns True, found=False",
}
"""What the line of each mistake says, by the mistake's id."""


def test_every_mistake_has_a_line() -> None:
    assert sorted(LINES) == sorted(str(one.id) for one in MISTAKES)
    assert len(LINES) >= 40


@pytest.mark.parametrize(
    ("raw", "settings", "line"),
    [pytest.param(one.values[0], one.values[1], LINES[str(one.id)], id=one.id) for one in MISTAKES],
)
def test_the_log_line_alone_names_the_cause(
    raw: str, settings: list[dict[str, Any]], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jwt_middleware")
    providers = [provider(**one) for one in settings or [{}]]
    app = JWTMiddleware(echo, providers=providers, clock=lambda: NOW)
    bare_client(app).get("/items", headers={"authorization": f"Bearer {raw}"})
    lines = [record.getMessage() for record in caplog.records if record.name == "jwt_middleware.requests"]
    assert len(lines) == 1
    assert lines[0].startswith("refused GET /items from testclient: ")
    assert line in lines[0]
    # No more of a token is in it than claims that say whose and what for it is.
    assert not raw or raw not in lines[0]


@pytest.mark.parametrize("size", [16_385, 20_000])
def test_too_large_a_token_is_measured_wherever_it_is(size: int, caplog: pytest.LogCaptureFixture) -> None:
    app = JWTMiddleware(echo, providers=provider())
    bare_client(app).get("/", headers={"authorization": f"Bearer {'a' * size}"})
    assert f"(expected=16384 bytes at most, found={size} bytes)" in caplog.text


def test_no_line_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    secret = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldA=="
    app = JWTMiddleware(echo, providers=provider(key=secret))
    bare_client(app).get("/", headers={"authorization": f"Bearer {token()}"})
    assert "which looks like base64" in caplog.text
    assert secret not in caplog.text
