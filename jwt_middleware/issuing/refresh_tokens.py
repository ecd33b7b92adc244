"""Which refresh tokens are ours? They are minted and read here, with a key that no access token is signed with."""

from dataclasses import dataclass

from ..errors import InvalidClaim
from ..verifying.token import Token
from ..verifying.verifier import Verifier
from .issuer import TokenIssuer
from .rotation import Session

REFRESH_TYPE = "refresh+jwt"
REFRESH_AUDIENCE = "urn:jwt_middleware:refresh"

NEVER = 2**52
"""A leeway in seconds with which no token expires."""


@dataclass(frozen=True, slots=True)
class PresentedToken:
    """A refresh token that a client presents."""

    token: Token
    session_id: str
    generation: int
    issued_at: float
    """Unix time by the clock of whoever issued it."""


class RefreshTokens:
    """Mints and reads the refresh tokens that belong to the access tokens of ``tokens``.

    They are signed with a key that is derived from the issuer's, have their own type and audience, and live for
    ``lifetime`` seconds at most. No verifier accepts them as access tokens.
    """

    def __init__(self, tokens: TokenIssuer, lifetime: float) -> None:
        newest, *older = tokens.derived_keys(REFRESH_TYPE)
        self._lifetime = lifetime
        self._issuer = TokenIssuer(
            newest,
            # A service for another audience may share the secret, and a store; it must not refresh these sessions.
            [f"{REFRESH_AUDIENCE}:{audience}" for audience in tokens.audiences],
            tokens.issuer,
            access_lifetime=lifetime,
            old_keys=older,
            token_type=REFRESH_TYPE,
            name=tokens.name,
            clock=tokens.clock,
        )
        # The store decides when a session ends, and at a logout the age of the token does not matter.
        self._verifier = verifier_of(self._issuer)

    def mint(self, session: Session, now: float, session_now: float) -> str:
        """A refresh token for the current generation of ``session``.

        ``now`` is Unix time by our clock, ``session_now`` by the store's.
        """
        lifetime = max(1, int(min(self._lifetime, session.ends_at - session_now)))
        claims = {"sid": session.id, "gen": session.generation}
        return self._issuer.mint(session.subject, claims=claims, lifetime=lifetime, now=now)

    async def read(self, raw: str) -> PresentedToken:
        """Read the token in ``raw``, expired or not. Raises ``Refusal`` if it is not a refresh token of ours."""
        token = await self._verifier.verify(raw)
        generation, issued_at = token.claims.get("gen"), token.claims.get("iat")
        if token.session_id is None or type(generation) is not int or type(issued_at) is not int:
            raise InvalidClaim(claim="gen")
        return PresentedToken(token, token.session_id, generation, issued_at)


def verifier_of(tokens: TokenIssuer) -> Verifier:
    """The verifier of the tokens of ``tokens``, expired or not."""
    return Verifier(tokens.provider(leeway=NEVER), cache_size=0, clock=tokens.clock)
