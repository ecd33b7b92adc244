"""The fake identity provider does what it is told, over real HTTP."""

import gzip
import time
from typing import Any

import httpx2
import jwt
import pytest

from jwt_middleware.testing.identity_provider import IdentityProvider, signing_key


def get(url: str, **headers: str) -> httpx2.Response:
    return httpx2.get(url, headers=headers, timeout=5)


def test_it_publishes_metadata_and_the_keys_that_its_tokens_verify_with(identity_provider: IdentityProvider) -> None:
    metadata = get(f"{identity_provider.issuer}/.well-known/openid-configuration").json()
    assert metadata == {"issuer": identity_provider.issuer, "jwks_uri": identity_provider.jwks_uri}
    jwks = jwt.PyJWKSet.from_dict(get(metadata["jwks_uri"]).json())
    token = identity_provider.mint(aud="orders", sub=None, scope="read")
    kid = jwt.get_unverified_header(token)["kid"]
    claims = jwt.decode(token, jwks[kid], ["ES256"], audience="orders", issuer=identity_provider.issuer)
    assert claims["exp"] == claims["iat"] + 900
    assert {name: claims[name] for name in claims if name not in ("iat", "exp")} == {
        "iss": identity_provider.issuer,
        "aud": "orders",
        "scope": "read",
    }
    assert (identity_provider.fetches, identity_provider.discoveries) == (1, 1)
    assert get(f"{identity_provider.issuer}/elsewhere").status_code == 404


def test_it_serves_at_the_port_that_is_asked_for() -> None:
    with IdentityProvider() as first:
        port = int(first.issuer.rpartition(":")[2])
    with IdentityProvider(port=port) as second:
        assert second.issuer == first.issuer
        assert get(second.jwks_uri).status_code == 200
        with pytest.raises(OSError, match="in use"):
            IdentityProvider(port=port)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_it_rotates_its_keys(algorithm: str) -> None:
    with IdentityProvider(algorithm=algorithm) as provider:
        first = provider.signing_key
        second = provider.rotate()
        third = provider.rotate(kid="third", use=None)
        assert get(provider.jwks_uri).json() == {"keys": [third.jwk, second.jwk]}
        assert third.jwk["kid"] == "third"
        assert "use" not in third.jwk
        assert third.jwk["alg"] == algorithm
        assert jwt.get_unverified_header(provider.mint())["kid"] == "third"
        assert jwt.get_unverified_header(provider.mint(first, header={"kid": None})) == {"typ": "JWT", "alg": algorithm}
        provider.rotate(keep=0)
        assert get(provider.jwks_uri).json() == {"keys": [provider.signing_key.jwk]}


def test_it_makes_keys_for_no_other_algorithm() -> None:
    with pytest.raises(ValueError, match="algorithm must be ES256, RS256 or EdDSA, not 'HS256'"):
        signing_key("HS256")


@pytest.mark.parametrize("path", ["", "/", "/tenant", "/tenant/"])
def test_its_issuer_may_have_a_path(path: str) -> None:
    with IdentityProvider(path=path) as provider:
        assert provider.issuer.endswith(path)
        address = f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration"
        assert get(address).json()["issuer"] == provider.issuer
        assert get(provider.jwks_uri).status_code == 200


def test_a_path_without_a_slash_is_no_path() -> None:
    with pytest.raises(ValueError, match="path must start with '/', not 'tenant'"):
        IdentityProvider(path="tenant")


def test_its_documents_can_be_changed(identity_provider: IdentityProvider) -> None:
    identity_provider.metadata["issuer"] = "https://evil.example"
    identity_provider.jwks["keys"] = []
    identity_provider.headers["Cache-Control"] = "max-age=60"
    assert (
        get(f"{identity_provider.issuer}/.well-known/openid-configuration").json()["issuer"] == "https://evil.example"
    )
    answer = get(identity_provider.jwks_uri)
    assert (answer.json(), answer.headers["cache-control"]) == ({"keys": []}, "max-age=60")


def test_it_answers_304_for_an_etag_that_it_gave(identity_provider: IdentityProvider) -> None:
    tag = get(identity_provider.jwks_uri).headers["etag"]
    assert get(identity_provider.jwks_uri, **{"if-none-match": tag}).status_code == 304
    identity_provider.rotate()
    assert get(identity_provider.jwks_uri, **{"if-none-match": tag}).status_code == 200
    assert [request.headers.get("if-none-match") for request in identity_provider.requests] == [None, tag, tag]


def test_it_fails_until_it_recovers(identity_provider: IdentityProvider) -> None:
    identity_provider.fail(503)
    assert get(identity_provider.jwks_uri).status_code == 503
    identity_provider.answer(b"<html>", status=200, headers={"Content-Type": "text/html"})
    assert get(identity_provider.jwks_uri).text == "<html>"
    identity_provider.redirect("https://evil.example/")
    answer = get(identity_provider.jwks_uri)
    assert (answer.status_code, answer.headers["location"]) == (302, "https://evil.example/")
    identity_provider.flood(2**20)
    assert len(get(identity_provider.jwks_uri).content) == 2**20
    identity_provider.gzip_bomb(2**20)
    assert get(identity_provider.jwks_uri).content == bytes(2**20)
    with httpx2.stream("GET", identity_provider.jwks_uri) as response:
        assert len(gzip.decompress(b"".join(response.iter_raw()))) == 2**20
    identity_provider.recover()
    assert get(identity_provider.jwks_uri).status_code == 200


@pytest.mark.parametrize(("at", "other"), [("jwks", "metadata"), ("metadata", "jwks")])
def test_it_fails_at_one_document_alone(identity_provider: IdentityProvider, at: Any, other: str) -> None:
    identity_provider.fail(at=at)
    addresses = {
        "jwks": identity_provider.jwks_uri,
        "metadata": f"{identity_provider.issuer}/.well-known/openid-configuration",
    }
    assert (get(addresses[at]).status_code, get(addresses[other]).status_code) == (500, 200)


def test_it_answers_late_not_at_all_or_byte_by_byte(identity_provider: IdentityProvider) -> None:
    identity_provider.delay = 0.2
    start = time.monotonic()
    assert get(identity_provider.jwks_uri).status_code == 200
    assert time.monotonic() - start > 0.15
    identity_provider.delay = 0
    identity_provider.stall()
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(identity_provider.jwks_uri, timeout=0.1)
    identity_provider.drip(0.05)
    read = 0
    with httpx2.stream("GET", identity_provider.jwks_uri) as response:
        for chunk in response.iter_raw():
            read += len(chunk)
            if read >= 3:
                break
    assert read == 3
    # Nobody hangs on when it recovers.
    identity_provider.stall()
    identity_provider.recover()
    assert get(identity_provider.jwks_uri).status_code == 200


def test_it_refuses_connections_and_comes_back_at_the_same_address(identity_provider: IdentityProvider) -> None:
    address = identity_provider.jwks_uri
    identity_provider.refuse()
    with pytest.raises(httpx2.ConnectError):
        get(address)
    identity_provider.recover()
    assert identity_provider.jwks_uri == address
    assert get(address).status_code == 200


def test_it_ends_with_its_block() -> None:
    with IdentityProvider() as provider:
        provider.stall()
    with pytest.raises(httpx2.ConnectError):
        get(provider.jwks_uri)
    provider.close()


def test_what_is_closed_does_not_serve_again() -> None:
    provider = IdentityProvider()
    provider.close()
    provider.recover()
    provider.fail()
    with pytest.raises(httpx2.ConnectError):
        get(provider.jwks_uri)
