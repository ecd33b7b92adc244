"""A template of issuers: one identity provider, many tenants, one set of keys."""

import json
from typing import Any

import pytest

from jwt_middleware import ANY, ConfigurationError, Provider, ProviderResolver, Refusal, RemoteKeys, Verifier
from jwt_middleware.issuers import IssuerTemplate, fits_issuer
from jwt_middleware.testing.identity_provider import SigningKey, signing_key

from .keys.test_remote import Answer
from .support import NOW, token

TEMPLATE = "https://login.microsoftonline.com/{tenantid}/v2.0"
OURS, THEIRS = "11111111-2222-3333-4444-555555555555", "AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee"
KEY = signing_key(kid="shared")
pytestmark = pytest.mark.anyio


def issuer(tenant: str) -> str:
    return TEMPLATE.replace("{tenantid}", tenant)


def signed(tenant: str, key: SigningKey = KEY, **claims: Any) -> str:
    return token(key.private, "ES256", {"kid": key.jwk["kid"]}, **{"iss": issuer(tenant), "tid": tenant, **claims})


def verifier(*keys: dict[str, Any], tenants: Any = (OURS,)) -> Verifier:
    jwks = {"keys": [*keys] or [KEY.jwk]}
    return Verifier(Provider(key=jwks, issuer=TEMPLATE, tenants=tenants, audience="orders"), clock=lambda: NOW)


async def code(asking: Verifier, raw: str) -> str:
    try:
        await asking.verify(raw)
    except Refusal as refusal:
        return refusal.code if refusal.claim in (None, "iss") else f"{refusal.code} {refusal.claim}"
    return "good"


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        pytest.param(signed(OURS), "good", id="a tenant of ours"),
        pytest.param(signed(THEIRS), "wrong_issuer", id="a foreign tenant"),
        pytest.param(signed(OURS, tid=THEIRS), "invalid_claim tid", id="another tid"),
        pytest.param(signed(OURS, tid=OURS.replace("-", "")), "invalid_claim tid", id="tid in another spelling"),
        pytest.param(signed(OURS, tid=None), "missing_claim tid", id="no tid"),
        pytest.param(signed(OURS, tid=[OURS]), "invalid_claim tid", id="a list as tid"),
        pytest.param(signed(OURS, iss=TEMPLATE), "wrong_issuer", id="the template itself"),
        pytest.param(signed(OURS, iss=issuer("common")), "wrong_issuer", id="the common issuer"),
        pytest.param(signed(OURS, iss=issuer(f"{OURS}/{OURS}")), "wrong_issuer", id="two segments"),
        pytest.param(signed(OURS, iss=issuer(OURS) + "/"), "wrong_issuer", id="a slash more"),
        pytest.param(signed(OURS, iss=issuer(OURS) + "\n"), "wrong_issuer", id="a line's end"),
        pytest.param(signed(OURS, iss="https://evil.example/" + issuer(OURS)), "wrong_issuer", id="something before"),
        pytest.param(
            signed(OURS, iss=issuer(OURS).replace("line.com", "lineXcom")),
            "wrong_issuer",
            id="a letter for a dot",
        ),
        pytest.param(signed(OURS, signing_key(kid="shared")), "bad_signature", id="another key"),
    ],
)
async def test_a_token_is_of_a_tenant_that_is_accepted_and_says_so_itself(raw: str, outcome: str) -> None:
    assert await code(verifier(), raw) == outcome


async def test_any_tenant_is_accepted_only_where_that_is_said() -> None:
    asking = verifier(tenants=ANY)
    assert [await code(asking, signed(tenant)) for tenant in (OURS, THEIRS)] == ["good", "good"]
    assert await code(asking, signed(OURS, tid=THEIRS)) == "invalid_claim tid"


async def test_tenants_are_told_apart_in_any_case_of_letters() -> None:
    asking = verifier(tenants=[THEIRS.upper()])
    assert await code(asking, signed(THEIRS)) == "good"


@pytest.mark.parametrize(
    ("key_issuer", "ours", "theirs"),
    [
        pytest.param(TEMPLATE, "good", "good", id="the template"),
        pytest.param(issuer(OURS), "good", "bad_signature", id="one tenant"),
        pytest.param("https://sts.windows.net/{tenantid}/", "bad_signature", "bad_signature", id="another template"),
        pytest.param(None, "good", "good", id="none"),
        pytest.param(5, "good", "good", id="a number, which is no issuer"),
    ],
)
async def test_a_key_verifies_tokens_of_the_issuer_that_its_jwk_names(key_issuer: Any, ours: str, theirs: str) -> None:
    asking = verifier({**KEY.jwk, "issuer": key_issuer}, tenants=ANY)
    assert [await code(asking, signed(tenant)) for tenant in (OURS, THEIRS)] == [ours, theirs]


