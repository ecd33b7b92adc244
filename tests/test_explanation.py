"""Why was this token refused, and what would pass? Forty mistakes, each with the sentence that names cause and cure."""

import base64
import json
from collections.abc import Callable
from typing import Any

import anyio
import jwt
import pytest

from jwt_middleware import ANY, ConfigurationError, Provider, Refusal, Verifier, errors
from jwt_middleware.explaining.case import ProviderFacts
from jwt_middleware.explaining.loose import in_words, moment_in_words, read_loosely
from jwt_middleware.explanation import STEPS, Explanation, explain

from .support import NOW, SECRET, b64, claims, signed, token
from .support.keys import RSA, pem
from .support.load_balancer import SIGNER, made

ISSUER = "https://login.example"
ENTRA = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0"


def provider(**changes: Any) -> Provider:
    return Provider(**{"key": SECRET, "audience": "orders", **changes})


def explained(raw: str, *providers: Provider, **options: Any) -> Explanation:
    """What ``explain`` says of ``raw`` after a verifier of ``providers`` has judged it at NOW."""
    several = providers or (provider(),)
    verifier = Verifier(several, clock=lambda: NOW, **options)
    refusal: Refusal | None = None

    async def verify() -> None:
        await verifier.verify(raw)

    try:
        anyio.run(verify)
    except Refusal as raised:
        refusal = raised
    facts = [
        ProviderFacts(name=one.name, issuers=one.issuers, rules=one.rules, keys=one.keys.current.keys)
        for one in several
    ]
    return explain(read_loosely(raw), refusal, facts, NOW, max_token_size=verifier.max_token_size)


def unsigned() -> str:
    return f"{b64(json.dumps({'alg': 'none'}).encode()).decode()}.{b64(json.dumps(claims()).encode()).decode()}."


def with_header(**header: Any) -> str:
    return signed({"alg": "HS256", **header}, claims())


GOOD = token()
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")

