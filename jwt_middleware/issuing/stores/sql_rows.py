"""How do sessions and revocations become rows of PostgreSQL, and rows become sessions? Pure."""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from ...revocation.revoked import Claim, Revocation
from ..rotation import Opening, Realm, Session


def escape(text: str) -> str:
    """``text`` as it stands in a JSON string, in ASCII: PostgreSQL takes no NUL, and no half of a surrogate pair."""
    return json.dumps(text)[1:-1]


def unescape(text: str) -> str:
    """The text that ``escape`` was given."""
    found: str = json.loads(f'"{text}"')
    return found


def realm_text(realm: Realm) -> str:
    """The text of a realm: a JSON array."""
    return json.dumps(realm)


def granted_text(opening: Opening) -> str:
    """What a session keeps as it was opened: a JSON object."""
    return json.dumps(
        {
            "subject": opening.subject,
            "scopes": opening.scopes,
            "claims": opening.claims,
            "device": opening.device,
        }
    )


def owner_of(realm: Realm, subject: str) -> bytes:
    """What the sessions of one subject have in common. A subject may be too long for an index."""
    return sha256(f"{realm_text(realm)} {escape(subject)}".encode()).digest()[:16]


def revocation_key(realm: Realm, claim: Claim, value: str) -> bytes:
    """What the revocations of one session or token have in common. The statements compute it for sessions, too."""
    return sha256(f"{realm_text(realm)} {claim} {escape(value)}".encode()).digest()


def lock_number(name: str, owner: bytes = b"") -> int:
    """The number of an advisory lock: of the tables called ``name``, or of one owner in them."""
    return int.from_bytes(sha256(name.encode() + b"\0" + owner).digest()[:8], signed=True)


def read_session(row: Any) -> Session:
    """The session in a row."""
    granted = json.loads(row.granted)
    return Session(
        id=unescape(row.id),
        realm=_read_realm(row.realm),
        subject=granted["subject"],
        generation=row.generation,
        parent=row.parent,
        is_used=row.is_used,
        opened_at=row.opened_at,
        rotated_at=row.rotated_at,
        used_at=row.used_at,
        ends_at=row.ends_at,
        expires_at=row.expires_at,
        access_until=row.access_until,
        scopes=tuple(granted["scopes"]),
        claims=granted["claims"],
        device=granted["device"],
    )


def read_ended(rows: Iterable[Any], realm: Realm) -> tuple[Revocation, ...]:
    """The revocations of sessions, from pairs of id and moment."""
    return tuple(Revocation(realm.provider, "sid", unescape(id), until, realm.issuer) for id, until in rows)


def read_revocation(row: Any) -> Revocation:
    """The revocation in a row of the log."""
    realm = _read_realm(row.realm)
    return Revocation(realm.provider, row.claim, unescape(row.value), row.until, realm.issuer)


def _read_realm(text: str) -> Realm:
    return Realm(*json.loads(text))
