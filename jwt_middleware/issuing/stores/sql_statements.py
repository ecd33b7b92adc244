"""What does each step of a store say to PostgreSQL? One statement a step. Pure.

Each statement is atomic by itself, under READ COMMITTED. Six rules make it so:

1. A statement locks the sessions that it changes, in the order of their ids, before it reads the clock. It sees what
   the transactions that it waited for have written, and no moment is older than the lock.
2. The clock is ``clock_timestamp()``: ``now()`` is the start of the transaction, which may have waited since then.
3. Whoever writes revocations first updates the row of ``head``, which counts them, and so holds its lock until the
   commit. Numbers become visible in their order, so a reader that is past a number has missed none before it.
4. ``head`` is locked after sessions. So no two steps wait for each other.
5. Without the row of ``head``, nothing is changed, and no row is returned.
6. Each step that writes has a mark, a random text. A step that is sent again because its connection broke finds its
   mark, and gives the same answer as the first time.
"""

from dataclasses import dataclass

from ...revocation.revoked import RETENTION
from ..session_store import SESSION_RETENTION
from ..steady import SET_BACK, UNKNOWN

LAYOUT = 1
"""The layout of the tables that this code makes."""

SWEEP = 200
"""How many rows of each table that are over are removed in one step."""

MARK = 16
"""How many characters a mark has."""

DAY = 24 * 3600

SESSION = (
    "id, realm, granted, generation, parent, is_used, opened_at, rotated_at, used_at, ends_at, expires_at, access_until"
)
"""The columns of a session that are read."""

NOW = "CAST(extract(epoch FROM clock_timestamp()) AS float8)"


@dataclass(frozen=True, slots=True)
class Names:
    """What the tables are called: ``prefix`` begins their names, and ``schema`` is where they are, if it is named."""

    schema: str | None
    prefix: str

    def of(self, table: str) -> str:
        """The name of ``table`` in a statement."""
        place = "" if self.schema is None else f'"{self.schema}".'
        return f'{place}"{self.prefix}{table}"'


class Statements:
    """The statements of a store whose tables go by ``names``."""

    def __init__(self, names: Names) -> None:
        sessions, revocations, head = map(names.of, ("sessions", "revocations", "head"))
        self.check = f"""
            SELECT layout, oldest, current_setting('default_transaction_isolation') AS isolation
            FROM (SELECT) AS always LEFT JOIN {head} ON id = 1"""
        self.begin = f"""
            INSERT INTO {head} (id, layout, oldest, number, mark, seen, shift)
            SELECT 1, {LAYOUT}, {LAYOUT}, coalesce(max(number), 0), :mark, 0, 0 FROM {revocations}
            ON CONFLICT DO NOTHING"""
        self.lock = "SELECT pg_advisory_xact_lock(CAST(:number AS bigint))"
        self.read = f"""
            SELECT now, found.* FROM (SELECT {NOW} AS now) AS moment
            LEFT JOIN (
                SELECT {SESSION} FROM {sessions} WHERE id = :id AND realm = :realm
            ) AS found ON now < expires_at"""
        self.sessions = f"""
            SELECT {SESSION} FROM {sessions} CROSS JOIN (SELECT {NOW} AS now OFFSET 0) AS moment
            WHERE owner = :owner AND realm = :realm AND now < expires_at ORDER BY used_at DESC, id"""
        self.open = _open(sessions, revocations, head)
        self.rotate = _rotate(sessions, revocations, head)
        self.revoke = _revoke(sessions, revocations, head)
        self.revoke_subject = f"""
            WITH locked AS MATERIALIZED (
                SELECT id FROM {sessions} WHERE owner = :owner AND realm = :realm AND expires_at > {NOW}
                AND EXISTS (SELECT FROM {head} WHERE id = 1) ORDER BY id FOR UPDATE
            ), ended AS (
                DELETE FROM {sessions} AS s USING locked
                WHERE s.owner = :owner AND s.id = locked.id RETURNING s.id, s.realm, s.access_until
            ), advanced AS (
                UPDATE {head} AS h SET number = number + count, mark = :mark
                FROM (SELECT count(*) AS count FROM ended) AS counted WHERE h.id = 1 AND count > 0 RETURNING number
            ), {_logged(revocations)}
            SELECT value, until FROM {head} LEFT JOIN logged ON true WHERE id = 1"""
        self.revocations = f"""
            SELECT h.oldest, h.number AS last, h.mark AS last_mark, now, r.*
            FROM {head} AS h CROSS JOIN (SELECT {NOW} AS now OFFSET 0) AS moment LEFT JOIN LATERAL (
                SELECT number, mark, realm, claim, value, until FROM {revocations}
                WHERE until > now AND number > CASE
                    WHEN h.number = CAST(:number AS bigint) AND h.mark = :mark THEN h.number
                    WHEN EXISTS (SELECT FROM {revocations} WHERE number = CAST(:number AS bigint) AND mark = :mark)
                    THEN CAST(:number AS bigint) ELSE 0 END
                ORDER BY number LIMIT CAST(:limit AS bigint)
            ) AS r ON true WHERE h.id = 1 ORDER BY r.number"""
        # Without waiting: a row that another step has locked is left for the next time.
        self.sweep = (
            f"""
            DELETE FROM {sessions} WHERE id IN (
                SELECT id FROM {sessions}
                WHERE over_day < (SELECT CAST(floor(({NOW} - {SESSION_RETENTION}) / {DAY}) AS integer))
                LIMIT {SWEEP} FOR UPDATE SKIP LOCKED) RETURNING true""",
            f"""
            DELETE FROM {revocations} WHERE key IN (
                SELECT key FROM {revocations} WHERE until <= (SELECT {NOW})
                LIMIT {SWEEP} FOR UPDATE SKIP LOCKED) RETURNING true""",
        )


