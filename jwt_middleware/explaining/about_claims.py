"""Which words explain a token whose claims are refused? Pure."""

from ..verifying.claims import CLIENT_CLAIMS, is_milliseconds, looks_like_id_token
from .about_keys import explain_issuer
from .case import Case, Words, is_number, list_quoted
from .loose import in_words, show_value


def explain_expired(case: Case) -> Words:
    exp, leeway = case.claims.get("exp"), case.rules.leeway
    if not is_number(exp):
        return "The token has expired.", "Get a new one."
    return (
        f"The token expired {in_words(case.now - exp)} ago; the leeway is {leeway:g} s.",
        "Get a new token. If it is new, compare the clocks of the issuer and of this machine.",
    )


def explain_not_yet_valid(case: Case) -> Words:
    claim = case.refusal.claim or "nbf"
    value, leeway = case.claims.get(claim), case.rules.leeway
    if not is_number(value):
        return "The token is not valid yet.", "Compare the clocks of the issuer and of this machine."
    if is_milliseconds(value):
        return f"{claim!r} is {value}: these are milliseconds.", "The issuer must write seconds (RFC 7519 section 2)."
    return (
        f"{claim!r} lies {in_words(value - case.now)} in the future; the leeway is {leeway:g} s.",
        "Compare the clocks of the issuer and of this machine; a few seconds can be allowed with leeway=.",
    )


def explain_too_old(case: Case) -> Words:
    iat = case.claims.get("iat")
    age = f"{in_words(case.now - iat)} ago" if is_number(iat) else "too long ago"
    return (
        f"The token was issued {age}; max_token_age is {case.rules.max_token_age or 0:g} s.",
        "Get a new token, or raise max_token_age.",
    )


def explain_audience(case: Case) -> Words:
    if "aud" not in case.claims and "signer" in case.header:
        client = show_value(case.header.get("client"))
        return (
            f"The load balancer's client is {client}; accepted here: {case.refusal.expected}.",
            "Set client= to the client id of the listener's rule for this app.",
        )
    found, expected = case.claims.get("aud"), sorted(case.rules.audiences or ())
    cause = f"The token is for the audience {show_value(found)}; accepted here: {list_quoted(expected)}."
    if looks_like_id_token(case.claims):
        return f"{cause} It looks like an ID token, which is for the client that logged the user in.", _ASK_FOR_ACCESS
    names = [found] if isinstance(found, str) else [name for name in found or () if isinstance(name, str)]
    for name in names:
        for audience in expected:
            if name.rstrip("/") == audience.rstrip("/"):
                return f"{cause} They differ by a trailing slash.", f"Set audience={name!r}."
            if name.removeprefix("api://") == audience.removeprefix("api://"):
                return f"{cause} They differ by 'api://'.", f"Set audience=[{audience!r}, {name!r}]."
    if "account" in names:
        return cause, "Keycloak writes 'account' unless told otherwise: add an audience mapper to the client scope."
    if "00000003-0000-0000-c000-000000000000" in names or "https://graph.microsoft.com" in names:
        return f"{cause} That is Microsoft Graph.", "Ask Entra ID for a token with a scope of your own API."
    return cause, (
        f"Ask the provider for a token for {list_quoted(expected)}; or, if this one is meant for this service, set "
        f"audience={names[0] if names else '...'!r}."
    )


def explain_refresh_token(case: Case) -> Words:
    return (
        "This looks like a refresh token, which is only for the endpoint that gives new access tokens.",
        "Send the access token instead.",
    )


def explain_type(case: Case) -> Words:
    types = case.rules.types
    if looks_like_id_token(case.claims):
        return "This is an ID token, which tells a client who logged in; it is no access token.", _ASK_FOR_ACCESS
    return (
        f"The header's typ is {show_value(case.header.get('typ'))}; accepted here: {list_quoted(sorted(types or ()))}.",
        "Send an access token, or change token_type= to what this provider writes.",
    )


def explain_missing_claim(case: Case) -> Words:
    claim = case.refusal.claim
    if claim == "iss":
        return explain_issuer(case)
    if claim == "aud":
        other = next((name for name in CLIENT_CLAIMS if isinstance(case.claims.get(name), str)), None)
        expected = list_quoted(sorted(case.rules.audiences or ()))
        if other is not None:
            return (
                f"The token has no aud; it names its client in {other!r}: {show_value(case.claims[other])}.",
                f"Amazon Cognito and Clerk do so: set audience_claim={other!r} and audience= to the client's id.",
            )
        return f"The token has no aud; accepted here: {expected}.", (
            "Have the provider set the audience. Say audience=ANY only if its keys sign for nothing else."
        )
    if claim == "exp":
        return "The token never expires: it has no exp.", "Have the issuer set it; tokens without it are refused."
    if claim == "sub":
        return "The token names no subject.", (
            "Have the issuer set sub, name another claim with subject_claim=, or say subject_claim=None for tokens "
            "without a user."
        )
    if claim == "iat":
        return "The token has no iat, which max_token_age needs.", "Have the issuer set it, or drop max_token_age."
    return f"The claim {claim!r} is missing.", "Have the issuer set it, or remove it from the settings."


def explain_invalid_claim(case: Case) -> Words:
    claim = case.refusal.claim
    if claim is None:
        return "The provider's validate() did not return True.", "Look at what it checks."
    if claim == "iss":
        return explain_issuer(case)
    value = case.claims.get(claim)
    if claim in ("exp", "nbf", "iat"):
        return f"{claim!r} is {show_value(value)}, not a number of seconds.", "The issuer must write a JSON number."
    if claim == "sub" and value == "":
        return "The token's subject is empty.", "Have the issuer set sub."
    return f"The claim {claim!r} cannot be read: {show_value(value)}.", "Have the issuer write it as RFC 7519 4.1 says."


def explain_sender_constrained(case: Case) -> Words:
    cnf = case.claims.get("cnf")
    names = sorted(cnf) if isinstance(cnf, dict) else []
    return (
        f"The token is bound to its sender (cnf: {list_quoted(names)}) and is no plain Bearer token.",
        "Turn the binding off at the provider, or set accept_cnf= if something in front of this service checks it.",
    )


_ASK_FOR_ACCESS = "Send the access token instead; ask the provider for one with this API's audience or scope."
