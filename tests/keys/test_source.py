"""Keys from a source of one's own, and keys of the configuration that are not used."""

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from jwt_middleware import (
    ConfigurationError,
    KeySet,
    KeysHealth,
    KeysUnavailable,
    Provider,
    Refusal,
    Verifier,
)
from jwt_middleware.testing.identity_provider import SigningKey, signing_key

from ..support import NOW, token
from ..support.keys import RSA, certificate, jwk, private_pem, token_by
from ..support.logs import logged

OLD, NEW = signing_key(kid="old"), signing_key(kid="new")


class Vault:
    """A source as a user writes it."""

    def __init__(self, *keys: SigningKey) -> None:
        self.current = KeySet.load({"keys": [key.jwk for key in keys]})
        self.newer: KeySet | None = None
        self.error: Exception | None = None
        self.asked: list[tuple[str | None, str]] = []

    async def refreshed(self, kid: str | None, algorithm: str) -> KeySet:
        self.asked.append((kid, algorithm))
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.current = self.newer or self.current
        return self.current


def signed_by(key: SigningKey) -> str:
    return token(key.private, "ES256", {"kid": key.jwk["kid"]})


def verifier(vault: Any, **options: Any) -> Verifier:
    return Verifier(Provider(jwks=vault, audience="orders", **options), clock=lambda: NOW)


@pytest.mark.anyio
async def test_a_source_of_ones_own_is_read_and_asked_for_newer_keys() -> None:
    vault = Vault(OLD)
    asking = verifier(vault)
    assert (await asking.verify(signed_by(OLD))).subject == "ada"
    assert vault.asked == []
    vault.newer = KeySet.load(NEW.jwk)
    assert (await asking.verify(signed_by(NEW))).subject == "ada"
    assert vault.asked == [("new", "ES256")]
    # What a key that is gone has verified is not remembered.
    with pytest.raises(Refusal, match="unknown_key"):
        await asking.verify(signed_by(OLD))


@pytest.mark.anyio
@pytest.mark.parametrize("error", [KeysUnavailable(retry_after=7), OSError("the vault is down")])
async def test_a_source_that_fails_is_an_outage_and_not_a_bad_token(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    vault = Vault(OLD)
    vault.error = error
    with pytest.raises(KeysUnavailable):
        await verifier(vault).verify(signed_by(NEW))
    assert isinstance(error, Refusal) or any("OSError" in text for _, text in logged(caplog))


def test_the_health_of_a_source_is_its_own_or_what_can_be_seen() -> None:
    vault: Any = Vault(OLD, NEW)
    assert verifier(vault).health()["jwt"] == KeysHealth(2)
    vault.health = KeysHealth(2, error="sealed")
    assert verifier(vault).health()["jwt"].error == "sealed"


def test_a_source_may_stand_beside_keys_of_the_configuration() -> None:
    provider = Provider(jwks=Vault(OLD), key=NEW.jwk, audience="orders", algorithms=["ES256"])
    assert {key.kid for key in provider.keys.current.keys} == {"old", "new"}


@pytest.mark.parametrize("jwks", [5, object(), {"keys": []}, lambda: None])
def test_what_is_no_source_is_refused(jwks: Any) -> None:
    with pytest.raises(ConfigurationError, match="jwks must be an address, the path of a file"):
        Provider(jwks=jwks, audience="orders")


@pytest.mark.anyio
async def test_one_unusable_key_of_a_configured_set_does_not_stop_the_good_one_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    broken = {**jwk(RSA), "n": "!!", "kid": "broken"}
    encryption = {**jwk(RSA), "use": "enc", "kid": "encryption"}
    provider = Provider(key={"keys": [broken, OLD.jwk, encryption]}, audience="orders")
    reasons = (
        "key 1 (kid 'broken'): the JWK's 'n' is not base64url text",
        "key 3 (kid 'encryption'): the JWK's use is 'enc', not 'sig'",
    )
    assert provider.health == KeysHealth(1, skipped=reasons)
    assert logged(caplog) == [
        (logging.WARNING, f"keys of provider 'jwt': skipped {reasons[0]}"),
        (logging.INFO, f"keys of provider 'jwt': skipped {reasons[1]}"),
    ]
    assert (await Verifier(provider, clock=lambda: NOW).verify(signed_by(OLD))).subject == "ada"


@pytest.mark.anyio
async def test_a_dict_of_key_ids_and_certificates_is_a_set_of_keys() -> None:
    pem = certificate(RSA).decode()
    asking = Verifier(
        Provider(key={"8c9eb9": pem, "other": "-----BEGIN nothing"}, audience="orders"), clock=lambda: NOW
    )
    assert (await asking.verify(token_by("RS256", RSA, {"kid": "8c9eb9"}))).kid == "8c9eb9"
    assert asking.health()["jwt"].skipped == ("key 2 (kid 'other'): the PEM text cannot be loaded",)
    with pytest.raises(Refusal, match="unknown_key"):
        await asking.verify(token_by("RS256", RSA, {"kid": "8c9eb"}))


def test_a_dict_of_key_ids_and_private_keys_verifies_with_their_public_halves() -> None:
    (key,) = KeySet.load({"a": private_pem(RSA).decode()}).keys
    assert (key.kid, key.material) == ("a", RSA.public_key())


@pytest.mark.parametrize("key", [{}, {"a": "a secret that has thirty-two bytes or more"}, {"a": 5}])
def test_any_other_dict_is_no_set_of_keys(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="the JWK has no 'kty'"):
        Provider(key=key, audience="orders")