def _open(sessions: str, revocations: str, head: str) -> str:
    # The owner's lock is held: no other session of the same subject is opened meanwhile.
    return f"""
        WITH before AS MATERIALIZED (
            SELECT {SESSION} FROM {sessions} WHERE id = :id
        ), others AS MATERIALIZED (
            SELECT id FROM {sessions} WHERE owner = :owner AND realm = :realm AND expires_at > {NOW}
            AND NOT EXISTS (SELECT FROM before) ORDER BY used_at DESC, id OFFSET CAST(:keep AS bigint)
        ), locked AS MATERIALIZED (
            SELECT id FROM {sessions} WHERE owner = :owner AND id IN (SELECT id FROM others) ORDER BY id FOR UPDATE
        ), ended AS (
            DELETE FROM {sessions} AS s USING locked
            WHERE s.owner = :owner AND s.id = locked.id RETURNING s.id, s.realm, s.access_until
        ), counted AS MATERIALIZED (
            SELECT count(*) AS count FROM ended
        ), moment AS MATERIALIZED (
            SELECT {NOW} AS now, CAST(NULL AS float8) AS used_at, CAST(NULL AS float8) AS rotated_at FROM counted
        ), {_steady(head)}, {_advanced(head)}, {_logged(revocations)}, moments AS MATERIALIZED (
            SELECT now, steady, now + CAST(:session_lifetime AS float8) AS ends_at,
                least(now + CAST(:idle_lifetime AS float8), now + CAST(:session_lifetime AS float8)) AS expires_at
            FROM steady WHERE NOT EXISTS (SELECT FROM before)
        ), opened AS (
            INSERT INTO {sessions} (layout, owner, over_day, attempt, {SESSION})
            SELECT {LAYOUT}, :owner, {_day("expires_at")}, '', :id, :realm, :granted, 1, NULL, false, now, steady, now,
                ends_at, expires_at, now + CAST(:access_lifetime AS float8)
            FROM moments RETURNING {SESSION}
        ), result AS (
            SELECT * FROM before UNION ALL SELECT * FROM opened
        )
        SELECT result.*, (SELECT CAST(json_agg(json_build_array(value, until)) AS text) FROM logged) AS evicted
        FROM result"""