MISTAKES = [
    # The text.
    pytest.param("", [], "malformed_token", "form", "an empty text", "after the scheme", id="empty"),
    pytest.param(f"Bearer {GOOD}", [], "malformed_token", "form", "the scheme twice", "once", id="scheme twice"),
    pytest.param(f'"{GOOD}"', [], "malformed_token", "form", "quotation marks", "without them", id="quoted"),
    pytest.param(
        f"{HEADER}.{PAYLOAD}.\n{SIGNATURE}", [], "malformed_token", "form", "white space", "Remove", id="line"
    ),
    pytest.param(GOOD.replace(".", "%2E"), [], "malformed_token", "form", "percent-encoding", "Decode", id="percent"),
    pytest.param("v2-opaque-token", [], "malformed_token", "form", "opaque", "Auth0", id="opaque"),
    pytest.param(f"{HEADER}.{PAYLOAD}", [], "malformed_token", "form", "2 segments", "exactly as", id="cut"),
    pytest.param(
        f"{HEADER}.{PAYLOAD}.", [], "bad_signature", "signature", "is missing", "Only signed", id="no signature"
    ),
    pytest.param(f"{GOOD}=", [], "malformed_token", "form", "padding", "leaves padding out", id="padded"),
    pytest.param(
        f"{HEADER}.{PAYLOAD}.{'+/' * 21}A", [], "malformed_token", "form", "standard base64", "base64url", id="base64"
    ),
    pytest.param(
        f"{HEADER}.{PAYLOAD[:-3]}.{SIGNATURE}", [], "malformed_token", "form", "payload", "exactly", id="part"
    ),
    pytest.param(
        f"{b64(b'[]').decode()}.{PAYLOAD}.{SIGNATURE}", [], "malformed_token", "form", "header", "", id="list"
    ),
    pytest.param(
        with_header(crit=["x"]),
        [],
        "malformed_token",
        "form",
        "is not understood here, crit",
        "leave it out",
        id="crit",
    ),
    pytest.param(
        signed({"typ": "JWT"}, claims()), [], "malformed_token", "form", "no alg in the header", "4.1.1", id="no alg"
    ),
    pytest.param(
        signed(b'{"alg":"HS256"}', b'{"sub":"a","sub":"b"}'),
        [],
        "malformed_token",
        "form",
        "strict",
        "each name once",
        id="twice",
    ),
    pytest.param("a.b.c.d.e", [], "encrypted_token", "form", "encrypted", "Turn encryption", id="JWE"),
    pytest.param("a" * 20_000, [], "token_too_large", "size", "20000 bytes", "max_token_size=20000", id="large"),
    # The issuer.
    pytest.param(
        token(iss=f"{ISSUER}/"), [{"issuer": ISSUER}], "wrong_issuer", "provider", "trailing slash", "/'", id="slash"
    ),
    pytest.param(
        token(iss="http://login.example"),
        [{"issuer": ISSUER}],
        "wrong_issuer",
        "provider",
        "scheme, http or https",
        "if that is right",
        id="scheme",
    ),
    pytest.param(
        token(iss="https://Login.example"),
        [{"issuer": ISSUER}],
        "wrong_issuer",
        "provider",
        "case",
        "issuer=",
        id="case",
    ),
    pytest.param(
        token(iss="https://sts.windows.net/11111111-2222-3333-4444-555555555555/"),
        [{"issuer": ENTRA}],
        "wrong_issuer",
        "provider",
        "version 1 token",
        "requestedAccessTokenVersion",
        id="Entra v1",
    ),
    pytest.param(
        token(iss="accounts.google.com"),
        [{"issuer": ISSUER}],
        "wrong_issuer",
        "provider",
        "accounts.google.com",
        "two spellings",
        id="Google",
    ),
    pytest.param(
        token(iss="https://other.example"),
        [{"issuer": ISSUER, "name": "a"}, {"issuer": "https://b.example", "name": "b"}],
        "unknown_issuer",
        "provider",
        "'https://login.example', 'https://b.example'",
        "add its issuer",
        id="unknown issuer",
    ),
    pytest.param(
        token(), [{"issuer": ISSUER}], "missing_claim", "provider", "issuer is null", "issuer=", id="no issuer"
    ),
    # Key and signature.
    pytest.param(
        token(header={"kid": "new"}),
        [{"key": {"kty": "oct", "k": b64(SECRET.encode()).decode(), "kid": "old"}}],
        "unknown_key",
        "key",
        "kid \"new\"; there are 'old'",
        "another environment",
        id="unknown kid",
    ),
    pytest.param(
        token(), [{"key": pem(RSA)}], "algorithm_not_allowed", "key", "HS256", "secret signs", id="HS for RSA"
    ),
    pytest.param(
        jwt.encode(claims(), RSA, algorithm="RS256"),
        [{}],
        "algorithm_not_allowed",
        "key",
        "RS256",
        "public keys instead",
        id="RS for a secret",
    ),
    pytest.param(
        jwt.encode(claims(), RSA, algorithm="PS512"),
        [{"key": pem(RSA), "algorithms": ["RS256"]}],
        "algorithm_not_allowed",
        "key",
        "'RS256'",
        "Have the issuer sign",
        id="PS for RS",
    ),
    pytest.param(
        signed({"alg": "HS256", "typ": "refresh+jwt", "kid": "r"}, claims(aud="urn:jwt_middleware:refresh:orders")),
        [{"key": {"kty": "oct", "k": b64(SECRET.encode()).decode(), "kid": "old"}}],
        "unknown_key",
        "key",
        "looks like a refresh token",
        "Send the access token",
        id="a refresh token of this package",
    ),
    pytest.param(
        jwt.encode(claims(typ="Refresh"), "k" * 64, algorithm="HS512"),
        [{"key": pem(RSA)}],
        "algorithm_not_allowed",
        "key",
        "looks like a refresh token",
        "Send the access token",
        id="Keycloak's refresh token",
    ),
    pytest.param(unsigned(), [], "algorithm_not_allowed", "key", "no signature at all", "", id="none"),
    pytest.param(
        token(key="another secret of thirty-two bytes, no"),
        [],
        "bad_signature",
        "signature",
        "HS256",
        "another secret",
        id="other secret",
    ),
    pytest.param(
        token(key=base64.b64decode("A" * 48)),
        [{"key": "A" * 48}],
        "bad_signature",
        "signature",
        "HS256",
        "did you mean its bytes",
        id="base64 secret",
    ),
    pytest.param(
        token(), [{"key": f"{SECRET} "}], "bad_signature", "signature", "HS256", "white space", id="secret with a space"
    ),
    pytest.param(
        jwt.encode(claims(), RSA, algorithm="RS256")[:-8] + "AAAAAAAA",
        [{"key": pem(RSA)}],
        "bad_signature",
        "signature",
        "RS256",
        "compare the configured key",
        id="changed",
    ),
    pytest.param(
        jwt.encode(claims(iss=ENTRA), RSA, algorithm="RS256", headers={"nonce": "n"})[:-8] + "AAAAAAAA",
        [{"key": pem(RSA), "issuer": ENTRA}],
        "bad_signature",
        "signature",
        "only Graph can verify it",
        "api://CLIENT_ID",
        id="Microsoft Graph",
    ),
    # Time.
    pytest.param(
        token(exp=NOW - 40), [], "expired", "claims", "expired 40 s ago; the leeway is 5 s", "new", id="expired"
    ),
    pytest.param(token(nbf=NOW + 30), [], "not_yet_valid", "claims", "30 s in the future", "clocks", id="nbf"),
    pytest.param(token(iat=NOW * 1000), [], "not_yet_valid", "claims", "milliseconds", "seconds", id="milliseconds"),
    pytest.param(
        token(iat=NOW - 7300), [{"max_token_age": 60}], "too_old", "claims", "2 h ago", "max_token_age", id="old"
    ),
    pytest.param(
        token(iat=None), [{"max_token_age": 60}], "missing_claim", "claims", "no iat", "drop max_token_age", id="no iat"
    ),
    pytest.param(token(exp=None), [], "missing_claim", "claims", "never expires", "set it", id="no exp"),
    pytest.param(
        signed({"alg": "HS256"}, claims(exp="soon")), [], "invalid_claim", "claims", "'exp' is", "number", id="exp text"
    ),
    # The audience and the kind of token.
    pytest.param(
        token(aud="billing"),
        [],
        "wrong_audience",
        "claims",
        "audience \"billing\"; accepted here: 'orders'",
        "'billing'",
        id="wrong audience",
    ),
    pytest.param(
        token(aud=["account"]), [], "wrong_audience", "claims", "account", "audience mapper", id="Keycloak's account"
    ),
    pytest.param(
        token(aud="api://orders"), [], "wrong_audience", "claims", "'api://'", "api://orders", id="api:// in front"
    ),
    pytest.param(
        token(aud="https://api.example/"),
        [{"audience": "https://api.example"}],
        "wrong_audience",
        "claims",
        "trailing slash",
        "https://api.example/",
        id="audience with a slash",
    ),
    pytest.param(
        token(aud="00000003-0000-0000-c000-000000000000"),
        [],
        "wrong_audience",
        "claims",
        "Microsoft Graph",
        "your own API",
        id="audience is Graph",
    ),
    pytest.param(
        token(aud="client-1", nonce="n", scope=None),
        [],
        "wrong_audience",
        "claims",
        "ID token",
        "Send the access token",
        id="ID token",
    ),
    pytest.param(
        token(aud="client-1", typ="ID"),
        [],
        "wrong_audience",
        "claims",
        "ID token",
        "Send the access token",
        id="Keycloak's ID token",
    ),
    pytest.param(
        token(aud=None, client_id="c-1"),
        [],
        "missing_claim",
        "claims",
        "'client_id': \"c-1\"",
        "audience_claim='client_id'",
        id="Cognito",
    ),
    pytest.param(token(aud=None), [], "missing_claim", "claims", "no aud", "audience=ANY", id="no audience"),
    pytest.param(
        token(),
        [{"token_type": "at+jwt"}],
        "wrong_type",
        "claims",
        "\"JWT\"; accepted here: 'at+jwt'",
        "token_type=",
        id="typ",
    ),
    # Other claims.
    pytest.param(
        token(cnf={"jkt": "x"}), [], "sender_constrained", "claims", "'jkt'", "accept_cnf", id="bound to its sender"
    ),
    pytest.param(
        token(), [{"required_claims": ["tenant"]}], "missing_claim", "claims", "'tenant' is missing", "", id="required"
    ),
    pytest.param(
        token(), [{"validate": lambda token: False}], "invalid_claim", "validate", "validate()", "checks", id="validate"
    ),
]


