"""Tables and functions of HTTP guests' sessions, a part of the first migration.

The tables are not logged: PostgreSQL empties them after a crash, never copies them to a standby,
and waits for no disk. So neither a crash nor a failover restores a challenge that was taken.

Each function locks the totals of a kind before it touches an entry, always in the same order, so
that callers never wait for each other in a circle. Counting rows instead would take time for each.
"""

from __future__ import annotations

from typing import Final, LiteralString

STATEMENTS: Final[tuple[LiteralString, ...]] = (
    """
    CREATE UNLOGGED TABLE verdictd.sessions (
        kind text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        content text NOT NULL,
        expires double precision NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
    "ALTER TABLE verdictd.sessions ALTER COLUMN content SET STORAGE EXTERNAL",
    "CREATE INDEX sessions_by_expiry ON verdictd.sessions (kind, expires)",
    """
    CREATE UNLOGGED TABLE verdictd.session_totals (
        kind text COLLATE "C" PRIMARY KEY,
        number bigint NOT NULL,
        size bigint NOT NULL
    ) WITH (fillfactor = 10)""",
    # Lock the totals of these kinds, in the order of their names; create them after a crash.
    """
    CREATE FUNCTION verdictd.session_lock(kinds text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = verdictd, pg_temp AS $$
    BEGIN
        INSERT INTO session_totals
            SELECT named.kind, 0, 0 FROM unnest(kinds) AS named (kind)
            WHERE NOT EXISTS (SELECT FROM session_totals t WHERE t.kind = named.kind)
            ON CONFLICT DO NOTHING;
        PERFORM FROM session_totals WHERE kind = ANY (kinds) ORDER BY kind FOR UPDATE;
    END $$""",
    # Correct the totals after entries were added or removed.
    """
    CREATE FUNCTION verdictd.session_count(which text, more bigint, bytes bigint) RETURNS void
    LANGUAGE sql SET search_path = verdictd, pg_temp AS $$
        UPDATE session_totals SET number = number + more, size = size + bytes
        WHERE kind = which AND (more <> 0 OR bytes <> 0)
    $$""",
    """
    CREATE FUNCTION verdictd.session_expire(
        which text, now double precision, ahead double precision
    ) RETURNS void LANGUAGE plpgsql
    SET search_path = verdictd, pg_temp SET enable_seqscan = off AS $$
    DECLARE old record; early record;
    BEGIN
        WITH gone AS (
            DELETE FROM sessions WHERE kind = which AND expires <= now
            RETURNING octet_length(content) AS bytes
        )
        SELECT count(*) AS number, coalesce(sum(bytes), 0) AS bytes INTO old FROM gone;
        WITH gone AS (
            DELETE FROM sessions WHERE kind = which AND expires > ahead
            RETURNING octet_length(content) AS bytes
        )
        SELECT count(*) AS number, coalesce(sum(bytes), 0) AS bytes INTO early FROM gone;
        PERFORM session_count(which, -old.number - early.number, -old.bytes - early.bytes);
    END $$""",
    # Remove the oldest entries until there are at most so many, with so many bytes.
    """
    CREATE FUNCTION verdictd.session_evict(which text, most bigint, bytes bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = verdictd, pg_temp SET enable_seqscan = off AS $$
    DECLARE total record; excess bigint; removed record;
    BEGIN
        LOOP
            SELECT number, size INTO total FROM session_totals WHERE kind = which;
            excess := greatest(total.number - most, CASE WHEN total.size > bytes THEN 1 ELSE 0 END);
            EXIT WHEN excess <= 0;
            WITH gone AS (
                DELETE FROM sessions WHERE kind = which AND name IN (
                    SELECT name FROM sessions WHERE kind = which ORDER BY expires LIMIT excess)
                RETURNING octet_length(content) AS bytes
            )
            SELECT count(*) AS number, coalesce(sum(gone.bytes), 0) AS bytes INTO removed FROM gone;
            IF removed.number = 0 THEN  -- another client changed the tables
                UPDATE session_totals SET number = 0, size = 0 WHERE kind = which;
                EXIT;
            END IF;
            PERFORM session_count(which, -removed.number, -removed.bytes);
        END LOOP;
    END $$""",
    """
    CREATE FUNCTION verdictd.session_store(
        which text, entry text, body text, until double precision, longer boolean
    ) RETURNS void LANGUAGE plpgsql SET search_path = verdictd, pg_temp AS $$
    DECLARE before bigint;
    BEGIN
        SELECT octet_length(content) INTO before FROM sessions WHERE kind = which AND name = entry;
        INSERT INTO sessions AS s VALUES (which, entry, body, until)
        ON CONFLICT (kind, name) DO UPDATE SET content = excluded.content, expires =
            CASE WHEN longer THEN greatest(s.expires, excluded.expires) ELSE excluded.expires END;
        PERFORM session_count(
            which, CASE WHEN before IS NULL THEN 1 ELSE 0 END,
            octet_length(body) - coalesce(before, 0));
    END $$""",
    """
    CREATE FUNCTION verdictd.put_session(
        which text, entry text, body text, now double precision, until double precision,
        ahead double precision, most_challenges bigint, most_sessions bigint, most_bytes bigint
    ) RETURNS void LANGUAGE plpgsql SET search_path = verdictd, pg_temp AS $$
    DECLARE huge CONSTANT bigint := 9223372036854775807; stored bigint;
    BEGIN
        PERFORM session_lock(ARRAY['challenge', 'token']);
        PERFORM session_expire(which, now, ahead);
        PERFORM session_store(which, entry, body, until, false);
        IF which = 'challenge' THEN
            PERFORM session_evict('challenge', most_challenges, huge);
            PERFORM session_expire('token', now, 'infinity');
        ELSE
            PERFORM session_evict('token', huge, most_bytes);
        END IF;
        SELECT number INTO stored FROM session_totals WHERE kind = 'token';
        PERFORM session_evict('challenge', greatest(most_sessions - stored, 0), huge);
        SELECT number INTO stored FROM session_totals WHERE kind = 'challenge';
        PERFORM session_evict('token', most_sessions - stored, huge);
    END $$""",
    """
    CREATE FUNCTION verdictd.put_claims(
        entry text, body text, now double precision, until double precision,
        ahead double precision, most_bytes bigint
    ) RETURNS void LANGUAGE plpgsql SET search_path = verdictd, pg_temp AS $$
    BEGIN
        PERFORM session_lock(ARRAY['claims']);
        PERFORM session_expire('claims', now, ahead);
        PERFORM session_store('claims', entry, body, until, true);
        PERFORM session_evict('claims', 9223372036854775807, most_bytes);
    END $$""",
    """
    CREATE FUNCTION verdictd.take_challenge(entry text, now double precision) RETURNS text
    LANGUAGE plpgsql SET search_path = verdictd, pg_temp AS $$
    DECLARE taken record;
    BEGIN
        PERFORM session_lock(ARRAY['challenge']);
        DELETE FROM sessions WHERE kind = 'challenge' AND name = entry
            RETURNING content, expires INTO taken;
        IF NOT FOUND THEN RETURN NULL; END IF;
        PERFORM session_count('challenge', -1, -octet_length(taken.content));
        IF taken.expires <= now THEN RETURN NULL; END IF;
        RETURN taken.content;
    END $$""",
)

RIGHTS: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("sessions", "SELECT, INSERT, UPDATE, DELETE"),
    ("session_totals", "SELECT, INSERT, UPDATE"),
)
