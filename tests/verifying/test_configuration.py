"""Wrong arguments are named at construction, and no message or repr holds a secret."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from jwt_middleware import ANY, ConfigurationError, Provider, Verifier

from ..support import NOW, SECRET, b64, claims, provider, signed
from .asking import by, named


async def waits(claims: dict[str, Any]) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"key": None}, "key is required: a secret, a PEM, a JWK", id="no key"),
        pytest.param({"audience": None}, "audience is required: .* audience=ANY", id="no audience"),
        pytest.param({"audience": ""}, "audience must be a string", id="an empty audience"),
        pytest.param({"audience": []}, "audience must be a string", id="no audiences"),
        pytest.param({"audience": [5]}, "audience must be a string", id="a number in the audiences"),
        pytest.param({"issuer": ""}, "issuer must be a string", id="an empty issuer"),
        pytest.param({"issuer": 5}, "issuer must be a string", id="an issuer that is a number"),
        pytest.param({"name": ""}, "name must be a string", id="an empty name"),
        pytest.param({"name": 5}, "name must be a string", id="a name that is a number"),
        pytest.param({"algorithms": "HS256"}, "algorithms must be a list", id="algorithms as a string"),
        pytest.param({"algorithms": []}, "algorithms must be a list", id="no algorithms"),
        pytest.param({"algorithms": 5}, "algorithms must be a list", id="algorithms as a number"),
        pytest.param({"algorithms": ["none"]}, "algorithms: 'none' is not known", id="none"),
        pytest.param({"algorithms": ["RS256"]}, "none of which algorithms= allows", id="the algorithm of another key"),
        pytest.param({"allow_weak_keys": 1}, "allow_weak_keys must be True or False", id="a switch that is none"),
        pytest.param({"leeway": -1}, "leeway must be a number of seconds", id="a negative leeway"),
        pytest.param({"leeway": "5"}, "leeway must be a number of seconds", id="a leeway that is a string"),
        pytest.param({"leeway": float("nan")}, "leeway must be a number of seconds", id="a leeway of NaN"),
        pytest.param({"leeway": 10**400}, "leeway must be a number of seconds", id="an endless leeway"),
        pytest.param({"max_token_age": -1}, "max_token_age must be a number of seconds", id="a negative age"),
        pytest.param({"token_type": ""}, "token_type must be a string", id="an empty type"),
        pytest.param({"required_claims": [""]}, "required_claims must be a string", id="an empty claim"),
        pytest.param({"required_claims": 5}, "required_claims must be a string", id="a number of claims"),
        pytest.param({"subject_claim": ""}, "subject_claim must be the name of a claim", id="an empty subject claim"),
        pytest.param({"subject_claim": 5}, "subject_claim must be the name of a claim", id="a subject claim of 5"),
        pytest.param({"audience_claim": ""}, "audience_claim must be the name of a claim", id="no audience claim"),
        pytest.param({"audience_claim": None}, "audience_claim must be the name of", id="an audience claim of None"),
        pytest.param(
            {"audience_claim": "azp", "audience": ANY}, "audience_claim: with audience=ANY", id="an idle audience claim"
        ),
        pytest.param({"allow_id_tokens": 1}, "allow_id_tokens must be True or False", id="another switch"),
        pytest.param({"accept_cnf": ["jkt"]}, "accept_cnf: jkt is proof of possession", id="jkt"),
        pytest.param({"accept_cnf": [""]}, "accept_cnf must be a string", id="an empty method"),
        pytest.param({"accept_cnf": True}, "accept_cnf must be a string", id="any method"),
        pytest.param({"accept_cnf": dict}, "accept_cnf must return True or False; a class", id="a class for cnf"),
        pytest.param({"accept_cnf": lambda: True}, "accept_cnf must be callable as", id="a check of nothing"),
        pytest.param({"may_grant": 5}, "may_grant must be a string", id="may_grant of 5"),
        pytest.param({"scope_implies": {"a": ["a"]}}, "scope_implies: 'a' implies itself", id="a cycle"),
        pytest.param({"scope_separator": ","}, "scope_separator must be a dict", id="a separator alone"),
        pytest.param({"scope_claim": 5}, "scope_claim must be the name of a claim", id="a scope claim of 5"),
        pytest.param({"scope_claim": waits}, "scope_claim must be a plain function", id="a scope claim that waits"),
        pytest.param({"required_claims": 0}, "required_claims must be a string", id="no number of claims"),
        pytest.param({"scope_claim": ""}, "scope_claim must be the name of a claim", id="an empty scope claim"),
        pytest.param({"validate": 5}, r"validate must be callable as \(token\)", id="a validator that is a number"),
        pytest.param({"validate": None}, r"validate must be callable as \(token\)", id="no validator"),
        pytest.param({"validate": ["no"]}, r"validate must be callable as \(token\)", id="a validator that is none"),
    ],
)
def test_a_wrong_argument_of_a_provider_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        provider(**options)


@pytest.mark.parametrize(
    ("providers", "options", "message"),
    [
        pytest.param([], {}, "at least one Provider is needed", id="no providers"),
        pytest.param([SECRET], {}, "must be Provider objects, not str", id="a secret"),
        pytest.param([by("a"), None], {}, "must be Provider objects, not NoneType", id="None"),
        pytest.param([by("a"), by("a")], {}, "the name 'a' is used twice", id="one name twice"),
        pytest.param([provider(), provider()], {}, "the name 'jwt' is used twice", id="no names"),
        pytest.param(
            [by("a", issuer=["x", "y"]), by("b", issuer="y")],
            {},
            "'a' and 'b' both have the issuer 'y'",
            id="one issuer",
        ),
        pytest.param(provider(), {"max_token_size": 0}, "max_token_size must be a whole number", id="no size"),
        pytest.param(
            provider(), {"max_token_size": True}, "max_token_size must be a whole number", id="a boolean size"
        ),
        pytest.param(
            provider(), {"max_token_size": 1.5}, "max_token_size must be a whole number", id="a fraction of a byte"
        ),
        pytest.param(provider(), {"cache_size": -1}, "cache_size must be a whole number", id="a negative cache"),
        pytest.param(provider(), {"clock": NOW}, r"clock must be callable as \(\)", id="a clock that stands still"),
    ],
)
def test_a_wrong_argument_of_a_verifier_is_named(providers: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Verifier(providers, **options)


HIDDEN = "hunter2-hunter2-hunter2-hunter2-hunter2"


def shown(error: BaseException) -> Iterator[str]:
    seen: BaseException | None = error
    while seen is not None:
        yield f"{seen} {seen!r} {vars(seen)} {getattr(seen, 'doc', '')} {getattr(seen, 'object', '')!r}"
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"key": "hunter2"}, id="a short secret"),
        pytest.param({"key": HIDDEN + "\udc80"}, id="a secret that is not text"),
        pytest.param({"key": [HIDDEN, None]}, id="a good secret beside a bad one"),
        pytest.param({"key": [HIDDEN + str(n) for n in range(9)]}, id="too many secrets"),
        pytest.param({"key": [[HIDDEN]]}, id="a secret in a list in a list"),
        pytest.param({"key": {"kty": "oct", "k": HIDDEN + "!"}}, id="a JWK that is not base64url"),
        pytest.param({"key": {"kty": "oct", "k": "hunter2w"}}, id="a short JWK"),
        pytest.param({"key": {"keys": [{"kty": "oct", "k": "hunter2w"}]}}, id="a short JWK in a set"),
        pytest.param({"key": {"k": HIDDEN}}, id="a JWK without a type"),
        pytest.param({"key": f'{{"kty":"oct","k":"{HIDDEN}",}}'}, id="JWK text that cannot be read"),
        pytest.param({"key": f"-----BEGIN PRIVATE KEY-----\n{HIDDEN}"}, id="a PEM that cannot be read"),
        pytest.param({"key": HIDDEN, "algorithms": ["RS256"]}, id="an algorithm of another key"),
        pytest.param({"key": HIDDEN, "algorithms": ["HS512"]}, id="an algorithm of a longer secret"),
        pytest.param({"key": HIDDEN, "leeway": -1}, id="another argument"),
        pytest.param({"key": {HIDDEN}}, id="a set"),
    ],
)
def test_no_configuration_error_holds_a_secret(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as error:
        provider(**options)
    for text in shown(error.value):
        assert "hunter2" not in text


@pytest.mark.anyio
async def test_no_repr_holds_a_secret_or_a_token() -> None:
    hiding = provider(key=[HIDDEN, named("a", HIDDEN)])
    verifier = Verifier(hiding, clock=lambda: NOW)
    raw = signed({"alg": "HS256"}, claims(email="ada@example.com"), HIDDEN)
    verified = await verifier.verify(raw)
    for object_ in (hiding, verifier, hiding.keys, hiding.keys.current, hiding.rules, verified):
        assert not {"hunter2", b64(HIDDEN.encode()).decode(), "ada@example.com", raw} & set(repr(object_).split("'"))
        assert "hunter2" not in repr(object_)
        assert "example.com" not in repr(object_)


@pytest.mark.parametrize("providers", [5, None, "jwt", [SECRET]])
def test_providers_are_provider_objects(providers: Any) -> None:
    with pytest.raises(ConfigurationError, match="providers must be Provider objects"):
        Verifier(providers)


@pytest.mark.parametrize("clock", [lambda: None, lambda: "now", datetime.now])
def test_a_clock_gives_numbers(clock: Any) -> None:
    with pytest.raises(ConfigurationError, match="clock"):
        Verifier(Provider(key=SECRET, audience="orders"), clock=clock)


def test_keys_that_are_fetched_need_no_event_loop_before_they_are_needed() -> None:
    verifier = Verifier(Provider(jwks="https://login.example/keys", audience="orders"))
    assert verifier.health()["jwt"].keys == 0