@pytest.mark.parametrize(("raw", "settings", "code", "stopped_at", "cause", "cure"), MISTAKES)
def test_a_mistake_is_named_with_its_cause_and_its_cure(
    raw: str, settings: list[dict[str, Any]], code: str, stopped_at: str, cause: str, cure: str
) -> None:
    explanation = explained(raw, *(provider(**one) for one in settings))
    assert explanation.code == code
    assert [step.name for step in explanation.steps if step.outcome == "stopped"] == [stopped_at]
    assert cause in explanation.cause
    assert cure in explanation.cure
    assert explanation.cure


def test_the_steps_before_the_stop_have_passed_and_those_after_it_were_not_reached() -> None:
    outcomes = [step.outcome for step in explained(token(aud="billing")).steps]
    assert outcomes == ["passed"] * 5 + ["stopped"] + ["not reached"] * 3


def test_a_step_that_was_left_out_before_the_stop_has_not_passed() -> None:
    refusal = errors.InvalidClaim(expected="validate returns True", found="False")
    steps = explain(read_loosely(GOOD), refusal, [], NOW, max_token_size=1, unchecked={"revocation", "user"}).steps
    assert [step.outcome for step in steps[-3:]] == ["not checked", "stopped", "not reached"]


def test_a_good_token_passes_every_step_that_was_taken() -> None:
    explanation = explained(GOOD)
    assert (explanation.code, explanation.cure) == ("accepted", "")
    assert [step.outcome for step in explanation.steps] == ["passed"] * len(STEPS)
    some = explain(read_loosely(GOOD), None, [], NOW, max_token_size=1, unchecked={"user"})
    assert [step.outcome for step in some.steps] == ["passed"] * 8 + ["not checked"]