def _rotate(sessions: str, revocations: str, head: str) -> str:
    # The same as rotation.rotate, whose numbers the outcomes have.
    return f"""
        WITH locked AS MATERIALIZED (
            SELECT {SESSION}, attempt FROM {sessions} WHERE id = :id AND realm = :realm FOR UPDATE
        ), moment AS MATERIALIZED (
            SELECT {NOW} AS now, used_at, rotated_at
            FROM (SELECT max(used_at) AS used_at, max(rotated_at) AS rotated_at FROM locked) AS waited
        ), {_steady(head)}, judged AS MATERIALIZED (
            SELECT locked.*, now, steady, CASE
                WHEN left(attempt, {MARK}) = CAST(:mark AS text) THEN substr(attempt, {MARK} + 1)
                WHEN now > CAST(:deadline AS float8) THEN 'late'
                WHEN now >= expires_at THEN 'gone'
                WHEN presented > generation THEN 'ahead'
                WHEN presented = generation AND is_graced THEN 'again'
                WHEN presented = generation THEN 'next'
                WHEN presented = parent AND is_graced THEN 'again'
                WHEN presented = parent AND CAST(:reuse AS boolean) AND NOT is_used THEN 'reissued'
                ELSE 'theft' END AS outcome,
                left(attempt, {MARK}) <> CAST(:mark AS text) AS is_new, presented
            FROM locked CROSS JOIN steady CROSS JOIN LATERAL (
                SELECT CAST(:presented AS bigint) AS presented,
                    steady >= rotated_at AND steady - rotated_at < CAST(:grace AS float8) AS is_graced) AS asked
        ), moved AS MATERIALIZED (
            SELECT id, realm, granted, CASE outcome
                    WHEN 'ahead' THEN presented + 1 WHEN 'again' THEN generation ELSE generation + 1 END AS generation,
                CASE outcome WHEN 'ahead' THEN presented WHEN 'next' THEN generation ELSE parent END AS parent,
                CASE WHEN outcome IN ('ahead', 'next') THEN false
                    WHEN outcome = 'again' AND presented = generation THEN true ELSE is_used END AS is_used,
                opened_at, CASE outcome WHEN 'again' THEN rotated_at ELSE steady END AS rotated_at, now AS used_at,
                ends_at, least(now + CAST(:idle_lifetime AS float8), ends_at) AS expires_at,
                greatest(access_until, now + CAST(:access_lifetime AS float8)) AS access_until, outcome
            FROM judged WHERE is_new AND outcome IN ('ahead', 'again', 'next', 'reissued')
        ), updated AS (
            UPDATE {sessions} AS s SET layout = {LAYOUT}, generation = m.generation, parent = m.parent,
                is_used = m.is_used, rotated_at = m.rotated_at, used_at = m.used_at, expires_at = m.expires_at,
                access_until = m.access_until, over_day = {_day("m.expires_at")},
                attempt = CAST(:mark AS text) || m.outcome
            FROM moved AS m WHERE s.id = :id
        ), ended AS (
            DELETE FROM {sessions} AS s USING judged WHERE s.id = :id AND outcome = 'theft'
            RETURNING s.id, s.realm, s.access_until
        ), counted AS MATERIALIZED (
            SELECT count(*) AS count FROM ended
        ), {_advanced(head)}, {_logged(revocations)}, result AS (
            SELECT outcome, {SESSION} FROM moved
            UNION ALL SELECT outcome, {SESSION} FROM judged WHERE NOT EXISTS (SELECT FROM moved)
        )
        SELECT now, result.*, result.id IS NULL AND EXISTS (
            SELECT FROM {revocations} WHERE key = :key AND mark = :mark) AS is_theft
        FROM steady LEFT JOIN result ON true"""


