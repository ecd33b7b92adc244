from typing import Any

import pytest
from starlette.authentication import AuthCredentials, BaseUser

from jwt_middleware import JWTCredentials, JWTUser, Provider, Token, Verifier
from jwt_middleware.refuser import Refuser

from .support import NOW, SECRET, token


async def verified(subject_claim: str | None = "sub", **claims: Any) -> Token:
    provider = Provider(key=SECRET, audience="orders", subject_claim=subject_claim)
    return await Verifier(provider, clock=lambda: NOW).verify(token(**claims))


@pytest.mark.anyio
async def test_a_user_is_who_the_token_speaks_of() -> None:
    verified_token = await verified(team="blue")
    user = JWTUser(verified_token)
    assert isinstance(user, BaseUser)
    assert user.is_authenticated
    assert user.identity == "ada"
    assert user.scopes == ("orders:read", "orders:write")
    assert user.claims["team"] == "blue"
    assert user.claims == verified_token.claims


def test_an_anonymous_user_is_a_user_too() -> None:
    nobody = JWTUser(None)
    assert not nobody.is_authenticated
    assert (nobody.identity, nobody.display_name) == ("", "")
    assert nobody.claims == {}
    assert nobody.scopes == ()


@pytest.mark.anyio
async def test_a_user_without_a_subject_has_no_identity_that_could_be_mistaken_for_one() -> None:
    user = JWTUser(await verified(subject_claim=None))
    assert user.is_authenticated
    with pytest.raises(RuntimeError, match="'jwt' has no subject, as subject_claim=None says"):
        assert user.identity
    assert user.display_name == ""
    assert JWTUser(await verified(subject_claim=None, name="Reporting")).display_name == "Reporting"
    assert repr(user) == "JWTUser(None)"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("claims", "display_name"),
    [
        pytest.param({}, "ada", id="the subject"),
        pytest.param({"name": "Ada Lovelace", "preferred_username": "al"}, "Ada Lovelace", id="name first"),
        pytest.param({"preferred_username": "al"}, "al", id="then preferred_username"),
        pytest.param({"name": "", "preferred_username": "al"}, "al", id="name is empty"),
        pytest.param({"name": ["Ada"]}, "ada", id="name is a list"),
        pytest.param({"name": 1, "preferred_username": {}}, "ada", id="neither is a string"),
    ],
)
async def test_a_user_is_shown_by_the_best_name_there_is(claims: dict[str, Any], display_name: str) -> None:
    assert JWTUser(await verified(**claims)).display_name == display_name


def test_each_anonymous_user_has_claims_of_its_own() -> None:
    JWTUser(None).claims["role"] = "admin"
    assert JWTUser(None).claims == {}


def test_the_app_may_hang_attributes_on_a_user() -> None:
    user = JWTUser(None)
    user._wrapped = "as Channels does"  # type: ignore[attr-defined]  # any attribute
    user.theme = "dark"  # type: ignore[attr-defined]  # any attribute
    assert vars(user).keys() >= {"_wrapped", "theme"}


@pytest.mark.anyio
async def test_credentials_are_starlettes_own_with_the_token() -> None:
    verified_token = await verified()
    credentials = JWTCredentials(verified_token, Refuser())
    assert isinstance(credentials, AuthCredentials)
    assert credentials.scopes == ["orders:read", "orders:write"]
    assert credentials.token is verified_token


def test_anonymous_credentials_have_no_scopes_and_no_token() -> None:
    credentials = JWTCredentials(None, Refuser())
    assert credentials.scopes == []
    assert credentials.token is None


@pytest.mark.anyio
async def test_a_repr_holds_no_claims() -> None:
    verified_token = await verified(email="ada@example.com")
    shown = repr([JWTUser(verified_token), JWTCredentials(verified_token, Refuser())])
    assert "'ada'" in shown
    assert "example.com" not in shown
    assert repr(JWTUser(None)) == "JWTUser(None)"
    assert repr(JWTCredentials(None, Refuser())) == "JWTCredentials(None)"