def said(refusal: Refusal, raw: str = GOOD, **changes: Any) -> Explanation:
    """What is said of a refusal that no configuration of a test gives."""
    one = provider()
    facts = ProviderFacts(name="jwt", issuers=(), rules=one.rules, keys=one.keys.current.keys, **changes)
    return explain(read_loosely(raw), refusal, [facts], NOW, max_token_size=1)


class Own(Refusal):
    code = "own_rule"
    description = "The app says no."


@pytest.mark.parametrize(
    ("refusal", "raw", "stopped_at", "cause", "cure"),
    [
        pytest.param(errors.Revoked(), GOOD, "revocation", "was revoked", "Log in", id="revoked"),
        pytest.param(errors.RevocationsUnavailable(), GOOD, "revocation", "store", "store", id="revocations"),
        pytest.param(errors.UserRefused(), GOOD, "user", "load_user", "database", id="user"),
        pytest.param(errors.KeysUnavailable(), GOOD, "key", "refused by the host", "reaches", id="keys"),
        pytest.param(errors.WrongType(), token(token_use="id"), "claims", "ID token", "access token", id="ID token"),
        pytest.param(
            errors.WrongType(), token(type="refresh"), "claims", "refresh token", "access", id="refresh token"
        ),
        pytest.param(errors.Expired(), token(exp=None), "claims", "has expired", "new one", id="expired, unreadable"),
        pytest.param(errors.NotYetValid(), token(), "claims", "not valid yet", "clocks", id="too early, unreadable"),
        pytest.param(errors.TooOld(), token(iat=None), "claims", "too long ago", "max_token_age", id="old, unreadable"),
        pytest.param(errors.InvalidClaim(claim="sub"), token(sub=""), "claims", "empty", "sub", id="empty subject"),
        pytest.param(errors.InvalidClaim(claim="sub"), token(), "claims", "cannot be read", "4.1", id="odd subject"),
        pytest.param(
            errors.MissingClaim(claim="sub"), token(sub=None), "claims", "no subject", "=None", id="no subject"
        ),
        pytest.param(errors.InvalidClaim(claim="iss"), token(), "provider", "issuer", "issuer=", id="odd issuer"),
        pytest.param(errors.SenderConstrained(), token(), "claims", "none", "accept_cnf", id="no methods"),
        pytest.param(
            errors.WrongIssuer(expected=SIGNER),
            made(header={"signer": "arn:other"}),
            "provider",
            '"arn:other"; accepted here: arn:aws:',
            "signer=",
            id="another load balancer",
        ),
        pytest.param(
            errors.WrongAudience(expected="4fmv"),
            made(header={"client": "other"}),
            "claims",
            '"other"; accepted here: 4fmv',
            "client=",
            id="another client of the load balancer",
        ),
        pytest.param(Own(), GOOD, "claims", "The app says no.", "own code", id="an app's own refusal"),
    ],
)
def test_every_refusal_has_words(refusal: Refusal, raw: str, stopped_at: str, cause: str, cure: str) -> None:
    explanation = said(refusal, raw, error="refused by the host")
    assert [step.name for step in explanation.steps if step.outcome == "stopped"] == [stopped_at]
    assert cause in explanation.cause
    assert cure in explanation.cure


