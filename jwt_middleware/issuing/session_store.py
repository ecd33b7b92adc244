"""What does a store of sessions do? The protocol that ``Sessions`` needs."""

from collections.abc import Sequence
from typing import Protocol

from ..revocation.log import RevocationLog
from ..revocation.revoked import Revocation
from .rotation import Opening, Outcome, Realm, RevocationRequest, Rotation, Session

SESSION_RETENTION = 24 * 3600
"""Seconds for which a session that has ended is kept: a clock that jumps ahead by a day must not delete live ones."""


class SessionStore(RevocationLog, Protocol):
    """Where sessions and revocations are kept. Each method is atomic.

    All moments are by one clock that all processes of the store share: the store's, which is never the caller's.
    Sessions and revocations that are over are removed automatically.

    Methods raise ``StoreUnavailable`` if they cannot do their work. They may be cancelled at any moment; the work may
    then be done or not. Authors of stores find the rules in ``jwt_middleware.issuing.testing.StoreContract``.
    """

    async def open(self, opening: Opening, *, max_sessions: int) -> tuple[Session, Sequence[Revocation]]:
        """Begin a session.

        If the subject has ``max_sessions`` already, its least recently used ones end; their revocations are returned
        as well. Opening the same ``id`` twice gives the session of the first time.
        """
        ...

    async def read(self, id: str, realm: Realm) -> tuple[Session | None, float]:
        """The session, unless it has ended or belongs to another realm, and the store's time."""
        ...

    async def rotate(self, rotation: Rotation) -> tuple[Outcome, Session | None]:
        """Do what ``rotation.rotate`` says; on ``THEFT``, revoke the session.

        Returns the session as it is now, or, on ``THEFT``, as it was.
        """
        ...

    async def revoke(self, request: RevocationRequest) -> Revocation:
        """Write a revocation, and end the session that it is about. Returns the revocation in force now.

        If the store knows the session, ``Session.revoke`` says for how long it is revoked. Nothing is written if the
        same is already revoked for as long. For a session that the store does not know, a revocation of any length is
        enough: the session has got no token since then.
        """
        ...

    async def revoke_subject(self, subject: str, realm: Realm) -> Sequence[Revocation]:
        """End all sessions of ``subject``, with a revocation for each."""
        ...

    async def sessions(self, subject: str, realm: Realm) -> Sequence[Session]:
        """The sessions of ``subject`` that have not ended, most recently used first."""
        ...

    async def aclose(self) -> None:
        """Close what is open on this event loop. The next step opens it again."""
        ...
