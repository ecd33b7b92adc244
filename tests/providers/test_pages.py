"""Do the lines of each provider's page accept its tokens, and refuse what is commonly sent instead?

The app is the page's, copied literally. Only the network below it is replaced: documents of the documented shape, with
keys of our own, are served at the provider's addresses.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpcore2
import jwt
import pytest
from starlette.testclient import TestClient

from jwt_middleware.testing import SigningKey, signing_key

from ..support import load_balancer
from ..support.clients import bearer
from ..support.documents import example
from ..support.keys import SIGNERS, pem

TENANT = "11111111-2222-3333-4444-555555555555"
ENTRA_API = "66666666-7777-8888-9999-000000000000"
ENTRA = f"https://login.microsoftonline.com/{TENANT}/v2.0"
AUTH0 = "https://shop.eu.auth0.com/"
OKTA = "https://shop.okta.com/oauth2/default"
KEYCLOAK = "https://login.shop.example/realms/shop"
COGNITO = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI"
COGNITO_CLIENT = "1h57kf5cpq17m0eml12EXAMPLE"
FIREBASE = "https://securetoken.google.com/shop-12345"
GOOGLE = "https://accounts.google.com"
GOOGLE_CLIENT = "1234567890-abc.apps.googleusercontent.com"
CLERK = "https://shop.clerk.accounts.dev"
SUPABASE = "https://abcdefghijklmnop.supabase.co/auth/v1"
WORKOS = "https://api.workos.com"
ZITADEL = "https://shop.zitadel.cloud"
AUTHENTIK = "https://login.shop.example/application/o/orders/"
DESCOPE = "https://api.descope.com/P2PqjhPcC8Hri2nXUY7f234F"

KEY = signing_key("RS256")
OTHER = signing_key("RS256")


def without(key: SigningKey, *members: str) -> dict[str, Any]:
    return {name: value for name, value in key.jwk.items() if name not in members}


def documents(issuer: str, metadata: str, jwks: str, *members: str) -> dict[str, Any]:
    """What a provider serves; its keys are published without ``members``."""
    return {metadata: {"issuer": issuer, "jwks_uri": jwks}, jwks: {"keys": [without(KEY, *members)]}}


SERVED: dict[str, Any] = {
    # Entra ID publishes its keys without `alg`.
    **documents(
        ENTRA,
        f"{ENTRA}/.well-known/openid-configuration",
        f"https://login.microsoftonline.com/{TENANT}/discovery/v2.0/keys",
        "alg",
    ),
    **documents(AUTH0, f"{AUTH0}.well-known/openid-configuration", f"{AUTH0}.well-known/jwks.json"),
    **documents(OKTA, f"{OKTA}/.well-known/openid-configuration", f"{OKTA}/v1/keys"),
    **documents(KEYCLOAK, f"{KEYCLOAK}/.well-known/openid-configuration", f"{KEYCLOAK}/protocol/openid-connect/certs"),
    **documents(COGNITO, f"{COGNITO}/.well-known/openid-configuration", f"{COGNITO}/.well-known/jwks.json"),
    **documents(
        FIREBASE,
        f"{FIREBASE}/.well-known/openid-configuration",
        "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
    ),
    **documents(GOOGLE, f"{GOOGLE}/.well-known/openid-configuration", "https://www.googleapis.com/oauth2/v3/certs"),
    **documents(CLERK, f"{CLERK}/.well-known/openid-configuration", f"{CLERK}/.well-known/jwks.json"),
    f"{SUPABASE}/.well-known/jwks.json": {"keys": [KEY.jwk]},
    f"{WORKOS}/sso/jwks/client_123456789": {"keys": [KEY.jwk]},
    **documents(ZITADEL, f"{ZITADEL}/.well-known/openid-configuration", f"{ZITADEL}/oauth/v2/keys"),
    **documents(AUTHENTIK, f"{AUTHENTIK}.well-known/openid-configuration", f"{AUTHENTIK}jwks/"),
    f"{load_balancer.KEYS}{load_balancer.KID}": pem(load_balancer.KEY),
    **documents(DESCOPE, f"{DESCOPE}/.well-known/openid-configuration", f"{DESCOPE}/.well-known/jwks.json"),
}


async def streamed(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def respond(pool: object, request: httpcore2.Request) -> httpcore2.Response:
        url = request.url
        document = SERVED.get(f"{url.scheme.decode()}://{url.host.decode()}{url.target.decode()}")
        if document is None:
            return httpcore2.Response(404, content=streamed(b""))
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return httpcore2.Response(200, content=streamed(body))

    monkeypatch.setattr(httpcore2.AsyncConnectionPool, "handle_async_request", respond)


def token(claims: Mapping[str, Any], key: SigningKey = KEY) -> str:
    now = int(time.time())
    header = {"kid": KEY.jwk["kid"]}
    return jwt.encode({"iat": now, "exp": now + 900, **claims}, key.private, algorithm="RS256", headers=header)


def refusal(page: str, claims: Mapping[str, Any], *parts: str, key: SigningKey = KEY) -> str | None:
    """The code with which the app of ``page`` refuses a token with ``claims``; None where it accepts it."""
    app = example(f"docs/providers/{page}.rst", "JWTMiddleware", *parts)["app"]
    with TestClient(app) as client:
        response = client.get("/", headers=bearer(token(claims, key)))
    # The app has no routes: whoever gets through is not found.
    if response.status_code == 404:
        return None
    code: str = response.json()["code"]
    return code


ENTRA_TOKEN = {"iss": ENTRA, "aud": ENTRA_API, "sub": "pairwise", "oid": "a-user", "tid": TENANT, "scp": "orders.read"}
AUTH0_TOKEN = {
    "iss": AUTH0,
    "sub": "auth0|123456",
    "aud": ["https://api.shop.example", "https://shop.eu.auth0.com/userinfo"],
    "azp": "a-client",
    "scope": "openid profile",
    "permissions": ["orders:read"],
}
OKTA_TOKEN = {"iss": OKTA, "aud": "api://default", "sub": "ada@shop.example", "cid": "0oa1", "scp": ["orders.read"]}
KEYCLOAK_TOKEN = {
    "iss": KEYCLOAK,
    "aud": ["orders", "account"],
    "sub": "a-user",
    "typ": "Bearer",
    "realm_access": {"roles": ["orders:read"]},
}
COGNITO_TOKEN = {
    "iss": COGNITO,
    "sub": "a-user",
    "client_id": COGNITO_CLIENT,
    "token_use": "access",
    "cognito:groups": ["staff"],
}
FIREBASE_TOKEN = {"iss": FIREBASE, "aud": "shop-12345", "sub": "a-user", "user_id": "a-user", "firebase": {}}
GOOGLE_TOKEN = {"iss": GOOGLE, "aud": GOOGLE_CLIENT, "azp": GOOGLE_CLIENT, "sub": "1234", "hd": "shop.example"}


@pytest.mark.parametrize(
    ("page", "parts", "claims"),
    [
        pytest.param("entra", [], ENTRA_TOKEN, id="Entra ID"),
        pytest.param("auth0", [], AUTH0_TOKEN, id="Auth0"),
        pytest.param("okta", [], OKTA_TOKEN, id="Okta"),
        pytest.param("keycloak", [], KEYCLOAK_TOKEN, id="Keycloak"),
        pytest.param("cognito", [], COGNITO_TOKEN, id="Cognito"),
        pytest.param("google", ["securetoken"], FIREBASE_TOKEN, id="Firebase"),
        pytest.param("google", ["accounts.google"], GOOGLE_TOKEN, id="Google"),
        pytest.param("clerk", [], {"iss": CLERK, "sub": "user_1", "azp": "https://shop.example"}, id="Clerk"),
        pytest.param("supabase", [], {"iss": SUPABASE, "sub": "1", "aud": "authenticated", "role": "x"}, id="Supabase"),
        pytest.param("workos", [], {"iss": WORKOS, "sub": "user_1", "sid": "session_1"}, id="WorkOS"),
        pytest.param("zitadel", [], {"iss": ZITADEL, "sub": "1", "aud": ["9", "123456789012345678"]}, id="Zitadel"),
        pytest.param("authentik", [], {"iss": AUTHENTIK, "sub": "1", "aud": "CLIENT-ID"}, id="Authentik"),
        pytest.param("descope", [], {"iss": DESCOPE, "sub": "1", "aud": "orders"}, id="Descope"),
    ],
)
def test_the_lines_of_the_page_accept_the_providers_token(page: str, parts: list[str], claims: dict[str, Any]) -> None:
    assert refusal(page, claims, *parts) is None
    assert refusal(page, claims, *parts, key=OTHER) == "bad_signature"


# What the log line of a mistake must name: the value that would be right.
RIGHT = {
    ("entra", "wrong_issuer"): ENTRA,
    ("entra", "wrong_audience"): ENTRA_API,
    ("auth0", "wrong_issuer"): AUTH0,
    ("auth0", "wrong_audience"): "https://api.shop.example",
    ("okta", "wrong_issuer"): OKTA,
    ("okta", "wrong_audience"): "api://default",
    ("okta", "missing_claim"): "claim=cid",
    ("keycloak", "wrong_issuer"): KEYCLOAK,
    ("keycloak", "wrong_audience"): "expected=orders",
    ("keycloak", "missing_claim"): "claim=aud",
    ("cognito", "wrong_type"): "expected=an access token",
    ("cognito", "wrong_issuer"): COGNITO,
    ("cognito", "wrong_audience"): COGNITO_CLIENT,
    ("securetoken", "wrong_audience"): "shop-12345",
    ("securetoken", "wrong_issuer"): FIREBASE,
    ("accounts.google", "wrong_audience"): GOOGLE_CLIENT,
    ("accounts.google", "wrong_issuer"): GOOGLE,
    ("accounts.google", "invalid_claim"): "validate",
}


def but(claims: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("page", "claims", "code"),
    [
        pytest.param(
            "entra",
            but(ENTRA_TOKEN, iss=f"https://sts.windows.net/{TENANT}/"),
            "wrong_issuer",
            id="Entra ID: a version 1 token",
        ),
        pytest.param(
            "entra",
            but(ENTRA_TOKEN, aud="00000003-0000-0000-c000-000000000000"),
            "wrong_audience",
            id="Entra ID: a token for Graph",
        ),
        pytest.param("entra", but(ENTRA_TOKEN, aud="a-client"), "wrong_audience", id="Entra ID: an ID token"),
        pytest.param("auth0", but(AUTH0_TOKEN, aud="a-client"), "wrong_audience", id="Auth0: an ID token"),
        pytest.param(
            "auth0", but(AUTH0_TOKEN, iss=AUTH0.rstrip("/")), "wrong_issuer", id="Auth0: an issuer without its slash"
        ),
        pytest.param(
            "auth0",
            but(AUTH0_TOKEN, aud="https://other.example"),
            "wrong_audience",
            id="Auth0: a token for another API",
        ),
        pytest.param(
            "okta",
            but(OKTA_TOKEN, iss="https://shop.okta.com", aud="https://shop.okta.com"),
            "wrong_issuer",
            id="Okta: a token of the org authorization server",
        ),
        pytest.param("okta", but(OKTA_TOKEN, aud="0oa1"), "wrong_audience", id="Okta: an ID token"),
        pytest.param("okta", but(OKTA_TOKEN, cid=None), "missing_claim", id="Okta: a token without a client"),
        pytest.param(
            "keycloak", but(KEYCLOAK_TOKEN, aud="account"), "wrong_audience", id="Keycloak: no audience mapper"
        ),
        pytest.param("keycloak", but(KEYCLOAK_TOKEN, aud=None), "missing_claim", id="Keycloak: no audience at all"),
        pytest.param(
            "keycloak",
            but(KEYCLOAK_TOKEN, iss="http://localhost:8080/realms/shop"),
            "wrong_issuer",
            id="Keycloak: asked at another address",
        ),
        pytest.param(
            "cognito",
            but(COGNITO_TOKEN, token_use="id", aud=COGNITO_CLIENT, client_id=None),
            "wrong_type",
            id="Cognito: an ID token",
        ),
        pytest.param(
            "cognito",
            but(COGNITO_TOKEN, client_id="another"),
            "wrong_audience",
            id="Cognito: another client of the pool",
        ),
        pytest.param(
            "cognito",
            but(COGNITO_TOKEN, iss=COGNITO.replace("AbCdEfGhI", "Other")),
            "wrong_issuer",
            id="Cognito: another user pool",
        ),
    ],
)
def test_plausible_mistakes_are_refused_with_the_code_of_the_page(
    page: str, claims: dict[str, Any], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert refusal(page, claims) == code
    assert RIGHT[page, code] in caplog.text


@pytest.mark.parametrize(
    ("part", "claims", "code"),
    [
        pytest.param("securetoken", but(FIREBASE_TOKEN, aud="other"), "wrong_audience", id="another project"),
        pytest.param("securetoken", but(FIREBASE_TOKEN, iss=GOOGLE), "wrong_issuer", id="a token of Google's own"),
        pytest.param("accounts.google", but(GOOGLE_TOKEN, aud="x"), "wrong_audience", id="another client"),
        pytest.param("accounts.google", but(GOOGLE_TOKEN, hd=None), "invalid_claim", id="no account of ours"),
        pytest.param(
            "accounts.google", but(GOOGLE_TOKEN, iss="accounts.google.com"), "wrong_issuer", id="the old issuer"
        ),
    ],
)
def test_plausible_mistakes_with_google_are_refused(
    part: str, claims: dict[str, Any], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert refusal("google", claims, part) == code
    assert RIGHT[part, code] in caplog.text


@pytest.mark.parametrize(
    ("token", "status"),
    [
        pytest.param(load_balancer.made(), 404, id="its own"),
        pytest.param(load_balancer.made(header={"signer": "arn:aws:elasticloadbalancing:x"}), 401, id="another one's"),
        pytest.param(load_balancer.made(header={"client": "other"}), 401, id="another client's"),
        pytest.param(load_balancer.made(SIGNERS["ES256K"]), 401, id="a forgery"),
    ],
)
def test_the_lines_of_the_page_accept_the_tokens_of_the_load_balancer_in_front(token: str, status: int) -> None:
    app = example("docs/providers/load-balancer.rst", "JWTMiddleware")["app"]
    with TestClient(app) as client:
        # The app has no routes: whoever gets through is not found.
        assert client.get("/", headers={"x-amzn-oidc-data": token}).status_code == status
        assert client.get("/", headers=bearer(token)).status_code == 401
