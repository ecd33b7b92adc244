"""What does a login or a refresh give, and how is a refresh refused? Pure."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Grant:
    """The result of a login or a refresh."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    """Seconds until the access token expires."""
    scopes: tuple[str, ...]
    session_id: str
    refresh_expires_in: int
    """Seconds until the session ends unless it is refreshed before then."""


class InvalidGrant(Exception):
    """RFC 6749 5.2, ``invalid_grant``: the refresh token is invalid, expired or revoked. ``reason`` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid_grant: {reason}")
        self.reason = reason