async def test_the_issuer_of_a_jwk_is_no_matter_where_issuers_share_no_keys() -> None:
    jwk = {**KEY.jwk, "issuer": issuer(THEIRS)}
    asking = Verifier(Provider(key=jwk, issuer=issuer(OURS), audience="orders"), clock=lambda: NOW)
    assert await code(asking, signed(OURS)) == "good"


def test_a_placeholder_is_filled_with_the_tenant_as_it_is() -> None:
    assert not fits_issuer(TEMPLATE, {"iss": TEMPLATE})
    assert not fits_issuer(TEMPLATE, {"iss": issuer("\\1"), "tid": 5})
    assert fits_issuer(TEMPLATE, {"iss": issuer("\\1"), "tid": "\\1"})


async def test_metadata_of_all_tenants_leads_to_the_keys() -> None:
    asked: list[str] = []

    async def fetch(url: str) -> Answer:
        asked.append(url)
        if url == "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration":
            document = f'{{"issuer": "{TEMPLATE}", "jwks_uri": "https://login.microsoftonline.com/common/keys"}}'
            return Answer(200, document.encode())
        return Answer(200, json.dumps({"keys": [KEY.jwk]}).encode())

    keys = RemoteKeys(issuer=TEMPLATE, fetch=fetch)
    asking = Verifier(Provider(issuer=TEMPLATE, tenants=[OURS], jwks=keys, audience="orders"), clock=lambda: NOW)
    assert await code(asking, signed(OURS)) == "good"
    assert await code(asking, signed(THEIRS)) == "wrong_issuer"
    assert len(asked) == 2
    assert Provider(issuer=TEMPLATE, tenants=[OURS], audience="orders").remote is not None


async def test_a_resolver_is_not_asked_about_tenants_of_a_template() -> None:
    asked: list[str] = []
    template = Provider(key=KEY.jwk, issuer=TEMPLATE, tenants=[OURS], audience="orders")
    asking = Verifier([template, ProviderResolver(asked.append)], clock=lambda: NOW)
    assert await code(asking, signed(OURS)) == "good"
    assert await code(asking, signed(THEIRS)) == "unknown_issuer"
    assert asked == [issuer(THEIRS)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"tenants": None}, "tenants is required beside a template", id="no tenants"),
        pytest.param({"tenants": []}, "tenants must be a list of GUIDs", id="an empty list"),
        pytest.param({"tenants": OURS}, "tenants must be a list of GUIDs", id="a text"),
        pytest.param({"tenants": ["contoso.example"]}, "is not a GUID", id="a name"),
        pytest.param({"tenants": [5]}, "is not a GUID", id="a number"),
        pytest.param({"issuer": "https://login.example"}, "tenants needs a template", id="no template"),
        pytest.param({"issuer": [TEMPLATE, "https://login.example"]}, "a template stands alone", id="beside another"),
        pytest.param({"issuer": "https://{tenant}.example/"}, "a whole segment of the path", id="in the host"),
        pytest.param({"issuer": "https://a.example/x{tenant}/"}, "a whole segment of the path", id="half a segment"),
        pytest.param({"issuer": "https://a.example/{a}/{b}"}, "a template has one placeholder", id="two"),
        pytest.param({"issuer": "https://a.example/?t={tenant}"}, "a whole segment of the path", id="in the query"),
        pytest.param({"issuer": "https://a.example/{}"}, "a template has one placeholder", id="without a name"),
    ],
)
def test_a_template_that_cannot_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Provider(**{"key": KEY.jwk, "issuer": TEMPLATE, "tenants": [OURS], "audience": "orders", **arguments})


def test_a_template_ends_anywhere_in_the_path() -> None:
    template = IssuerTemplate("https://a.example/{id}", None)
    assert (template.find_tenant(f"https://a.example/{OURS}"), template.common) == (OURS, "https://a.example/common")


@pytest.mark.parametrize("who", ["common", "organizations", "consumers"])
@pytest.mark.parametrize("path", ["/v2.0", "/v2.0/", "/", ""])
def test_an_issuer_that_stands_for_many_tenants_is_refused_with_the_template(who: str, path: str) -> None:
    for key in (None, KEY.jwk):
        with pytest.raises(ConfigurationError, match=r"issuer='https://login.microsoftonline.com/{tenantid}/v2.0'"):
            Provider(issuer=f"https://login.microsoftonline.com/{who}{path}", audience="orders", key=key)
    # A tenant may be named by a domain.
    assert Provider(issuer=f"https://login.microsoftonline.com/{who}.example{path}", key=KEY.jwk, audience="orders")