def _revoke(sessions: str, revocations: str, head: str) -> str:
    return f"""
        WITH locked AS MATERIALIZED (
            SELECT id, realm, access_until FROM {sessions}
            WHERE id = :value AND realm = :realm AND CAST(:claim AS text) = 'sid'
            AND EXISTS (SELECT FROM {head} WHERE id = 1) FOR UPDATE
        ), moment AS MATERIALIZED (
            SELECT {NOW} AS now, access_until FROM (SELECT max(access_until) AS access_until FROM locked) AS waited
        ), wanted AS MATERIALIZED (
            SELECT now, access_until IS NOT NULL AS is_known,
                coalesce(access_until, now + CAST(:lifetime AS float8)) + {RETENTION} AS until
            FROM moment
        ), before AS MATERIALIZED (
            SELECT b.until FROM {revocations} AS b CROSS JOIN wanted AS w WHERE key = :key AND
                (b.until >= w.until OR (CAST(:claim AS text) = 'sid' AND NOT is_known AND b.until > now))
        ), deleted AS (
            DELETE FROM {sessions} AS s USING locked WHERE s.id = :value AND s.id = locked.id
        ), advanced AS (
            UPDATE {head} AS h SET number = number + 1, mark = :mark
            FROM wanted WHERE h.id = 1 AND NOT EXISTS (SELECT FROM before) RETURNING number
        ), logged AS (
            INSERT INTO {revocations} AS r (key, number, mark, realm, claim, value, until)
            SELECT :key, number, :mark, :realm, :claim, :value, until FROM advanced CROSS JOIN wanted
            {_replace("r")} RETURNING until
        )
        SELECT until FROM before UNION ALL SELECT until FROM logged"""


def _steady(head: str) -> str:
    """Steady time at ``moment``; see ``SteadyTime``. The row itself has seen ``used_at``.

    If steady time is already past that of the row, it has jumped since then. Then the row does not count: otherwise,
    each session that was used before the clock was set back would make it jump again.
    """
    return f"""backward AS MATERIALIZED (
            SELECT now, shift, greatest(0, seen - now, CAST(:latest AS float8) - now,
                least(used_at, rotated_at - shift) - now) AS back
            FROM moment CROSS JOIN {head} AS h WHERE h.id = 1
        ), steady AS MATERIALIZED (
            SELECT now, back, now + shifted AS steady, shifted FROM (
                SELECT now, back, shift + back + CASE WHEN back > {SET_BACK} THEN {UNKNOWN} ELSE 0 END AS shifted
                FROM backward) AS added
        )"""


def _advanced(head: str) -> str:
    """Count the revocations of ``ended``. About once a second, write how far time has come."""
    return f"""advanced AS (
            UPDATE {head} AS h SET number = number + count, mark = CASE WHEN count > 0 THEN :mark ELSE mark END,
                seen = now, shift = greatest(shift, shifted)
            FROM steady CROSS JOIN counted
            WHERE h.id = 1 AND (count > 0 OR back > 0 OR seen < now - 1) RETURNING number
        )"""


def _logged(revocations: str) -> str:
    """Write the revocations of ``ended``, whose numbers end with that of ``advanced``."""
    return f"""logged AS (
            INSERT INTO {revocations} AS r (key, number, mark, realm, claim, value, until)
            SELECT sha256(convert_to(realm || ' sid ' || id, 'UTF8')),
                number + 1 - row_number() OVER (ORDER BY id DESC), :mark, realm, 'sid', id, access_until + {RETENTION}
            FROM ended CROSS JOIN advanced {_replace("r")} RETURNING value, until
        )"""


def _replace(table: str) -> str:
    # With a new number: a reader that is past the old one would not see that the revocation lasts longer.
    return (
        "ON CONFLICT (key) DO UPDATE SET number = excluded.number, mark = excluded.mark, "
        f"until = greatest({table}.until, excluded.until)"
    )


def _day(moment: str) -> str:
    return f"CAST(floor({moment} / {DAY}) AS integer)"
