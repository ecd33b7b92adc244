"""Which words explain a token whose form, issuer, key or signature is refused? Pure."""

from collections.abc import Sequence

from ..keys.naming import doubt_secret
from ..verifying.misspelling import find_misspelling
from .case import Case, Key, Words, list_quoted
from .loose import show_value


def explain_too_large(case: Case) -> Words:
    size = len(case.token.text.encode("utf-8", "replace"))
    return (
        f"The token has {size} bytes; at most {case.max_token_size} are read.",
        f"Ask the provider for a smaller token (fewer groups or roles), or set max_token_size={size}.",
    )


def explain_malformed(case: Case) -> Words:
    misspelling = find_misspelling(case.token.text.encode("utf-8", "replace"))
    return f"This is no well-formed JSON Web Token: {misspelling.found}.", misspelling.cure


def explain_encrypted(case: Case) -> Words:
    return "The token is encrypted (five segments, RFC 7516).", "Turn encryption of access tokens off at the provider."


def explain_issuer(case: Case) -> Words:
    if case.refusal.code == "wrong_issuer" and str(case.refusal.expected).startswith("arn:"):
        return (
            f"The token's signer is {show_value(case.header.get('signer'))}; accepted here: {case.refusal.expected}.",
            "Set signer= to the ARN of the load balancer in front of this app. Another one's tokens are not for it.",
        )
    iss = case.claims.get("iss")
    known = [issuer for provider in case.providers for issuer in provider.issuers]
    cause = f"The token's issuer is {show_value(iss)}; accepted here: {list_quoted(known)}."
    if not isinstance(iss, str):
        return cause, "Ask the provider that is configured for a token, or leave issuer= out for tokens without one."
    for issuer in known:
        if issuer.rstrip("/") == iss.rstrip("/"):
            return f"{cause} They differ by a trailing slash.", f"Set issuer={iss!r}."
        if issuer.split("://")[-1] == iss.split("://")[-1]:
            return f"{cause} They differ by the scheme, http or https.", f"Set issuer={iss!r} if that is right."
        if issuer.removesuffix("/.well-known/openid-configuration").rstrip("/") == iss.rstrip("/"):
            return f"{cause} The setting is the address of its metadata.", f"Set issuer={iss!r}."
        if issuer.lower() == iss.lower():
            return f"{cause} They differ by case.", f"Set issuer={iss!r}."
    if iss.startswith("https://sts.windows.net/") and any("login.microsoftonline.com" in issuer for issuer in known):
        return (
            f"{cause} This is a version 1 token of Microsoft Entra ID.",
            "Set requestedAccessTokenVersion to 2 in the manifest of the API's app registration, or accept this "
            "issuer, too.",
        )
    if "{" in "".join(known):
        return cause, "Replace the placeholder in issuer= with the tenant's own id."
    if iss in ("accounts.google.com", "https://accounts.google.com"):
        return cause, 'Google uses two spellings: issuer=["https://accounts.google.com", "accounts.google.com"].'
    return cause, "Ask the provider that is configured for a token; or, if this one is to be accepted, add its issuer."


def explain_unknown_key(case: Case) -> Words:
    kid = case.header.get("kid")
    kids = sorted({key.kid for key in case.keys if key.kid is not None})
    return (
        f"No key has the token's kid {show_value(kid)}; there are {list_quoted(kids)}.",
        "The token may come from another environment or tenant, or from before a key was removed: get a new one. If "
        "the key is new, it is accepted once it is in the provider's JWK Set.",
    )


def explain_algorithm(case: Case) -> Words:
    algorithm, known = case.header.get("alg"), case.algorithms
    cause = f"The token is signed with {show_value(algorithm)}; the keys here verify {list_quoted(known)}."
    if str(algorithm).lower() == "none":
        return f"{cause} It has no signature at all.", "Only signed tokens are accepted."
    if str(algorithm).startswith("HS"):
        return cause, (
            "A secret signs this token, and the keys here are public: configure that secret as key=, or ask the "
            "provider to sign with its private key."
        )
    if known and all(name.startswith("HS") for name in known):
        return cause, (
            "A private key signs this token, and key= is a secret: configure the provider's public keys instead, with "
            "issuer= or jwks=."
        )
    return cause, "Have the issuer sign with one of these, or add the key that this token is signed with."


def explain_unavailable(case: Case) -> Words:
    errors = [f"{provider.name}: {provider.error}" for provider in case.asked if provider.error]
    return (
        f"There are no keys for this token at the moment. {'; '.join(errors) or 'They were not fetched yet.'}",
        "Check that this machine reaches the provider; tokens are accepted again when its keys are fetched.",
    )


def explain_signature(case: Case) -> Words:
    algorithm = str(case.header.get("alg"))
    cause = f"No key here verifies the {algorithm} signature."
    if case.token.text.endswith("."):
        return "The signature is missing: the token ends with a dot.", "Only signed tokens are accepted."
    if "nonce" in case.header and _is_microsoft(case.claims.get("iss")):
        return (
            f"{cause} A nonce in the header marks a token for Microsoft Graph: only Graph can verify it.",
            "Ask Entra ID for a token with a scope of your own API, such as api://CLIENT_ID/access.",
        )
    if algorithm.startswith("HS"):
        return cause, _secret_advice(case.keys)
    return cause, (
        "The token was changed, cut, or signed by another key: compare the configured key with the issuer's, and get "
        "a new token."
    )


def _secret_advice(keys: Sequence[Key]) -> str:
    doubts = [doubt_secret(key.material) for key in keys if isinstance(key.material, bytes)]
    doubt = next(filter(None, doubts), None)
    if doubt is None:
        return "The issuer uses another secret than the one configured, or the token was changed."
    if "white space" in doubt:
        return f"The configured secret {doubt}: did a file or a variable add it?"
    return (
        f"The configured secret {doubt}: did you mean its bytes? Then key=base64.b64decode(...). Otherwise the issuer "
        "uses another secret."
    )


def _is_microsoft(iss: object) -> bool:
    return isinstance(iss, str) and ("sts.windows.net" in iss or "login.microsoftonline.com" in iss)