@pytest.mark.parametrize("configured", [f"{ISSUER}/.well-known/openid-configuration", "https://login.example/{tenant}"])
def test_an_address_that_is_no_issuer_is_recognised(configured: str) -> None:
    one = provider()
    facts = ProviderFacts(name="jwt", issuers=(configured,), rules=one.rules, keys=())
    explanation = explain(read_loosely(token(iss=ISSUER)), errors.WrongIssuer(), [facts], NOW, max_token_size=1)
    assert "metadata" in explanation.cause or "placeholder" in explanation.cure


@pytest.mark.parametrize(
    ("refusal", "outcome", "cause", "cure"),
    [
        (errors.MissingToken(), "not reached", "no token", "Bearer"),
        (errors.AmbiguousToken(), "not reached", "more than one", "one Authorization"),
        (errors.CrossSite(), "not reached", "cookie", "origins="),
        (errors.InsufficientScope(["a"], expected="a"), "stopped", "needs a; the token grants nothing", "scope_claim"),
        (errors.InsufficientUserAuthentication(acr_values=("x",)), "stopped", "RFC 9470", "Log in again"),
    ],
)
def test_what_is_decided_before_and_after_the_token_has_words_too(
    refusal: Refusal, outcome: str, cause: str, cure: str
) -> None:
    explanation = said(refusal)
    if outcome == "stopped":
        assert {step.outcome for step in explanation.steps[:-1]} == {"passed"}
        assert (explanation.steps[-1].name, explanation.steps[-1].outcome) == ("endpoint", "stopped")
    else:
        assert {step.outcome for step in explanation.steps} == {outcome}
    assert cause in explanation.cause
    assert cure in explanation.cure


def test_keys_that_were_never_fetched_are_named_so() -> None:
    assert "not fetched yet" in said(errors.KeysUnavailable()).cause


def test_what_the_token_says_is_shown_with_times_in_words() -> None:
    facts = dict(explained(token(exp=NOW - 40, aud="x" * 300, nbf=True)).facts)
    assert facts["exp"].endswith("(40 s ago)")
    assert facts["sub"] == '"ada"'
    assert len(facts["aud"]) < 210
    assert facts["nbf"] == "True, which is not a number"


def test_an_explanation_is_plain_json_too() -> None:
    plain = explained(token(aud="billing")).as_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["code"] == "wrong_audience"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (-40, "40 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (NOW, "2030-03-17 17:46:40 UTC (0 s from now)"),
        (10**30, f"{10**30}, which is no date"),
        ("soon", "'soon', which is not a number"),
    ],
)
def test_moments_are_said_as_people_do(value: Any, words: str) -> None:
    assert moment_in_words(value, NOW) == words


def test_only_secrets_are_looked_at_for_a_misspelled_secret() -> None:
    mixed = provider(key=[pem(RSA), SECRET])
    assert "another secret" in explained(token(key="another secret of thirty-two bytes, no"), mixed).cure


def test_many_names_are_cut() -> None:
    many = [f"audience-{n}" for n in range(20)]
    assert explained(token(), provider(audience=many)).cause.endswith(", ....")


@pytest.mark.parametrize("make", [lambda: provider(audience=ANY)])
def test_any_audience_is_not_listed(make: Callable[[], Provider]) -> None:
    assert explained(token(aud="x"), make()).code == "accepted"


def test_a_wrong_setting_is_no_explanation() -> None:
    with pytest.raises(ConfigurationError):
        provider(audience=None)
